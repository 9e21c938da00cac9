"""A benchmark package: a frozen part of a split and its baselines, publishable without text or audio.

It holds ids, hashes, lengths and error counts per utterance. With the corpus, another system can be decoded on the
same utterances and compared with every baseline (`baselines.compare_with`); without it, every rate, interval and
comparison of the baselines can still be recomputed. Layout::

    package.json        identity of split and references, versions, columns, scores of the baselines
    systems/<name>.csv  one line per utterance: ids, groups, times, counts
"""

import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pandas as pd

from kmed_bench.core.contracts import PACKAGE, PackageHead
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import write_json, write_text_atomically
from kmed_bench.core.predictions import Prediction
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.measures import (
    COUNT_COLUMNS,
    ID_COLUMNS,
    SENTENCE,
    TIME_COLUMNS,
    count_perfect,
    count_utterances,
    versions,
)
from kmed_bench.scoring.options import ScoringOptions
from kmed_bench.scoring.suppression import without_small_groups
from kmed_bench.text.marks import Policy, resolve_marks
from kmed_bench.text.normalise import normalise

HEAD_NAME = "package.json"
_PERFECT = "perfect"
_UNREAD = "numbers_unread"
COLUMNS = (*ID_COLUMNS, *TIME_COLUMNS, "excluded", "code_switching", *COUNT_COLUMNS, SENTENCE)
_SPLIT_KEYS = ("sha256", "counts", "shares", "max_share_deviation", "leakage", "discarded")
"""Keys of split.json that are published; others may hold paths."""
_OF_GROUPS = ("shares", "max_share_deviation")
"""Those that state groups' shares, or may."""
_MAX_COUNT = 1e9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A benchmark package as read from its folder, its hashes checked.

    Attributes
    ----------
    head : dict
        Content of package.json.
    systems : dict
        Baseline to its table of ``count_utterances``.
    """

    head: PackageHead
    systems: dict[str, pd.DataFrame]

    @property
    def policy(self) -> Policy:
        """Side of the dual notation that the baselines were scored on."""
        return cast(Policy, self.head["transcript_policy"])


def write_package(
    folder: Path,
    split_report: Mapping[str, Any],
    part: str,
    systems: Mapping[str, Sequence[Prediction]],
    options: ScoringOptions,
    *,
    made_of: str = "",
) -> Path:
    """Write a package and return the path of its ``package.json``; one CSV per system is written beside it.

    Parameters
    ----------
    split_report : mapping
        Content of split.json.
    part : str
        Which part the utterances are: train, valid or test.
    systems : mapping
        Baseline to its predictions; names become file names.
    made_of : str
        Digest by which the same command finds the package again.

    Raises
    ------
    KmedError
        When there is no system, a name is unfit for a file, the systems' utterances or references differ, or the
        part has another number of utterances than the split report says.
    """
    references_sha256 = _check_systems(split_report, part, systems, options.transcript_side)
    files, scores = {}, {}
    for name, predictions in systems.items():
        counts = count_utterances(predictions, options.transcript_side).sort_values("utterance_id")
        text = counts[list(COLUMNS)].to_csv(index=False, lineterminator="\n")
        write_text_atomically(folder / _csv(name), text)
        files[name] = hashlib.sha256(text.encode()).hexdigest()
        scores[name] = score_counts(counts, options, split_sha256=split_report["sha256"])
    head: PackageHead = {
        **PACKAGE.head,
        "part": part,
        "n_utterances": split_report["counts"][part],
        "references_sha256": references_sha256,
        "transcript_policy": options.transcript_side,
        **versions(),
        "split": {key: split_report[key] for key in _SPLIT_KEYS if key in split_report},
        "columns": list(COLUMNS),
        "files_sha256": files,
        "scores": scores,
        "made_of": made_of,
    }
    write_json(folder / HEAD_NAME, head)
    return folder / HEAD_NAME


def _check_systems(
    split_report: Mapping[str, Any], part: str, systems: Mapping[str, Sequence[Prediction]], policy: Policy
) -> str:
    """Return the hash of the references that all systems share."""
    if not systems:
        raise KmedError("A benchmark package needs the predictions of at least one baseline; none was given.")
    for name in systems:
        if not _NAME.fullmatch(name):
            raise KmedError(
                f"{name!r:.80} cannot name a baseline; use up to 64 Latin letters, digits, '.', '_' and '-'."
            )
    hashes = {name: hash_references(predictions, policy) for name, predictions in systems.items()}
    first = next(iter(systems))
    for name, sha256 in hashes.items():
        if sha256 != hashes[first]:
            raise KmedError(f"Baselines {first} and {name} differ in utterances or references; decode the same part.")
    expected = split_report["counts"].get(part)
    if expected != len(systems[first]):
        raise KmedError(
            f"The split report says that {part} has {expected} utterances, and {first} predicts {len(systems[first])}; "
            f"decode the whole of {part} of that split."
        )
    return hashes[first]


def hash_references(predictions: Sequence[Prediction], policy: Policy) -> str:
    """Return one SHA-256 of all utterance ids with their references as scored, in the order of the ids.

    One hash of the whole part: a hash per utterance would give short sentences away to whoever guesses them.
    """
    digest = hashlib.sha256()
    for prediction in sorted(predictions, key=lambda p: p.utterance_id):
        text = normalise(resolve_marks(prediction.reference, policy), keep_spaces=True)
        digest.update(f"{prediction.utterance_id}\t{prediction.speaker_id}\t{text}\n".encode())
    return digest.hexdigest()


def read_package(folder: Path) -> Package:
    """Return the package in a folder, its files checked against the hashes in its head.

    Raises
    ------
    KmedError
        When a file is missing, differs from its hash, or was made by a release with other rules.
    """
    head = PACKAGE.read(folder / HEAD_NAME)
    for key, version in versions().items():
        if head.get(key) != version:
            raise KmedError(
                f"{folder} was made with {key} {head.get(key)!r:.80}, this program has {version!r}; its counts cannot "
                "be compared with new ones. Install the release that made it, or make the package again."
            )
    # Packages of version 3 do not number their sentences; the system compared with them does. Those of 4 and before
    # do not count clips without an error, which follow from the rest, nor numbers that no rule reads, which no rate
    # needs.
    if differing := sorted({*head["columns"], SENTENCE, _PERFECT, _UNREAD} ^ {*COLUMNS}):
        raise KmedError(
            f"{folder} and this program differ in the counts {', '.join(differing)[:300]}; install the release that "
            f"made the package, or {PACKAGE.remedy}."
        )
    return Package(head=head, systems={name: _read_counts(folder, name, sha) for name, sha in _files(head).items()})


def _files(head: PackageHead) -> dict[str, str]:
    files = head["files_sha256"]
    unfit = [name for name in files if not _NAME.fullmatch(name)]
    if unfit:
        raise KmedError(
            f"package.json names a baseline {unfit[0]!r:.80}, which is no file name; fetch the package again."
        )
    return files


def _read_counts(folder: Path, name: str, sha256: str) -> pd.DataFrame:
    path = folder / _csv(name)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise KmedError(f"{path} is missing from the package; fetch the package again.") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise KmedError(f"{path} is not what package.json says (SHA-256 {sha256}); fetch the package again.")
    counts = _parse_counts(raw, path)
    return counts if _PERFECT in counts else counts.assign(**{_PERFECT: count_perfect(counts)})


def _parse_counts(raw: bytes, path: Path) -> pd.DataFrame:
    """Return a baseline's table; a right hash only says that whoever wrote package.json wrote this as well."""
    texts = dict.fromkeys((*ID_COLUMNS, "excluded", "code_switching"), str)
    optional = (SENTENCE, _PERFECT, _UNREAD)
    numbers = [name for name in (*TIME_COLUMNS, *COUNT_COLUMNS) if name not in texts]
    try:
        counts = pd.read_csv(io.BytesIO(raw), dtype=texts, keep_default_na=False)
    except (ValueError, OverflowError) as error:  # of pandas' parser and of UTF-8; no comma where one must be
        raise KmedError(f"{path} is not a table in CSV ({' '.join(str(error).split())}); {PACKAGE.remedy}.") from None
    for name in COLUMNS:
        if name not in counts and name not in optional:
            raise KmedError(f"{path} lacks the column {name!r:.80}; {PACKAGE.remedy}.")
    for name in [name for name in numbers if name in counts]:
        values = pd.to_numeric(counts[name], errors="coerce")
        if len(wrong := counts[name][~values.between(0, _MAX_COUNT)]):
            line = 2 + list(counts.index).index(wrong.index[0])
            raise KmedError(
                f"{path}, line {line} has {name} {wrong.tolist()[0]!r:.80}, which is no number from 0 to "
                f"{_MAX_COUNT:g}; {PACKAGE.remedy}."
            )
    if counts["utterance_id"].duplicated().any():
        raise KmedError(f"{path} has an utterance twice; {PACKAGE.remedy}.")
    return counts


def _csv(name: str) -> Path:
    return Path("systems") / f"{name}.csv"


def write_pseudonymous(package: Package, folder: Path, rename: Callable[[str, str], str], minimum: int) -> list[Path]:
    """Write a package whose ids are pseudonyms, and that says of no utterance which groups its speaker is in.

    Parameters
    ----------
    rename : callable
        Kind (utterance, speaker, sentence) and name to the pseudonym.
    minimum : int
        Fewest speakers of a group in the baselines' scores.

    Returns
    -------
    list of Path
        The files, the head last.
    """
    files, paths = {}, []
    for name, counts in package.systems.items():
        shown = counts.copy()
        for column, kind in (("utterance_id", "utterance"), ("speaker_id", "speaker"), (SENTENCE, "sentence")):
            if column in shown:
                shown[column] = [rename(kind, str(value)) for value in shown[column]]
        for column in (*GROUP_FIELDS, "region"):
            if column in shown:
                shown[column] = ""
        text = shown.sort_values("utterance_id").to_csv(index=False, lineterminator="\n")
        write_text_atomically(folder / _csv(name), text)
        files[name] = hashlib.sha256(text.encode()).hexdigest()
        paths.append(folder / _csv(name))
    scores = {name: without_small_groups(value, minimum)[0] for name, value in package.head["scores"].items()}
    split = {key: value for key, value in package.head["split"].items() if key not in _OF_GROUPS}
    write_json(folder / HEAD_NAME, {**package.head, "files_sha256": files, "scores": scores, "split": split})
    return [*paths, folder / HEAD_NAME]
