"""Data that a run read, as MLflow's inputs: names, counts and digests, no cell values and no paths."""

import json
from collections.abc import Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag, Run
from mlflow.utils import mlflow_tags

_DIGEST_CHARS = 36


def dataset_input(
    *, name: str, sha256: str, counts: Mapping[str, int], context: str, part: str | None, kind: str, digest_tag: str
) -> DatasetInput:
    """Return an input with a digest, clip counts and the kind of its source.

    Parameters
    ----------
    sha256 : str
        Of the data: 36 characters become MLflow's digest, all of it the tag ``digest_tag``.
    part : str or None
        The part that was used; None: all of it.
    kind : str
        What was read, such as ``split``: tag ``kmed.source_kind``.
    """
    n_clips = counts[part] if part else sum(counts.values())
    dataset = Dataset(
        name=name if part is None else f"{name}, {part}",
        digest=sha256[:_DIGEST_CHARS],
        source_type="code",  # the one of MLflow's types that needs no path or address
        source=json.dumps({"tags": {"corpus": name, "kind": kind}}),
        profile=json.dumps({"num_rows": n_clips, **{f"n_{key}": value for key, value in counts.items()}}),
    )
    tags = {mlflow_tags.MLFLOW_DATASET_CONTEXT: context, "kmed.source_kind": kind, digest_tag: sha256}
    return DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])


def datasets_of(run: Run) -> list[Dataset]:
    """Return the datasets that a run is linked to."""
    return [entry.dataset for entry in run.inputs.dataset_inputs] if run.inputs else []
