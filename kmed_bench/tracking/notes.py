"""What people read in the MLflow UI: run notes and model cards, as Markdown made from records."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from kmed_bench.records import GROUP_FIELDS, SIZES, BenchRecord, TrainRecord

_RECIPE = ("epochs", "batch_size", "lr", "max_len", "weight_decay", "warmup_steps", "grad_clip", "audio_context")
_SYNTHETIC = (
    "The speech is the generated demo corpus, spoken by a synthesiser: the figures show that the program works, "
    "and say nothing about patients."
)
_SINGLE_CELLS = 5
"""A card names this many of the worst groups; all of them are in scores.json."""


def charts_link(experiment_id: str, bench_id: str | None = None) -> str:
    """Return the fragment of the MLflow UI's address that shows trainings side by side, lowest test CER first.

    MLflow's UI opens on its pages for language models, and sorted by time it folds children under their parent,
    which has no metrics: its charts stay empty. The address says both, model training and another order.

    Parameters
    ----------
    bench_id : str, optional
        Show this benchmark's trainings alone; None: all of the experiment.
    """
    wanted = "tags.`kmed.kind` = 'train'"
    if bench_id is not None:
        wanted += f" and tags.`{MLFLOW_PARENT_RUN_ID}` = '{bench_id}'"
    view = {"workflowType": "machine_learning", "searchFilter": wanted, "orderByKey": "metrics.`test/cer`"}
    view |= {"orderByAsc": "true", "compareRunsMode": "CHART"}
    return f"#/experiments/{experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def describe_experiment(experiment_id: str) -> str:
    """Return the description of an experiment: what its runs are, and the view that compares them."""
    return (
        f"**[Charts of all trainings]({charts_link(experiment_id)})**, lowest test CER first. Each `bench-…` run holds "
        "its `split`, one `train-…` per size and seed, and its `report`; open it for the headline figures. Step 0 of "
        "a curve is the untouched model; type `cer$|loss$` into the charts' search for the curves alone. "
        "`train/cer_teacher_forced` is no CER of transcripts, `valid/cer` is.\n"
    )


def describe_bench(bench: BenchRecord, experiment_id: str) -> str:
    """Return the note of a benchmark's run: its sizes, what was skipped, its data, where the report is."""
    lines = ["**Test CER by size** (one row a seed; CER without spaces and punctuation)", ""]
    lines += _table(
        ("size", "seed", "untouched", "fine-tuned", "95 %", "best epoch", "valid CER", "status"),
        (
            _train_cells(run)
            for run in sorted(
                bench.trains, key=lambda run: (SIZES.index(run.size) if run.size in SIZES else -1, run.seed)
            )
        ),
    )
    if not bench.trains:
        lines = ["No training has finished in this benchmark yet."]
    for size, reason in bench.skipped.items():
        lines += ["", f"Skipped **{size}**: {reason}"]
    lines += ["", _describe_split(bench.split)]
    if any("test/cer" in run.metrics for run in bench.trains):
        charts = charts_link(experiment_id, bench.run_id)
        lines += ["", f"[Charts of these trainings]({charts}). The report is among the artifacts: `report/index.html`."]
    if is_synthetic(bench.params):
        lines += ["", _SYNTHETIC]
    return "\n".join(lines) + "\n"


def describe_train(run: TrainRecord) -> str:
    """Return the note of a train run: its headline figures in one sentence."""
    cer = run.metrics.get("test/cer")
    if cer is None:
        return f"Whisper {run.size}, seed {run.seed}: {run.status.lower()} before the test part was scored.\n"
    untouched = run.metrics.get("untouched/test_cer")
    before = f" (untouched: {percent(untouched)})" if untouched is not None else ""
    return (
        f"Whisper **{run.size}**, seed {run.seed}: test CER **{percent(cer)}**{_interval(run.metrics)}{before}, from "
        f"epoch {_whole(run.metrics.get('best/epoch'))}, which was chosen by a valid CER of "
        f"{percent(run.metrics.get('best/valid_cer'))}. The test part was scored once, after that choice.\n"
    )


def write_card(
    *,
    name: str,
    size: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    scores: Mapping[str, Any],
    counts: Mapping[str, Any],
) -> str:
    """Return a model card: what it is, data, recipe, results with intervals and groups, limits, licence, use.

    Parameters
    ----------
    params : mapping
        Settings as logged, dotted.
    scores : mapping
        ``scores.json`` of the test part; {} where nothing was scored.
    counts : mapping
        Clips per part, as in the run's dataset.
    """
    parts = [
        f"# {name}\n\nWhisper {size}, fine-tuned on Korean medical speech: Korean audio in, Korean text out.",
        f"## Data\n\n{_describe_data(params, tags, counts)}",
        f"## Recipe\n\n{_describe_recipe(params, tags, metrics)}",
        f"## Results on the test part\n\n{_describe_results(metrics, scores)}",
        "## Limits\n\n"
        "- Not a medical device. Numbers, names of drugs and doses in its text need a person's check.\n"
        "- On silence and noise Whisper may write text that nobody spoke.\n"
        "- Trained on clips of at most 30 s. Longer audio is cut into windows; words at a cut may be lost or doubled.\n"
        "- Groups with few speakers have wide intervals; what is not listed was not measured.",
        "## Licence\n\n"
        "Whisper's code and weights are MIT. The recordings of AI Hub data set 208 may not be passed on, and its terms "
        "govern what may be done with models trained on them: read them before handing this one to others.",
        "## Use\n\n```python\nimport mlflow, pandas as pd\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}@challenger")\n'
        'model.predict(pd.DataFrame({"path": ["speech.wav"]}), params={"detail": True})\n```\n\n'
        "The checkpoint beside this card also loads with `whisper.load_model(path)`.",
    ]
    return "\n\n".join(parts) + "\n"


def _describe_data(params: Mapping[str, str], tags: Mapping[str, str], counts: Mapping[str, Any]) -> str:
    synthetic = tags["kmed.synthetic"] == "true" if "kmed.synthetic" in tags else is_synthetic(params)
    lines = [_SYNTHETIC if synthetic else "AI Hub data set 208, or speech in its layout."]
    if counts:
        lines.append(f"Clips: {', '.join(f'{part} {n}' for part, n in counts.items())}.")
    if params.get("split.disjoint", "none") != "none":
        lines.append(f"No two parts share a {params['split.disjoint'].replace(',', ' or a ')}.")
    return " ".join([*lines, f"Split SHA-256: `{tags.get('kmed.split_sha256') or 'unknown'}`."])


def _describe_recipe(params: Mapping[str, str], tags: Mapping[str, str], metrics: Mapping[str, float]) -> str:
    settings = {key: params[f"train.{key}"] for key in _RECIPE if f"train.{key}" in params}
    for key in ("seed", "weights_origin", "weights_sha256", "train_precision", "code_version"):
        if tags.get(f"kmed.{key}"):
            settings[key] = tags[f"kmed.{key}"]
    rows = [(key.replace("_", " "), f"`{value}`") for key, value in settings.items()]
    chosen = f"Epoch {_whole(metrics.get('best/epoch'))} was kept: its valid CER of "
    chosen += f"{percent(metrics.get('best/valid_cer'))} was the lowest."
    return "\n".join(["AdamW, cross-entropy. " + chosen, "", *_table(("setting", "value"), rows)])


def _describe_results(metrics: Mapping[str, float], scores: Mapping[str, Any]) -> str:
    overall = scores.get("overall") or {}
    if not overall and "test/cer" not in metrics:
        return "Not measured."
    found = {key.removeprefix("test/"): value for key, value in metrics.items() if key.startswith("test/")} | overall
    low, high = found.get("cer_low"), found.get("cer_high")
    interval = f"{percent(low)} to {percent(high)}" if low is not None and high is not None else ""
    rows: list[Sequence[str]] = [
        ("fine-tuned", percent(found.get("cer")), interval, percent(found.get("wer"))),
        ("untouched", percent(metrics.get("untouched/test_cer")), "", percent(metrics.get("untouched/test_wer"))),
    ]
    lines = _table(("model", "CER", "95 %", "WER"), rows)
    if scores:
        lines += [
            "",
            f"{overall.get('n_clips', '?')} clips of {overall.get('n_speakers', '?')} speakers; policy "
            f"{scores.get('transcript_policy')}, normaliser {scores.get('normaliser_version')}.",
        ]
    groups = _worst_groups(scores)
    if groups:
        lines += ["", "The groups with the highest CER, of those large enough to rank:", ""]
        lines += _table(("group", "CER", "95 %", "clips", "speakers"), groups)
    gap = (scores.get("elderly_gap") or {}).get("cer_gap")
    if gap is not None:
        lines += ["", f"Speakers aged 60 and over: CER {100 * gap:+.1f} points against the rest."]
    return "\n".join(lines)


def _worst_groups(scores: Mapping[str, Any]) -> list[Sequence[str]]:
    cells = [
        (cell["cer"], f"{field} {value}", cell)
        for field in GROUP_FIELDS
        for value, cell in scores.get("groups", {}).get(field, {}).items()
        if cell.get("cer") is not None and not cell.get("below_minimum")
    ]
    worst = sorted(cells, key=lambda found: found[:2], reverse=True)[:_SINGLE_CELLS]
    return [
        (name, percent(cer), _interval(cell, "").strip(" ()"), str(cell["n_clips"]), str(cell["n_speakers"]))
        for cer, name, cell in worst
    ]


def _train_cells(run: TrainRecord) -> tuple[str, ...]:
    metrics = run.metrics
    return (
        run.size,
        str(run.seed),
        percent(metrics.get("untouched/test_cer")),
        f"**{percent(metrics.get('test/cer'))}**",
        _interval(metrics).strip(" ()"),
        _whole(metrics.get("best/epoch")),
        percent(metrics.get("best/valid_cer")),
        run.status.lower(),
    )


def _describe_split(split: Mapping[str, Any]) -> str:
    if not split:
        return "No split was made."
    counts = ", ".join(f"{part} {n}" for part, n in split.get("counts", {}).items())
    leakage = split.get("leakage") or {}
    shared = ", ".join(f"{n} {kind}" for kind, n in leakage.items() if isinstance(n, int))
    lines = f"Split `{str(split.get('sha256', ''))[:12]}`: {counts}."
    return f"{lines} Shared between parts: {shared}." if shared else lines


def is_synthetic(params: Mapping[str, str]) -> bool:
    """Tell whether settings, as logged, name no source, which means the generated demo corpus."""
    return params.get("data.source") == "none"


def percent(value: float | None) -> str:
    """Return a fraction for people's eyes; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _whole(value: float | None) -> str:
    return "–" if value is None else str(int(value))


def _interval(figures: Mapping[str, Any], prefix: str = "test/") -> str:
    low, high = figures.get(f"{prefix}cer_low"), figures.get(f"{prefix}cer_high")
    return "" if low is None or high is None else f" ({percent(low)} to {percent(high)})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
