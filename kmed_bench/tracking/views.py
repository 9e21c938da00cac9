"""Views of an experiment's runs in the MLflow UI: chosen columns, groups and charts behind a link.

MLflow keeps a shared view as JSON in a tag of the experiment and opens it by its key (the UI's "Share" does the same).
Its fields are those of MLflow 3.17's ExperimentPageUIState and ExperimentPageSearchFacetsState.
"""

import json
from urllib.parse import quote, urlencode

_TAG = "mlflow.sharedViewState."
_TRAININGS = {"searchFilter": "tags.`kmed.kind` = 'train'", "orderByKey": "metrics.`test/cer`", "orderByAsc": True}
_COLUMNS = (
    "params.`train.lr`",
    "params.`train.epochs`",
    "params.`train.batch_size`",
    "metrics.`untouched/test_cer`",
    "metrics.`test/cer`",
    "metrics.`test/wer`",
    "metrics.`best/valid_cer`",
    "metrics.`best/epoch`",
    "metrics.`speed/test_rtfx`",
)
_GROUPS = ("kmed.bench_name", "kmed.size")
# The names of groups are long; the figures need few of MLflow's sixteen digits.
_WIDTHS = {"attributes.`Run Name`": 480, "runDateAndNestInfo": 130, "duration": 80} | dict.fromkeys(_COLUMNS, 95)
_IS_CURVE = "^(train|valid|step)/"
TABLE, CURVES = "kmed-table", "kmed-curves"


def shared_views() -> dict[str, str]:
    """Return the tags of an experiment of benchmarks that hold its shared views."""
    groups = [{"mode": "tag", "groupByData": tag} for tag in _GROUPS]
    table = {
        **_TRAININGS,
        "selectedColumns": _COLUMNS,
        "columnOrder": list(_WIDTHS),  # MLflow sets no width of a column that is not in the order
        "columnWidths": _WIDTHS,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": groups},
    }
    charts = {**_TRAININGS, "selectedColumns": _COLUMNS, "chartsSearchFilter": _IS_CURVE, "runsHiddenMode": "SHOW_ALL"}
    return {f"{_TAG}{key}": json.dumps(view) for key, view in ((TABLE, table), (CURVES, charts))}


def view_link(experiment_id: str, key: str) -> str:
    """Return the fragment of an MLflow UI address that opens a shared view of an experiment."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": key}
    if key == CURVES:
        query["compareRunsMode"] = "CHART"
    return f"#/experiments/{experiment_id}/runs?{urlencode(query, quote_via=quote)}"
