"""Which tokens may come next: openai-whisper's suppressions, and a guard against repetition loops."""

import dataclasses
from collections.abc import Sequence

import torch
from whisper.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class DecodedTokens:
    """The tokens that a search wrote for one clip.

    Attributes
    ----------
    tokens : list of int
        Without prompt and end-of-text.
    ngram_blocked : bool
        Whether the repetition guard ruled out a token that the search would have considered.
    """

    tokens: list[int]
    ngram_blocked: bool


class LogitFilters:
    """Filters that mask logits in place before a token is chosen.

    Parameters
    ----------
    no_repeat_ngram_size : int, optional
        Length n of the token n-grams that a text may contain only once; None: no guard. The rule is that of Paulus,
        Xiong and Socher, A Deep Reinforced Model for Abstractive Summarization (2017), section 2.5, known as
        ``no_repeat_ngram_size`` in transformers and faster-whisper.
    n_candidates : int
        Number of a text's most likely next tokens that the search considers.
    """

    def __init__(self, tokenizer: Tokenizer, *, no_repeat_ngram_size: int | None = None, n_candidates: int = 1) -> None:
        self._never, self._never_first = suppressed_tokens(tokenizer)
        self._ngram_size, self._n_candidates = no_repeat_ngram_size, n_candidates

    def apply(self, logits: torch.Tensor, texts: Sequence[Sequence[int]]) -> list[bool]:
        """Mask the logits that follow each text; return for each text whether a candidate was a repetition.

        Parameters
        ----------
        logits : torch.Tensor
            Shape (n_texts, n_vocab).
        """
        logits[:, self._never] = -torch.inf
        if not texts[0]:
            logits[:, self._never_first] = -torch.inf
        if self._ngram_size is None:
            return [False] * len(texts)
        return [self._block(row, would_repeat(text, self._ngram_size)) for row, text in zip(logits, texts, strict=True)]

    def _block(self, row: torch.Tensor, repeating: list[int]) -> bool:
        if not repeating:
            return False
        candidates = row.topk(self._n_candidates).indices.tolist()
        row[repeating] = -torch.inf
        return not set(candidates).isdisjoint(repeating)


def would_repeat(text: Sequence[int], n: int) -> list[int]:
    """Return the tokens that would complete an n-gram which the text already contains."""
    prefix = list(text[len(text) - n + 1 :])
    starts = range(len(text) - n + 1)
    return sorted({text[i + n - 1] for i in starts if list(text[i : i + n - 1]) == prefix})


def suppressed_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the tokens that openai-whisper's default options never write, and those never written first."""
    never = {
        *tokenizer.non_speech_tokens,
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
    }
    if tokenizer.no_speech is not None:
        never.add(tokenizer.no_speech)
    return sorted(never), [*tokenizer.encode(" "), tokenizer.eot]
