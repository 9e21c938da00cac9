"""Search for settings of training with Optuna: the only room that imports it; training works without."""
