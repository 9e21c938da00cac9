"""Options of commands that take any system's predictions, and the reading of them."""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.core.errors import KmedError
from kmed_bench.core.schema import PARTS

if TYPE_CHECKING:
    from kmed_bench.core.contracts import JoinedReferences
    from kmed_bench.core.predictions import Prediction
    from kmed_bench.corpus.splitting.split import Split
    from kmed_bench.scoring.external_files import External, Reading
    from kmed_bench.scoring.external_predictions import Joined

log = logging.getLogger(__name__)

KINDS = (
    "predictions.jsonl of evaluate; or of any other system CSV, TSV, JSON lines, Excel, a JSON file of Whisper, Azure, "
    "Google, CLOVA Speech or daglo, SRT, VTT, or a folder with one such file a clip"
)


def add_references(parser: argparse.ArgumentParser) -> None:
    """Add where references come from, and how other systems' files are read."""
    parser.add_argument(
        "--split",
        "--references",
        type=Path,
        dest="split",
        metavar="SPLIT",
        help="take references and speakers from it: a folder that `split` wrote, or a manifest, all of it; "
        "predictions then need ids and hypotheses only",
    )
    parser.add_argument("--part", choices=PARTS, default="test", help="part of the split (test)")
    parser.add_argument(
        "--missing",
        choices=("refuse", "empty"),
        default="refuse",
        help="utterances of the part without a hypothesis: refuse, or count them as empty transcripts",
    )
    parser.add_argument(
        "--format",
        metavar="NAME[,NAME]",
        help="table, whisper, azure, google, clova, daglo, srt, vtt or txt; two for two systems (from the content)",
    )
    for what, of in (("id", "utterance ids"), ("text", "transcripts")):
        parser.add_argument(
            f"--{what}-column",
            action="append",
            default=[],
            metavar="COLUMN",
            help=f"a table's column of {of} (its usual names, English and Korean); again for another system's",
        )
    parser.add_argument("--names", type=Path, metavar="TABLE", help="two columns: utterance_id, and the system's name")


@dataclasses.dataclass(frozen=True)
class Given:
    """Predictions of a command, with the split they belong to if one was named."""

    predictions: "list[Prediction]"
    split: "Split | None"
    joined: "JoinedReferences | None"

    @property
    def split_sha256(self) -> str | None:
        """Identity of the split; None where none was named."""
        return self.split.sha256 if self.split else None


def read_given(args: argparse.Namespace, path: Path, place: int = 0) -> Given:
    """Return predictions, joined with the references of the split if one was named; print what does not match.

    Parameters
    ----------
    place : int
        Which of the command's systems it is, from 0 on; it takes that one of two formats.
    """
    from kmed_bench.core.predictions import read_predictions

    if args.split is None:
        if args.missing != "refuse":
            raise KmedError("--missing empty needs --split: without it nothing says which utterances are missing.")
        if path.exists() and not is_predictions(path):
            raise KmedError(
                f"{path} is no predictions.jsonl of this program and holds no references; name the split or the "
                "manifest of its utterances: --references SPLIT."
            )
        return Given(read_predictions(path), None, None)
    from kmed_bench.corpus.splitting.whole import read_speech
    from kmed_bench.scoring.external_files import read_external
    from kmed_bench.scoring.external_predictions import join_references

    split, external = read_speech(args.split), read_external(path, _reading(args, place))
    joined = join_references(external.hypotheses, split.parts[args.part], missing=args.missing)
    _say(path, external, joined, args.part)
    return Given(joined.predictions, split, {"part": args.part, **joined.describe()})


def is_predictions(path: Path) -> bool:
    """Return whether a file looks like this program's predictions.jsonl: lines of JSON."""
    if path.is_dir():
        return False
    with path.open("rb") as stream:
        return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"") or path.suffix == ".jsonl"


def _reading(args: argparse.Namespace, place: int) -> "Reading":
    from kmed_bench.scoring.external_files import Reading

    formats = (args.format or "").split(",")
    if len(formats) > 2:
        raise KmedError(f"--format {args.format} names {len(formats)} formats; give one, or two for two systems.")
    return Reading(
        format=formats[min(place, len(formats) - 1)].strip().lower() or None,
        id_columns=tuple(args.id_column),
        text_columns=tuple(args.text_column),
        names=args.names,
    )


def _say(path: Path, external: "External", joined: "Joined", part: str) -> None:
    """Print how a system's files were read, and what of them does not match."""
    from kmed_bench.scoring.external_files import name_some

    log.info("%s: %d transcripts, read as %s.", path, len(external.hypotheses), external.format)
    if external.ignored:
        others = ", ".join(f"{n} {suffix or 'without a suffix'}" for suffix, n in external.ignored.items())
        log.info("Files of other kinds in %s, not read: %s.", path, others)
    for ids, text in (
        (joined.missing, "utterances without a hypothesis count as empty"),
        (joined.unknown, f"utterances are not in {part} and left out"),
        (external.unused_names, "names of --names are not among the transcripts"),
    ):
        if ids:
            print(f"{len(ids)} {text}: {name_some(ids)}")
