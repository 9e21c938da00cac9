"""Everything that talks to MLflow; no other package imports it."""
