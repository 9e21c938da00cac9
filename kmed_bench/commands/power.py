"""The command `power`: what a test part can show before a run is paid for."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.core.quantities import percent
from kmed_bench.core.schema import PARTS

if TYPE_CHECKING:
    from kmed_bench.corpus.splitting.split import Split
    from kmed_bench.scoring.power import Design, Deviations
    from kmed_bench.scoring.spread import Spread
    from kmed_bench.text.marks import Policy


def register(commands: Commands) -> None:
    """Add the command."""
    power = commands.add(
        "power",
        _power,
        "The smallest difference in CER that a part of a split can show, and the speakers that a difference needs.",
        reads=["data.transcript_side"],
        short={"policy": "data.transcript_side"},
    )
    power.add_argument("split", type=Path, help="folder of a split")
    power.add_argument("--part", choices=PARTS, default="test", help="part of the split (test)")
    power.add_argument(
        "--predictions", type=Path, nargs=2, metavar=("A", "B"), help="a pilot: two systems on the same clips"
    )
    power.add_argument("--difference", type=float, help="also the speakers that this difference in CER needs")
    for name, default in (("speaker", 0.03), ("sentence", 0.04), ("clip", 0.10)):  # of scoring.power.Deviations
        text = f"without a pilot: standard deviation of the difference between {name}s ({default:.2f})"
        power.add_argument(f"--{name}-sd", type=float, default=default, help=text)


def _power(args: argparse.Namespace) -> int:
    from kmed_bench.core.errors import KmedError
    from kmed_bench.corpus.splitting.split import read_split
    from kmed_bench.scoring import power

    policy = resolve(args).data.transcript_side
    split = read_split(args.split)
    design = power.design_of(split.parts[args.part], policy)
    if not len(design.length):
        raise KmedError(f"{args.part} of {args.split} has no clip with text; name another --part.")
    if not design.n_speakers:
        raise KmedError(
            f"The speakers of {args.part} of {args.split} are not all known, so no difference can be shown; import the "
            "corpus with a column of speakers."
        )
    if args.predictions:
        spread, source = _pilot(args, split, design, policy)
    else:
        deviations = _deviations(args)
        spread = power.assumed_spread(design, deviations)
        source = power.ASSUMED if deviations == power.DEFAULT else power.GIVEN
    print(power.describe_power(power.detectable(spread), design.n_speakers, len(design.length), source))
    if args.difference is not None:
        needed = power.speakers_needed(spread, design.n_speakers, args.difference)
        print(
            f"A difference of {args.difference:.4f} needs {needed:,} speakers with as many clips each for a power of "
            f"{percent(power.POWER, 0)} ({source})."
        )
    return 0


def _deviations(args: argparse.Namespace) -> "Deviations":
    from kmed_bench.core.errors import KmedError
    from kmed_bench.scoring.power import Deviations

    given = Deviations(speaker=args.speaker_sd, sentence=args.sentence_sd, clip=args.clip_sd)
    values = dataclasses.astuple(given)
    if min(values) < 0 or not max(values) > 0:
        raise KmedError(f"Deviations {values} must be 0 or more, and one above 0; they are fractions such as 0.03.")
    return given


def _pilot(args: argparse.Namespace, split: "Split", design: "Design", policy: "Policy") -> "tuple[Spread, str]":
    """Return the variance that a pilot predicts for the part, and what kind of pilot it is."""
    from kmed_bench.core.predictions import read_predictions
    from kmed_bench.scoring.compare import scored_pair
    from kmed_bench.scoring.power import assumed_spread, find_part, grow, pilot_deviations, pilot_spread

    a, b = (read_predictions(path) for path in args.predictions)
    clips = scored_pair(a, b, policy)
    parts = {name: set(part["utterance_id"]) for name, part in split.parts.items()}
    home = find_part({prediction.utterance_id for prediction in a}, parts)
    if home == args.part:
        # The part has the pilot's clips or more; a variance falls with the speakers.
        grown = grow(pilot_spread(clips), clips.n_speakers, design.n_speakers)
        return grown, f"from a pilot with {clips.n_speakers} speakers of {home}"
    found = pilot_deviations(clips)
    where = f"of {home}, not of {args.part}" if home else "that are not in this split"
    source = (
        f"from a pilot with {clips.n_speakers} speakers {where}, with the standard deviations {found.speaker:.3f} of "
        f"speakers, {found.sentence:.3f} of sentences and {found.clip:.3f} of clips"
    )
    return assumed_spread(design, found), source
