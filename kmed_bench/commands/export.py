"""`export`: a model in another runtime's format, its CER measured again there."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.commands.stages import TRACKED, tracked_stage
from kmed_bench.core.errors import KmedError
from kmed_bench.core.finished import MADE_OF, is_finished
from kmed_bench.core.schema import PARTS

if TYPE_CHECKING:
    from kmed_bench.asr.model.whisper import Whisper
    from kmed_bench.config import Config
    from kmed_bench.pipeline.export import DriftCheck
    from kmed_bench.tracking.stages import StageRun


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    export = commands.add(
        "export",
        _export,
        "Write a model for another runtime; refused if its CER drifts.",
        reads=["data.transcript_side", "eval.batch_size", "eval.max_new_tokens", *TRACKED],
    )
    export.add_argument("model", help="a size, a .pt file, a Hugging Face folder, models:/NAME@ALIAS or runs:/…")
    export.add_argument("out", type=Path, help="a folder that does not exist yet")
    export.add_argument("--format", required=True, help="openai, hf, ct2, onnx, openvino or ggml")
    export.add_argument(
        "--quantization", choices=("float32", "float16", "int8"), help="int8 for ct2 (ggml: float16, others: float32)"
    )
    export.add_argument("--split", type=Path, help="measure the drift on it; without a split it is not measured")
    export.add_argument("--part", choices=PARTS, default="test", help="part of the split (test)")
    export.add_argument("--limit-clips", type=int, metavar="N", help="measure on N clips, evenly spaced over the part")
    export.add_argument(
        "--max-drift", type=float, metavar="X", help="largest difference in CER (0.002; int8, float16: 0.01)"
    )


def _export(args: argparse.Namespace) -> int:
    from kmed_bench.core.files import read_json
    from kmed_bench.pipeline.export import QUANTIZATIONS, check_format, check_request, export_model
    from kmed_bench.pipeline.models import load_located, located, shown_model, tell_stage

    config = resolve(args)
    args.quantization = args.quantization or QUANTIZATIONS[check_format(args.format)][0]
    if args.limit_clips is not None and args.limit_clips < 1:
        raise KmedError(f"--limit-clips is {args.limit_clips}; give at least 1, or leave it out for the whole part.")
    with (
        tracked_stage(args, config, "format", "quantization", "part", "limit_clips", "max_drift") as stage,
        located(config, args.model) as path,
    ):
        tell_stage(stage, args.model, path)
        made_of = _identify(args, config, path)
        made_before = is_finished(args.out / "export.json", made_of)
        if made_before:
            record = read_json(args.out / "export.json")
        else:
            check_request(args.out, args.format, args.quantization, args.max_drift)
            model = load_located(args.model, path)
            record = export_model(
                model,
                args.out,
                args.format,
                config.eval,
                quantization=args.quantization,
                check=None if args.split is None else _drift_check(args, model, config, stage),
                max_drift=args.max_drift,
                about={"model": shown_model(args.model), MADE_OF: made_of},
            )
        if stage is not None:
            stage.log_export(record)
    print(_describe_drift(record["drift"]))
    print(f"Export: {args.out} ({args.format}, {args.quantization}){', made before' if made_before else ''}")
    return 0


def _identify(args: argparse.Namespace, config: "Config", path: Path) -> str:
    """Return the digest of what decides an export: the model, the format, and the clips and bound of its drift."""
    from kmed_bench.config import digest
    from kmed_bench.core.corpus_contracts import SPLIT
    from kmed_bench.pipeline.models import identify_model

    split = None if args.split is None else SPLIT.read(args.split / "split.json")
    return digest(
        {
            "model": identify_model(args.model, path),
            "format": [args.format, args.quantization],
            "split": split and [split["sha256"], split.get("content_sha256"), args.part, args.limit_clips],
            "max_drift": args.max_drift,
            "settings": [config.eval.batch_size, config.eval.max_new_tokens, config.data.transcript_side],
        }
    )


def _drift_check(
    args: argparse.Namespace, model: "Whisper", config: "Config", stage: "StageRun | None"
) -> "DriftCheck":
    from kmed_bench.config import Decides
    from kmed_bench.corpus.demo.sentences import corpus_name
    from kmed_bench.corpus.splitting.split import read_split
    from kmed_bench.pipeline.export import DriftCheck, decode_original, spread_clips
    from kmed_bench.pipeline.plan import record_opening

    split = read_split(args.split)
    if stage is not None:
        stage.read_split(split.report, args.part, corpus_name(split.parts[args.part]))
    if args.part == "test":
        record_opening(config, Decides.NOTHING, "export", args.model, split)
    rows = spread_clips(split.parts[args.part], args.limit_clips)
    originals = decode_original(model, rows, config.eval)
    about = {"part": args.part, "split_sha256": split.sha256}
    return DriftCheck(part=rows, originals=originals, about=about, transcript_side=config.data.transcript_side)


def _describe_drift(drift: dict[str, Any] | None) -> str:
    """Return the drift in one line, or that it was not measured."""
    if drift is None:
        return "Drift: not measured, since no split was given (--split SPLIT); the files were opened by their runtime."
    return (
        f"Drift: {drift['drift']:+.4f} (CER {drift['cer_original']:.4f} by our own decoding, "
        f"{drift['cer_exported']:.4f} exported; bound {drift['bound']:g}); {drift['n_differing']} of "
        f"{drift['n_clips']} transcripts differ, {drift['n_differing_normalised']} after normalisation"
    )
