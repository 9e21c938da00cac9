"""Whisper: weights, tokenizer, device, audio window and the forward pass."""
