"""Model cards, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from kmed_bench.core.contracts import RuleVersions, Scores
from kmed_bench.core.quantities import percent
from kmed_bench.core.records import is_synthetic
from kmed_bench.core.schema import GROUP_FIELDS
from kmed_bench.core.version import lock_sha256
from kmed_bench.scoring.verdict import RECOMMENDED_TAG, VERDICT_TEXT_TAG
from kmed_bench.tracking.markdown import SYNTHETIC_NOTE, interval, table, whole_number

_RECIPE = ("epochs", "batch_size", "lr", "max_len", "weight_decay", "warmup_steps", "grad_clip", "audio_context")
_WORST_GROUPS = 5
"""Number of groups on a card; all of them are in scores.json."""
LIMITS = (
    "Not a medical device. A person must check numbers, drug names and doses in its text.",
    "On silence and noise Whisper may write text that nobody spoke.",
    "Trained on clips of at most 30 s. Longer audio is cut into windows; words at a cut may be lost or doubled.",
    "Groups with few speakers have wide intervals; what is not listed was not measured.",
)
TERMS = (
    "The recordings of AI Hub data set 208 may not be redistributed, and its terms govern what may be done with models "
    "trained on them: read them before sharing this one."
)


def describe_registered(size: str) -> str:
    """Return the description of a registered model, whose versions each have a model card."""
    return (
        f"Whisper {size}, fine-tuned on Korean medical speech: one version per training, with its model card. "
        "`challenger` is the version with the lowest valid CER of those measured on one split; `champion` is the one "
        "that passed the gate of `kmed-bench promote`. Not a medical device.\n"
    )


def write_card(
    *,
    name: str,
    size: str,
    params: Mapping[str, str],
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    scores: Scores | None,
    counts: Mapping[str, int],
) -> str:
    """Return a model card: what it is, data, recipe, results with intervals and groups, limits, licence, use.

    Parameters
    ----------
    params : mapping
        Settings as logged, by dotted name.
    scores : dict or None
        ``scores.json`` of the test part; None if nothing was scored.
    counts : mapping
        Clips per part, as in the run's dataset.
    """
    verdict = tags.get(VERDICT_TEXT_TAG, "")
    advice = "" if tags.get(RECOMMENDED_TAG, "true") == "true" else " **Not recommended: use the untouched model.**"
    parts = [
        f"# {name}\n\nWhisper {size}, fine-tuned on Korean medical speech: Korean audio in, Korean text out.",
        *([f"## Verdict\n\n{verdict}{advice}"] if verdict else []),
        f"## Data\n\n{_describe_data(params, tags, counts)}",
        f"## Recipe\n\n{_describe_recipe(params, tags, metrics)}",
        f"## Results on the test part\n\n{_describe_results(metrics, scores)}",
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in LIMITS),
        f"## Licence\n\nWhisper's code and weights are MIT. {TERMS}",
        f"## Passport\n\n{_describe_passport(tags, scores)}",
        "## Use\n\n```python\nimport mlflow, pandas as pd\n"
        f'model = mlflow.pyfunc.load_model("models:/{name}@challenger")\n'
        'model.predict(pd.DataFrame({"path": ["speech.wav"]}), params={"detail": True})\n```\n\n'
        "The checkpoint beside this card also loads with `whisper.load_model(path)`.",
    ]
    return "\n\n".join(parts) + "\n"


def _describe_data(params: Mapping[str, str], tags: Mapping[str, str], counts: Mapping[str, int]) -> str:
    lines = [SYNTHETIC_NOTE if is_synthetic(params, tags) else "AI Hub data set 208, or speech in its layout."]
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
    chosen = f"Epoch {whole_number(metrics.get('best/epoch'))} was kept: its valid CER of "
    chosen += f"{percent(metrics.get('best/valid_cer'))} was the lowest."
    return "\n".join(["AdamW, cross-entropy. " + chosen, "", *table(("setting", "value"), rows)])


def _describe_passport(tags: Mapping[str, str], scores: Scores | None) -> str:
    """Return what tells this model from every other one; passport.json has it for programs."""
    rules: Mapping[str, Any] = scores or {}
    rows = [
        ("checkpoint SHA-256", tags.get("kmed.checkpoint_sha256")),
        ("weights it was trained from, SHA-256", tags.get("kmed.weights_sha256")),
        ("split", tags.get("kmed.split_label")),
        *((name.replace("_", " "), rules.get(name)) for name in RuleVersions.__annotations__),
        ("requirements.lock SHA-256", lock_sha256()),
    ]
    lines = table(("what", "value"), [(name, f"`{value}`") for name, value in rows if value])
    return "\n".join([*lines, "", "`kmed-bench verify MODEL` checks the files of a model against its `passport.json`."])


def _describe_results(metrics: Mapping[str, float], scores: Scores | None) -> str:
    if scores is None and "test/cer" not in metrics:
        return "Not measured."
    figures: dict[str, Any] = {
        name.removeprefix("test/"): metrics[name] for name in metrics if name.startswith("test/")
    }
    if scores:
        figures |= scores["overall"]
    rows: list[Sequence[str]] = [
        ("fine-tuned", percent(figures.get("cer")), interval(figures), percent(figures.get("wer"))),
        ("untouched", percent(metrics.get("untouched/test_cer")), "", percent(metrics.get("untouched/test_wer"))),
    ]
    lines = table(("model", "CER", "95 %", "WER"), rows)
    if scores is None:
        return "\n".join(lines)
    lines += [
        "",
        f"{figures['n_clips']} clips of {figures['n_speakers']} speakers; policy {scores['transcript_policy']}, "
        f"normaliser {scores['normaliser_version']}.",
    ]
    groups = _worst_groups(scores)
    if groups:
        lines += ["", "The groups with the highest CER, of those large enough to rank:", ""]
        lines += table(("group", "CER", "95 %", "clips", "speakers"), groups)
    gap = scores["elderly_gap"]["cer_gap"]
    if gap is not None:
        lines += ["", f"The CER of speakers aged 60 and over is {100 * gap:+.1f} points from the rest's."]
    return "\n".join(lines)


def _worst_groups(scores: Scores) -> list[Sequence[str]]:
    cells = [
        (cell["cer"], f"{field} {value}", cell)
        for field in GROUP_FIELDS
        for value, cell in scores["groups"].get(field, {}).items()
        if cell["cer"] is not None and not cell["below_minimum"]
    ]
    worst = sorted(cells, key=lambda entry: entry[:2], reverse=True)[:_WORST_GROUPS]
    return [
        (name, percent(cer), interval(cell), str(cell["n_clips"]), str(cell["n_speakers"])) for cer, name, cell in worst
    ]
