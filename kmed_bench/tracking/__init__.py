"""Everything that talks to MLflow; no other package imports it."""

import os

# MLflow reads these while it is imported. Whoever tracks patient speech sends no usage data; and the bars of small
# files would tear up the progress of the benchmark itself.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
