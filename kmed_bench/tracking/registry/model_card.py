"""Model cards, as Markdown made from records."""

from collections.abc import Mapping, Sequence
from typing import Any

from kmed_bench.core.quantities import percent
from kmed_bench.core.records import is_synthetic
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.tracking.run_notes import _SYNTHETIC, _interval, _table, _whole

_RECIPE = ("epochs", "batch_size", "lr", "max_len", "weight_decay", "warmup_steps", "grad_clip", "audio_context")


_SINGLE_CELLS = 5
"""A card names this many of the worst groups; all of them are in scores.json."""


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
    lines = [_SYNTHETIC if is_synthetic(params, tags) else "AI Hub data set 208, or speech in its layout."]
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
