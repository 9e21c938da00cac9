"""A random model of openai-whisper's shape: decodes in a moment, and what it writes depends on what it hears."""

from pathlib import Path

import torch
import whisper


def save_random_whisper(path: Path) -> Path:
    """Save the checkpoint in openai-whisper's format and return its path."""
    torch.manual_seed(2)
    dims = whisper.model.ModelDimensions(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=64,
        n_audio_head=2,
        n_audio_layer=1,
        n_vocab=51865,
        n_text_ctx=32,  # decoding stops after half of this
        n_text_state=64,
        n_text_head=2,
        n_text_layer=1,
    )
    model = whisper.model.Whisper(dims)
    with torch.no_grad():
        model.decoder.positional_embedding.normal_(std=0.1)  # openai-whisper leaves it uninitialised
        model.decoder.token_embedding.weight.normal_()
        for block in model.decoder.blocks:  # sharp attention: an average over 30 s hears nothing of a short clip
            for layer in (block.cross_attn.query, block.cross_attn.key, block.cross_attn.out):
                layer.weight.mul_(10)
    torch.save({"dims": dims.__dict__, "model_state_dict": model.state_dict()}, path)
    return path
