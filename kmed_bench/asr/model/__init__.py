"""Whisper: weights, tokenizer, device and the forward pass."""
