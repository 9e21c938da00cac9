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


class SlotFilters:
    """`LogitFilters` of one candidate on the texts' device: fixed shapes, and nothing that the host reads.

    Parameters
    ----------
    prompt_length : int
        Tokens of the prompt, which every row of the texts starts with; they are no part of an n-gram.
    """

    def __init__(
        self, tokenizer: Tokenizer, device: torch.device, *, prompt_length: int, no_repeat_ngram_size: int | None = None
    ) -> None:
        self._never, self._never_first = (torch.tensor(ids, device=device) for ids in suppressed_tokens(tokenizer))
        self._prompt_length, self._ngram_size = prompt_length, no_repeat_ngram_size

    def choose(
        self, logits: torch.Tensor, texts: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mask the logits; return each text's next token and, with a guard, whether it ruled out a likelier one.

        Parameters
        ----------
        logits : torch.Tensor
            Shape (n_slots, n_vocab).
        texts : torch.Tensor
            Tokens, prompt included, shape (n_slots, longest text).
        positions : torch.Tensor
            Position of each text's last token, shape (n_slots,); what the row has after it does not count.
        """
        logits.index_fill_(1, self._never, -torch.inf)
        first = (positions == self._prompt_length - 1)[:, None]
        logits.index_copy_(1, self._never_first, logits[:, self._never_first].masked_fill(first, -torch.inf))
        best = logits.argmax(dim=-1)
        if self._ngram_size is None or self._ngram_size > texts.shape[1]:
            return best, None
        followers, repeats = self._ngrams(texts, positions, self._ngram_size)
        blocked = (repeats & (followers == best[:, None])).any(dim=-1)
        limits = logits.new_full(followers.shape, torch.inf).masked_fill_(repeats, -torch.inf)
        return logits.scatter_reduce_(1, followers, limits, "amin").argmax(dim=-1), blocked

    def _ngrams(self, texts: torch.Tensor, positions: torch.Tensor, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last token of every n-gram, and whether the text so far ends as that n-gram begins."""
        last_tokens = positions[:, None] + torch.arange(2 - n, 1, device=positions.device)
        prefix = texts.gather(1, last_tokens.clamp_(min=0))
        ends = torch.arange(n - 1, texts.shape[1], device=positions.device)
        repeats = (texts.unfold(1, n - 1, 1)[:, : len(ends)] == prefix[:, None]).all(dim=-1)
        repeats &= (ends >= self._prompt_length + n - 1) & (ends <= positions[:, None])
        return texts[:, n - 1 :], repeats
