"""`transcribe`: single recordings and folders of them."""

import argparse
from pathlib import Path

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.config import Config, Decides
from kmed_bench.config.identity import decisive
from kmed_bench.core.errors import KmedError
from kmed_bench.core.transcripts import TRANSCRIPT_FORMATS, Transcript, render

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

    outcome = transcribe(
        resolve(args), args.model, recordings, args.format, out=args.out, show=show if args.out is None else None
    )
    if args.out is not None:
        print(f"{len(outcome.done)} transcribed, {len(outcome.kept)} kept, {len(outcome.failed)} failed: {args.out}")
    return 1 if outcome.failed else 0
