"""A benchmark package: a frozen part of a split and its baselines, publishable without text or audio.

It holds ids, hashes, lengths and error counts per utterance. Whoever has the corpus decodes the same utterances
with another system and is measured on the same standard, differences to every baseline included; whoever has not
can still recompute every rate, interval and comparison of the baselines. Layout::

    package.json        identity of split and references, versions, columns, scores of the baselines
    systems/<name>.csv  one line per utterance: ids, groups, times, counts
"""

import dataclasses
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kmed_bench.config import EvalConfig
from kmed_bench.core.errors import KmedError
from kmed_bench.core.files import read_json, write_json, write_text_atomically
from kmed_bench.core.predictions import Prediction
from kmed_bench.scoring.compare import compare_counts, holm
from kmed_bench.scoring.groups import score_counts
from kmed_bench.scoring.measures import COUNT_COLUMNS, ID_COLUMNS, TIME_COLUMNS, count_utterances, versions
from kmed_bench.text.marks import Policy, resolve_marks
from kmed_bench.text.normalise import normalise

FORMAT = 2
COLUMNS = (*ID_COLUMNS, *TIME_COLUMNS, "excluded", *COUNT_COLUMNS)
_SPLIT_KEYS = ("sha256", "counts", "shares", "max_share_deviation", "leakage", "discarded")
"""What of split.json is published; anything else, a path for instance, stays at home."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A benchmark package as read back, its hashes checked.

    Attributes
    ----------
    head : dict
        Content of package.json.
    systems : dict
        Baseline to its table of ``count_utterances``.
    """

    head: dict[str, Any]
    systems: dict[str, pd.DataFrame]

    @property
    def policy(self) -> Policy:
        """Side of the dual notation that the baselines were scored on."""
        policy: Policy = self.head["transcript_policy"]
        return policy


def write_package(
    folder: Path,
    split_report: Mapping[str, Any],
    part: str,
    systems: Mapping[str, Sequence[Prediction]],
    config: EvalConfig,
) -> Path:
    """Return the path of ``package.json``, written with one CSV per system.

    Parameters
    ----------
    split_report : mapping
        Content of split.json.
    part : str
        Which part the utterances are: train, valid or test.
    systems : mapping
        Baseline to its predictions; names become file names.

    Raises
    ------
    KmedError
        When there is no system, a name is unfit for a file, the systems' utterances or references differ, or the
        part has another number of utterances than the split report says.
    """
    said = _check_systems(split_report, part, systems, config.policy)
    files, scores = {}, {}
    for name, predictions in systems.items():
        counts = count_utterances(predictions, config.policy).sort_values("utterance_id")
        text = counts[list(COLUMNS)].to_csv(index=False, lineterminator="\n")
        write_text_atomically(folder / _csv(name), text)
        files[name] = hashlib.sha256(text.encode()).hexdigest()
        scores[name] = score_counts(counts, config, split_sha256=split_report["sha256"])
    head = {
        "format": FORMAT,
        "part": part,
        "n_utterances": split_report["counts"][part],
        "references_sha256": said,
        "transcript_policy": config.policy,
        **versions(),
        "split": {key: split_report[key] for key in _SPLIT_KEYS if key in split_report},
        "columns": list(COLUMNS),
        "files_sha256": files,
        "scores": scores,
    }
    write_json(folder / "package.json", head)
    return folder / "package.json"


def _check_systems(
    split_report: Mapping[str, Any], part: str, systems: Mapping[str, Sequence[Prediction]], policy: Policy
) -> str:
    """Return the hash of the references that all systems share."""
    if not systems:
        raise KmedError("A benchmark package needs the predictions of at least one baseline; none was given.")
    for name in systems:
        if not _NAME.fullmatch(name):
            raise KmedError(f"{name!r} cannot name a baseline; use up to 64 Latin letters, digits, '.', '_' and '-'.")
    hashes = {name: hash_references(predictions, policy) for name, predictions in systems.items()}
    first = next(iter(systems))
    for name, said in hashes.items():
        if said != hashes[first]:
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
    """Return a package whose files are what its head says.

    Raises
    ------
    KmedError
        When a file is missing, differs from its hash, or has another format or other versions than this program.
    """
    head = read_json(folder / "package.json")
    if head.get("format") != FORMAT:
        raise KmedError(f"{folder} has package format {head.get('format')!r}; this program reads format {FORMAT}.")
    for key, version in versions().items():
        if head.get(key) != version:
            raise KmedError(
                f"{folder} was made with {key} {head.get(key)!r}, this program has {version!r}; its counts cannot be "
                "set beside new ones. Install the release that made it, or make the package anew."
            )
    return Package(head=head, systems={name: _read_counts(folder, name, sha) for name, sha in _files(head).items()})


def _files(head: Mapping[str, Any]) -> dict[str, str]:
    files: dict[str, str] = head["files_sha256"]
    unfit = [name for name in files if not _NAME.fullmatch(name)]
    if unfit:
        raise KmedError(f"package.json names a baseline {unfit[0]!r}, which is no file name; fetch the package anew.")
    return files


def _read_counts(folder: Path, name: str, sha256: str) -> pd.DataFrame:
    path = folder / _csv(name)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise KmedError(f"{path} is missing from the package; fetch the package anew.") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise KmedError(f"{path} is not what package.json says (SHA-256 {sha256}); fetch the package anew.")
    texts = dict.fromkeys((*ID_COLUMNS, "excluded"), str)
    return pd.read_csv(io.BytesIO(raw), dtype=texts, keep_default_na=False)


def score_against(package: Package, predictions: Sequence[Prediction], config: EvalConfig) -> dict[str, Any]:
    """Return a new system's scores and its comparison with every baseline of the package.

    ``scores`` is that of ``score_predictions`` under the package's transcript policy; ``comparisons`` has one entry
    per baseline with ``baseline``, the keys of ``compare_predictions`` (the baseline is ``a``) and ``p_holm``,
    corrected over the baselines.

    Raises
    ------
    KmedError
        When the system did not decode the package's utterances, all of them, or has other references.
    """
    config = dataclasses.replace(config, policy=package.policy)
    _check_utterances(package, predictions)
    if hash_references(predictions, config.policy) != package.head["references_sha256"]:
        raise KmedError(
            "The references or speakers of these predictions are not those of the package (SHA-256 "
            f"{package.head['references_sha256']}); take them from the same release of the corpus, as written."
        )
    counts = count_utterances(predictions, config.policy)
    found = {name: compare_counts(table, counts, config) for name, table in package.systems.items()}
    corrected = holm([comparison["p_value"] for comparison in found.values()])
    return {
        "scores": score_counts(counts, config, split_sha256=package.head["split"]["sha256"]),
        "comparisons": [
            {"baseline": name, **comparison, "p_holm": p}
            for (name, comparison), p in zip(found.items(), corrected, strict=True)
        ],
    }


def _check_utterances(package: Package, predictions: Sequence[Prediction]) -> None:
    wanted = set(next(iter(package.systems.values()))["utterance_id"])
    given = {p.utterance_id for p in predictions}
    if wanted != given:
        raise KmedError(
            f"The predictions lack {len(wanted - given)} of the package's {len(wanted)} utterances and have "
            f"{len(given - wanted)} others, such as {min(wanted ^ given)!r}; decode the package's part as a whole."
        )


def _csv(name: str) -> Path:
    return Path("systems") / f"{name}.csv"
