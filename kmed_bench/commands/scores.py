"""Commands on predictions, without a model: `score`, `compare`, `errors`, `package`."""

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.commands.stages import TRACKED, tracked_stage
from kmed_bench.config import Config, Decides, digest
from kmed_bench.config.identity import decisive
from kmed_bench.core.errors import KmedError
from kmed_bench.core.finished import MADE_OF, content_sha256, is_finished
from kmed_bench.core.quantities import explain_rates
from kmed_bench.core.schema import PARTS

if TYPE_CHECKING:
    from kmed_bench.core.contracts import BaselineComparison, EvaluatedScores, JoinedReferences
    from kmed_bench.core.predictions import Prediction
    from kmed_bench.corpus.splitting.split import Split
    from kmed_bench.scoring import ScoringOptions
    from kmed_bench.tracking.stages import StageRun

_SCORING = tuple(decisive(Config(), Decides.SCORING))
_SHORT = {"policy": "data.transcript_side"}


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    score = commands.add(
        "score",
        _score,
        "Score any system's predictions, and compare them with a baseline.",
        reads=[*_SCORING, *TRACKED],
        short=_SHORT,
    )
    _add_predictions(score)
    score.add_argument("out", type=Path, help="folder for scores.json")
    score.add_argument(
        "--against",
        type=Path,
        metavar="BASELINE",
        help="also compare clip by clip: a predictions.jsonl, the scores.json beside it, or a benchmark package",
    )

    compare = commands.add(
        "compare",
        _compare,
        "Paired difference in CER, or in another rate, of two predictions files.",
        reads=["data.transcript_side", "eval.bootstrap_draws", "eval.bootstrap_seed"],
        short=_SHORT,
    )
    compare.add_argument("a", type=Path, help="a predictions.jsonl")
    compare.add_argument("b", type=Path, help="another one of the same utterances; differences are B minus A")
    compare.add_argument("--metric", default="cer", help="a rate of scores.json, such as wer or number_exact (cer)")
    compare.add_argument(
        "--margin",
        type=float,
        help="also whether B is equivalent to A and not worse within this difference, a fraction set beforehand (0.01)",
    )

    errors = commands.add(
        "errors",
        _errors,
        "What goes wrong, clip by clip; the files hold transcripts and stay local.",
        reads=_SCORING,
        short=_SHORT,
    )
    _add_predictions(errors)
    errors.add_argument("out", type=Path, help="folder for the page and its tables")
    errors.add_argument("--name", default="model", help="what the page calls the system")

    package = commands.add(
        "package",
        _package,
        "A benchmark package of a baseline: ids, hashes, counts; no text, no audio.",
        reads=_SCORING,
        short=_SHORT,
    )
    _add_predictions(package)
    package.add_argument("out", type=Path, help="a new folder")
    package.add_argument("--name", default="baseline", help="what the package calls the system")


def _add_predictions(parser: argparse.ArgumentParser) -> None:
    """Add the predictions and where their references come from."""
    parser.add_argument("predictions", type=Path, help="predictions.jsonl of evaluate, or of any other system")
    parser.add_argument(
        "--split", type=Path, help="take references and speakers from it; lines then need utterance_id and hypothesis"
    )
    parser.add_argument("--part", choices=PARTS, default="test", help="part of the split (test)")
    parser.add_argument(
        "--missing",
        choices=("refuse", "empty"),
        default="refuse",
        help="utterances of the part without a hypothesis: refuse, or count them as empty transcripts",
    )


@dataclasses.dataclass(frozen=True)
class _Given:
    """Predictions of a command, with the split they belong to if one was named."""

    predictions: "list[Prediction]"
    split: "Split | None"
    joined: "JoinedReferences | None"

    @property
    def split_sha256(self) -> str | None:
        return self.split.sha256 if self.split else None


def _read(args: argparse.Namespace) -> _Given:
    """Return the predictions, joined with the references of the split if one was named."""
    from kmed_bench.core.predictions import read_predictions

    if args.split is None:
        if args.missing != "refuse":
            raise KmedError("--missing empty needs --split: without it nothing says which utterances are missing.")
        return _Given(read_predictions(args.predictions), None, None)
    from kmed_bench.corpus.splitting.split import read_split
    from kmed_bench.scoring.external_predictions import join_references, name_some, read_hypotheses

    split = read_split(args.split)
    joined = join_references(read_hypotheses(args.predictions), split.parts[args.part], missing=args.missing)
    if joined.missing:
        print(f"{len(joined.missing)} utterances without a hypothesis count as empty: {name_some(joined.missing)}")
    if joined.unknown:
        print(f"{len(joined.unknown)} utterances are not in {args.part} and left out: {name_some(joined.unknown)}")
    return _Given(joined.predictions, split, {"part": args.part, **joined.describe()})


def _score(args: argparse.Namespace) -> int:
    from kmed_bench.core.files import write_json
    from kmed_bench.scoring import ScoringOptions, score_predictions
    from kmed_bench.scoring.baselines import compare_with, predictions_beside, read_baseline, read_scores
    from kmed_bench.scoring.significance import comparisons_file

    if args.predictions.resolve().parent == args.out.resolve() and (args.out / "scores.json").exists():
        raise KmedError(f"{args.out} holds the scores of these predictions already; name another folder.")
    config = resolve(args)
    options = ScoringOptions.from_config(config)
    with tracked_stage(args, config, "missing") as stage:
        given = _read(args)
        if stage is not None:
            _log_inputs(stage, args, given)
        baseline = None if args.against is None else read_baseline(args.against, options)
        against = args.against and content_sha256(predictions_beside(args.against, package=True))
        made_of = _identify(args, given, options, against=against)
        if not is_finished(args.out / "scores.json", made_of):
            compared = [] if baseline is None else compare_with(baseline, given.predictions, options)
            sha256 = given.split_sha256 or (baseline.split_sha256 if baseline else None)
            scores = cast("EvaluatedScores", score_predictions(given.predictions, options, split_sha256=sha256))
            if given.joined:
                scores["joined"] = given.joined
            (args.out / "comparisons.json").unlink(missing_ok=True)  # of a call that was stopped
            if compared:
                write_json(args.out / "comparisons.json", comparisons_file(compared))
            write_json(args.out / "scores.json", scores | {MADE_OF: made_of})  # last: it says that the other is there
        written = read_scores(args.out)
        print_scores(written, args.out)
        if stage is not None:
            stage.log_scores(written, f"{args.part}/" if given.split else "scored/")
    return 0


def _log_inputs(stage: "StageRun", args: argparse.Namespace, given: _Given) -> None:
    from kmed_bench.corpus.demo.sentences import corpus_name

    stage.read_predictions(args.predictions, len(given.predictions))
    if given.split is not None:
        stage.read_split(given.split.report, args.part, corpus_name(given.split.parts[args.part]))


def _identify(args: argparse.Namespace, given: _Given, options: "ScoringOptions", **more: str | None) -> str:
    """Return the digest of what decides the output of a command on predictions."""
    from kmed_bench.scoring.measures import versions

    return digest(
        {
            "predictions": content_sha256(args.predictions),
            "split": given.split and [given.split.sha256, given.split.report.get("content_sha256"), args.part],
            "missing": args.missing,
            "options": options,
            **versions(),
            **more,
        }
    )


def _options(args: argparse.Namespace) -> "ScoringOptions":
    from kmed_bench.scoring import ScoringOptions

    return ScoringOptions.from_config(resolve(args))


def _say_comparison(row: "BaselineComparison") -> str:
    """Return a comparison in a line: by how much the new system differs from a baseline."""
    if row["delta"] is None or row["a"] is None or row["b"] is None:
        return f"Against {row['baseline']}: no clip can be scored."
    low, high = row["delta_low"], row["delta_high"]
    none = f"no interval: {row['no_interval']}"
    interval = none if low is None or high is None else f"95 % interval {low:+.4f} to {high:+.4f}"
    said = (
        f"Against {row['baseline']}: CER {row['delta']:+.4f} ({interval}; p {row['p_holm']:.4f}, Holm), from "
        f"{row['a']:.4f} to {row['b']:.4f} on {row['n_clips']} clips of {row['n_speakers']} speakers"
    )
    return f"{said}. {explain_rates(row['a'], row['b'])}".removesuffix(". ")


def print_scores(scores: "EvaluatedScores", out: Path) -> None:
    """Print CER with its interval and what it was measured on, the comparisons, and where both are."""
    overall = scores["overall"]
    low, high = overall["cer_low"], overall["cer_high"]
    none = f"no interval: {overall['no_interval'].get('cer', 'not known')}"
    interval = none if low is None or high is None else f"95 % interval {low:.4f} to {high:.4f}"
    cer = "undefined" if overall["cer"] is None else f"{overall['cer']:.4f}"
    print(f"CER {cer} ({interval}; {overall['n_clips']} clips, {overall['n_speakers']} speakers)")
    if overall["cer"] is not None and overall["cer"] > 1:
        print(explain_rates(overall["cer"]))
    for row in scores.get("comparisons", ()):
        print(_say_comparison(row))
    print(f"Scores: {out / 'scores.json'}")
    if "comparisons" in scores:
        print(f"Comparisons: {out / 'comparisons.json'}")


def _compare(args: argparse.Namespace) -> int:
    from kmed_bench.core.predictions import read_predictions
    from kmed_bench.scoring import compare_predictions

    a, b = read_predictions(args.a), read_predictions(args.b)
    result = compare_predictions(a, b, _options(args), metric=args.metric, margin=args.margin)
    print(json.dumps(result, ensure_ascii=False, indent=2))
    return 0


def _errors(args: argparse.Namespace) -> int:
    from kmed_bench.report.error_page import NOTICE, make_private, write_error_analysis

    given, options, page = _read(args), _options(args), args.out / "index.html"
    made_of = _identify(args, given, options, name=args.name)
    make_private(args.out)
    if not is_finished(args.out / "summary.json", made_of):
        page = write_error_analysis(args.out, given.predictions, options, name=args.name, made_of=made_of)
    print(NOTICE)
    print(f"Errors: {page.resolve()}")
    return 0


def _package(args: argparse.Namespace) -> int:
    from kmed_bench.scoring.package import HEAD_NAME, write_package

    given, options, head = _read(args), _options(args), args.out / HEAD_NAME
    made_of = _identify(args, given, options, name=args.name)
    # Without a split only the utterances and their references identify what the package is of.
    report = given.split.report if given.split else {"sha256": None, "counts": {args.part: len(given.predictions)}}
    if not is_finished(head, made_of):
        if given.split is not None:
            from kmed_bench.corpus.splitting.frozen import freeze_split

            freeze_split(given.split, args.out / "frozen-split.json", hashes=False)
        write_package(args.out, report, args.part, {args.name: given.predictions}, options, made_of=made_of)
    if given.split is not None:
        print(f"Split: {args.out / 'frozen-split.json'}; `kmed-bench split MANIFEST OUT --frozen FILE` applies it")
    print(f"Package (no text, no audio): {head}")
    print(f"Compare another system with it: kmed-bench score PREDICTIONS OUT --against {shlex.quote(str(args.out))}")
    return 0
