"""Registered models: logging, promotion, cards, the pyfunc model and checkpoints."""
