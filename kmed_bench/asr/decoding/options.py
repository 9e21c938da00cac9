"""How clips are decoded."""

import dataclasses

from kmed_bench.asr.model.device import Precision
from kmed_bench.config import Context, EvalConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingOptions:
    """Settings of decoding; the language is always Korean.

    Attributes
    ----------
    batch_size : int
        Clips that are decoded together. On a GPU, greedy decoding in the full window takes as many as fit instead.
    context : {"full", "dynamic"}
        Audio window: the whole 30 s, or the clip and pooled silence (`Window.for_clips`).
    precision : {"fp32", "bf16", "fp16"}
        Arithmetic of the encoder and of the attention to its output; the rest of the decoder computes in fp32.
    max_new_tokens : int
        Maximum length of a transcript in tokens; openai-whisper's limit of 224, half of the text positions, also holds.
    beam_size : int
        Hypotheses followed at a time; 1 is greedy.
    no_repeat_ngram_size : int or None
        No n-gram of this many tokens may occur twice in a transcript (`LogitFilters`).
    """

    batch_size: int = 8
    context: Context = "full"
    precision: Precision = "fp32"
    max_new_tokens: int = 224
    beam_size: int = 1
    no_repeat_ngram_size: int | None = None

    @classmethod
    def from_config(cls, config: EvalConfig) -> "DecodingOptions":
        """Return the options that the settings of evaluation ask for."""
        return cls(
            batch_size=config.batch_size,
            context=config.audio_context,
            precision=config.precision,
            max_new_tokens=config.max_new_tokens,
            beam_size=config.beam_size,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
        )
