"""What MLflow tags runs and models with on its own: account, program, repository. Only the commit is kept."""

from collections.abc import Mapping

from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils import mlflow_tags

_PROGRAM = "kmed-bench"
HIDDEN = {
    mlflow_tags.MLFLOW_USER: _PROGRAM,
    mlflow_tags.MLFLOW_SOURCE_NAME: _PROGRAM,
    mlflow_tags.MLFLOW_GIT_BRANCH: "",
    mlflow_tags.MLFLOW_GIT_REPO_URL: "",
}
"""The account, the program's full path or the project's source, a branch and a remote may name a person or a place."""


def run_tags(own: Mapping[str, str]) -> dict[str, str]:
    """Return a new run's tags: its own, and those of MLflow's that name nobody."""
    return {key: value for key, value in resolve_tags({**own, **HIDDEN}).items() if value}


def hide_origin(client: MlflowClient, run_id: str) -> None:
    """Overwrite what ``mlflow run`` tagged its run with. Its params and the user of its record can't be changed."""
    before = client.get_run(run_id).data.tags
    for key, value in HIDDEN.items():
        if before.get(key, value) != value:
            client.set_tag(run_id, key, value)
