"""The command `power`: what a test part can show before a run is paid for."""

import argparse
from pathlib import Path

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.core.schema import PARTS


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
    for name, default in (("speaker", 0.03), ("sentence", 0.04), ("clip", 0.10)):
        text = f"without a pilot: standard deviation of the difference between {name}s ({default:.2f})"
        power.add_argument(f"--{name}-sd", type=float, default=default, help=text)


def _power(args: argparse.Namespace) -> int:
    import numpy as np
    import pandas as pd

    from kmed_bench.core.errors import KmedError
    from kmed_bench.core.predictions import read_predictions
    from kmed_bench.corpus.splitting.split import read_split
    from kmed_bench.scoring.compare import scored_pair
    from kmed_bench.scoring.power import Deviations, assumed_spread, describe_power, pilot_spread, speakers_needed
    from kmed_bench.text.marks import resolve_marks
    from kmed_bench.text.normalise import normalise

    policy = resolve(args).data.transcript_side
    part = read_split(args.split).parts[args.part]
    length = np.array([len(normalise(resolve_marks(text, policy))) for text in part["text"]], dtype=np.float64)
    part, length = part[length > 0], length[length > 0]
    if not len(part):
        raise KmedError(f"{args.part} of {args.split} has no clip with text; name another --part.")
    speaker, sentence = (pd.factorize(part[name])[0].astype(np.int64) for name in ("speaker_id", "sentence_id"))
    n_speakers, source = int(speaker.max()) + 1, "assumed deviations: give a pilot by --predictions"
    if args.predictions:
        a, b = (read_predictions(path) for path in args.predictions)
        clips = scored_pair(a, b, policy)
        # The part has the pilot's clips or more; a variance falls with the speakers.
        measured, scale = pilot_spread(clips), clips.n_speakers / n_speakers
        spread = type(measured)(variance=measured.variance * scale, df=measured.df / scale)
        source = f"from a pilot with {clips.n_speakers} speakers"
    else:
        given = (args.speaker_sd, args.sentence_sd, args.clip_sd)
        if min(given) < 0 or not max(given) > 0:
            raise KmedError(f"Deviations {given} must be 0 or more, and one above 0; they are fractions, as 0.03.")
        deviations = Deviations(speaker=args.speaker_sd, sentence=args.sentence_sd, clip=args.clip_sd)
        spread = assumed_spread(speaker, sentence, length, deviations)
    print(describe_power(spread, n_speakers, len(part), source))
    if args.difference is not None:
        needed = speakers_needed(spread, n_speakers, args.difference)
        print(f"A difference of {args.difference:.4f} needs {needed} speakers with as many clips each.")
    return 0
