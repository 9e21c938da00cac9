"""Commands on predictions, without a model: `score`, `compare`, `errors`, `package`."""

import argparse
import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.commands.score_text import contents_lines, print_scores
from kmed_bench.commands.stages import TRACKED, tracked_stage
from kmed_bench.commands.systems import KINDS, Given, add_references, read_given
from kmed_bench.config import Config, Decides, digest
from kmed_bench.config.identity import decisive
from kmed_bench.core.errors import KmedError
from kmed_bench.core.finished import MADE_OF, content_sha256, is_finished
from kmed_bench.core.language import use_language

if TYPE_CHECKING:
    from kmed_bench.core.contracts import EvaluatedScores
    from kmed_bench.corpus.splitting.split import Split
    from kmed_bench.scoring import ScoringOptions
    from kmed_bench.scoring.baselines import Baseline
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
        help="also compare clip by clip: a predictions.jsonl, the scores.json beside it, a benchmark package, or with "
        "--references any other system's transcripts",
    )
    score.add_argument("--json", action="store_true", help="print the scores as JSON, not as a table")

    compare = commands.add(
        "compare",
        _compare,
        "Paired difference in CER, or in another rate, of two predictions files.",
        reads=["data.transcript_side", "eval.bootstrap_draws", "eval.bootstrap_seed"],
        short=_SHORT,
    )
    compare.add_argument("a", type=Path, help=KINDS)
    compare.add_argument("b", type=Path, help="another one of the same utterances; differences are B minus A")
    add_references(compare)
    compare.add_argument("--json", action="store_true", help="JSON on a terminal too, as where output is piped")
    compare.add_argument("--metric", default="cer", help="a rate of scores.json, such as wer or number_exact (cer)")
    compare.add_argument(
        "--margin",
        type=float,
        help="also whether B is equivalent to A and not worse within this difference, a fraction set beforehand (0.01)",
    )

    errors = commands.add(
        "errors",
        _errors,
        "A page to hear and see what goes wrong, clip by clip; it holds speech and stays local.",
        reads=[*_SCORING, "report"],
        short=_SHORT,
    )
    _add_predictions(errors)
    errors.add_argument("out", type=Path, help="folder for the page and its tables")
    errors.add_argument("--name", default="model", help="what the page calls the system")
    errors.add_argument("--beside", type=Path, metavar="OTHER", help="predictions of a second system, shown below it")
    errors.add_argument("--beside-name", default="other", metavar="NAME", help="what the page calls the second system")
    errors.add_argument(
        "--audio",
        metavar="SPLIT",
        help="recordings for the page: a folder that `split` wrote, or a manifest; none leaves them out (--split)",
    )
    errors.add_argument(
        "--max-mib", type=int, default=64, help="largest size of the page; the worst clips come first (64)"
    )

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
    parser.add_argument("predictions", type=Path, help=KINDS)
    add_references(parser)


def _score(args: argparse.Namespace) -> int:
    from kmed_bench.core.contracts import SIDES
    from kmed_bench.core.files import write_json
    from kmed_bench.scoring import ScoringOptions, score_predictions
    from kmed_bench.scoring.baselines import compare_with, read_scores
    from kmed_bench.scoring.sides import SIDES_FILE, score_sides
    from kmed_bench.scoring.significance import comparisons_file

    if args.predictions.resolve().parent == args.out.resolve() and (args.out / "scores.json").exists():
        raise KmedError(f"{args.out} holds the scores of these predictions already; name another folder.")
    config = resolve(args)
    options = ScoringOptions.from_config(config)
    with tracked_stage(args, config, "missing") as stage:
        given = read_given(args, args.predictions)
        if stage is not None:
            _log_inputs(stage, args, given)
        baseline = None if args.against is None else _read_against(args, options)
        against = args.against and content_sha256(_identified(args.against))
        made_of = _identify(args, given, options, against=against)
        if not is_finished(args.out / "scores.json", made_of):
            compared = [] if baseline is None else compare_with(baseline, given.predictions, options)
            sha256 = given.split_sha256 or (baseline.split_sha256 if baseline else None)
            scores = cast("EvaluatedScores", score_predictions(given.predictions, options, split_sha256=sha256))
            if given.joined:
                scores["joined"] = given.joined
            (args.out / "comparisons.json").unlink(missing_ok=True)  # of a call that was stopped
            write_json(args.out / SIDES_FILE, score_sides(given.predictions, options))
            if compared:
                write_json(args.out / "comparisons.json", comparisons_file(compared))
            write_json(args.out / "scores.json", scores | {MADE_OF: made_of})  # last: it says that the other is there
        written = read_scores(args.out)
        sides = SIDES.read(args.out / SIDES_FILE) if (args.out / SIDES_FILE).exists() else None
        if args.json:
            print(json.dumps({**written, "sides": sides}, ensure_ascii=False, indent=2))
        else:
            print_scores(written, args.out, sides)
        if stage is not None:
            stage.log_scores(written, f"{args.part}/" if given.split else "scored/")
    return 0


def _read_against(args: argparse.Namespace, options: "ScoringOptions") -> "Baseline":
    """Return the baseline that ``--against`` names; another system's transcripts take the references of the split."""
    from kmed_bench.core.predictions import holds_references
    from kmed_bench.scoring.baselines import baseline_of, predictions_beside, read_baseline
    from kmed_bench.scoring.package import HEAD_NAME

    own = predictions_beside(args.against)
    package = (args.against / HEAD_NAME).is_file()
    if args.split is None or package or not args.against.exists() or (own.is_file() and holds_references(own)):
        return read_baseline(args.against, options)
    return baseline_of(args.against, read_given(args, args.against, place=1).predictions, options)


def _log_inputs(stage: "StageRun", args: argparse.Namespace, given: Given) -> None:
    from kmed_bench.corpus.demo.sentences import corpus_name

    stage.read_predictions(args.predictions, len(given.predictions))
    if given.split is not None:
        stage.read_split(given.split.report, args.part, corpus_name(given.split.parts[args.part]))


def _identified(against: Path) -> Path:
    """Return what identifies a baseline: the predictions beside it, a package's head, or a folder of other files."""
    from kmed_bench.scoring.baselines import predictions_beside

    own = predictions_beside(against, package=True)
    return own if own.exists() else against


def _identify(args: argparse.Namespace, given: Given, options: "ScoringOptions", **more: str | None) -> str:
    """Return the digest of what decides the output of a command on predictions."""
    from kmed_bench.scoring.measures import versions

    reading = {name: getattr(args, name) for name in ("format", "id_column", "text_column") if getattr(args, name)}
    if args.names is not None:
        reading["names"] = content_sha256(args.names)
    return digest(
        {
            "predictions": content_sha256(args.predictions),
            "split": given.split and [given.split.sha256, given.split.report.get("content_sha256"), args.part],
            "missing": args.missing,
            "options": options,
            **versions(),
            **reading,
            **more,
        }
    )


def _options(args: argparse.Namespace) -> "ScoringOptions":
    from kmed_bench.scoring import ScoringOptions

    return ScoringOptions.from_config(resolve(args))


def _compare(args: argparse.Namespace) -> int:
    from kmed_bench.commands.score_text import comparison_lines
    from kmed_bench.scoring import compare_predictions

    a, b = (read_given(args, path, place).predictions for place, path in enumerate((args.a, args.b)))
    result = compare_predictions(a, b, _options(args), metric=args.metric, margin=args.margin)
    if args.json or not sys.stdout.isatty():  # scripts read it
        print(json.dumps(result, ensure_ascii=False, indent=2))
    else:
        print("\n".join(comparison_lines(result, str(args.a), str(args.b))))
    return 0


def _errors(args: argparse.Namespace) -> int:
    from kmed_bench.commands.recordings import open_recordings
    from kmed_bench.core.error_contracts import ERROR_SUMMARY
    from kmed_bench.report.error_clips import Beside
    from kmed_bench.report.error_page import NOTICE, make_private, write_error_analysis

    given, options, language = read_given(args, args.predictions), _options(args), resolve(args).report.lang
    speech, beside = _speech(args, given), None
    if args.beside is not None:
        beside = Beside(predictions=read_given(args, args.beside, place=1).predictions, name=args.beside_name)
    made_of = _identify(
        args,
        given,
        options,
        name=args.name,
        beside=None if args.beside is None else f"{args.beside_name} {content_sha256(args.beside)}",
        audio=None if speech is None else speech.sha256,
        page=f"{ERROR_SUMMARY.version} {args.max_mib}",
        lang=None if language == "en" else language,
    )
    make_private(args.out)
    if not is_finished(args.out / "summary.json", made_of):
        recordings = contextlib.nullcontext() if speech is None else open_recordings(speech)
        with recordings as read_clip, use_language(language):
            write_error_analysis(
                args.out,
                given.predictions,
                options,
                name=args.name,
                beside=beside,
                read_clip=read_clip,
                max_bytes=args.max_mib << 20,
                made_of=made_of,
            )
    print(NOTICE)
    print("\n".join(contents_lines(ERROR_SUMMARY.read(args.out / "summary.json")["page"])))
    print(f"Errors: {(args.out / 'index.html').resolve()}")
    return 0


def _speech(args: argparse.Namespace, given: Given) -> "Split | None":
    """Return where the recordings are: what ``--audio`` names, else the split of the references, if one was named."""
    from kmed_bench.corpus.splitting.whole import read_speech

    if args.audio is None:
        return given.split
    return None if args.audio == "none" else read_speech(Path(args.audio))


def _package(args: argparse.Namespace) -> int:
    from kmed_bench.scoring.package import HEAD_NAME, write_package

    given, options, head = read_given(args, args.predictions), _options(args), args.out / HEAD_NAME
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
