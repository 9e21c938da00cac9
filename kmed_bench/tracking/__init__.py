"""Everything that talks to MLflow; no other package imports it."""

import os

# MLflow reads this once, while it is imported: whoever tracks patient speech sends no usage data.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
