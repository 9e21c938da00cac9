"""`transcribe`: single recordings and folders of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.commands.shards import add_shards, fill_slots, shard_of_call, shards_of
from kmed_bench.config import Config, Decides
from kmed_bench.config.identity import decisive
from kmed_bench.core.errors import KmedError
from kmed_bench.core.sharding import MAX_SHARDS, read_chosen_shards, read_shard_count
from kmed_bench.core.transcripts import TRANSCRIPT_FORMATS, Transcript, render

if TYPE_CHECKING:
    from kmed_bench.pipeline.transcribe import Recording

_DECODING = tuple(decisive(Config(), Decides.DECODING))


def register(commands: Commands) -> None:
    """Add the command of this module."""
    transcribe = commands.add(
        "transcribe",
        _transcribe,
        "Transcribe recordings of any common format and length.",
        reads=[*_DECODING, "tracking.uri"],
    )
    transcribe.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings, or folders of them")
    transcribe.add_argument(
        "--model",
        default="base",
        help="a size, a .pt file, a Hugging Face or CTranslate2 folder, models:/NAME@ALIAS or runs:/… (base)",
    )
    transcribe.add_argument("--format", choices=TRANSCRIPT_FORMATS, default="text", help="of the transcripts (text)")
    transcribe.add_argument(
        "--out", type=Path, metavar="FOLDER", help="one private file a recording; those that are there are kept"
    )
    add_shards(transcribe, "recordings", "a number, or auto, which is one for each (none: one process does all)")


def _transcribe(args: argparse.Namespace) -> int:
    from kmed_bench.pipeline.transcribe import find_recordings, transcribe

    recordings = find_recordings(args.files)
    several = len(recordings) > 1
    if several and args.out is None and args.format in ("srt", "vtt"):
        raise KmedError(
            f"{len(recordings)} recordings as {args.format} would be one file with several beginnings; name a folder "
            "for them with --out."
        )

    def show(transcript: Transcript) -> None:
        heading = f"==> {transcript.audio} <==\n" if several and args.format == "text" else ""
        print(heading + render(transcript, args.format), end="", flush=True)

    shards = shards_of(args)
    if shards is not None:
        recordings = _do_shards(args, shards, recordings)
    outcome = transcribe(
        resolve(args), args.model, recordings, args.format, out=args.out, show=show if args.out is None else None
    )
    if args.out is not None:
        print(f"{len(outcome.done)} transcribed, {len(outcome.kept)} kept, {len(outcome.failed)} failed: {args.out}")
    return 1 if outcome.failed else 0


def _do_shards(args: argparse.Namespace, shards: str, recordings: "list[Recording]") -> "list[Recording]":
    """Return the recordings that this process is to transcribe: of its shards, or what slots have left undone.

    Raises
    ------
    KmedError
        Without a folder, for a number of shards that is none, and when the process of a slot failed.
    """
    from kmed_bench.pipeline.transcribe import recordings_of_shards, shards_to_do

    if args.out is None:
        raise KmedError("Shards of recordings meet in a folder; name one for the transcripts with --out.")
    # Recordings may be hours long: as many shards as there are, so that every slot has its share.
    n_shards = min(len(recordings), MAX_SHARDS) if shards == "auto" else read_shard_count(shards, len(recordings))
    if (chosen := shard_of_call(args)) is not None:
        return recordings_of_shards(recordings, read_chosen_shards(chosen, n_shards), n_shards)
    # Recordings that can't be read are named by each process, which then ends with 1, and once more by this one.
    fill = fill_slots(args, str(n_shards), done=(0, 1))
    if fill is not None and (missing := shards_to_do(recordings, args.format, args.out, n_shards)):
        fill(missing)
    return recordings
