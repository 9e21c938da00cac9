"""Fine-tuning: the loop, its state, adapters, the original protocol."""
