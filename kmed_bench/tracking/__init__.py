"""Everything that talks to MLflow; no other room imports it."""

import os

# MLflow reads these at import. No usage data may be sent while patient speech is tracked, and progress bars for small
# files would break up those of the benchmark itself.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# At the end of a run, MLflow prints the server's address to standard output, with the password that it may hold.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
