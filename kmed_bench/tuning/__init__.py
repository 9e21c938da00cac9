"""Search for training settings with Optuna, which only this room imports; training works without it."""
