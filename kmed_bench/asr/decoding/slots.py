"""Greedy decoding of clips that come and go in the slots of a static key-value cache, as suits a GPU.

A step is a function of tensors of fixed shape at fixed addresses, and the host reads none of them, so a GPU runs it as
one CUDA graph instead of waiting for 160 launches (base). Each slot has its own position, so a clip may start in one
while others go on: continuous batching, the iteration-level scheduling of Yu et al., Orca (OSDI 2022). Slots whose text
has ended, and empty ones, compute on and change nothing. The texts are `decode_greedy`'s.
"""

from collections.abc import Sequence

import torch

from kmed_bench.asr.decoding.logit_filters import DecodedTokens, SlotFilters
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.device import send
from kmed_bench.asr.model.gpu_layers import GPU
from kmed_bench.asr.model.graphs import GraphRunner
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.whisper import EncoderOutput, Whisper
from kmed_bench.core.batching import round_up

# Attention's length in steps is rounded up to this, so that a decoding records four graphs at most. A multiple of 16,
# since torch's memory-efficient attention copies a mask whose rows are not aligned.
_VISIBLE_STEP = 64


class Slots:
    """Texts that are written side by side, one a slot.

    All methods expect the contexts of decoding: ``torch.inference_mode``, no autocast.

    Parameters
    ----------
    n_slots : int
        Texts at a time.
    dtype : torch.dtype
        Type of the encoder's output.

    Attributes
    ----------
    texts : torch.Tensor
        Tokens, prompt included, shape (n_slots, longest text).
    positions : torch.Tensor
        Position of each text's last token, shape (n_slots,).
    ended : torch.Tensor
        Whether the slot's text has ended, or it has none; shape (n_slots,).
    ngram_blocked : torch.Tensor
        As in `DecodedTokens`, shape (n_slots,).
    """

    def __init__(self, model: Whisper, options: DecodingOptions, n_slots: int, dtype: torch.dtype) -> None:
        tokenizer, device = korean_tokenizer(), model.device
        prompt = tokenizer.sot_sequence_including_notimestamps
        self._model, self._eot, self._n_prompt = model, tokenizer.eot, len(prompt)
        # The last token is written but never read.
        self._last = self._n_prompt + max_new_tokens(model, options) - 1
        self.capacity = text_capacity(model, options)
        self._filters = SlotFilters(
            tokenizer, device, prompt_length=len(prompt), no_repeat_ngram_size=options.no_repeat_ngram_size
        )
        self._cache = model.start_slots(n_slots, self.capacity, dtype)
        self.texts = torch.full((n_slots, self.capacity), tokenizer.eot, device=device)
        self.texts[:, : self._n_prompt] = torch.tensor(prompt, device=device)
        self.positions = torch.zeros(n_slots, dtype=torch.long, device=device)
        self.ended = torch.ones(n_slots, dtype=torch.bool, device=device)
        self.ngram_blocked = torch.zeros(n_slots, dtype=torch.bool, device=device)
        self._graphs = GraphRunner(device)
        self._clips: dict[int, str] = {}  # by slot
        self._n_steps: dict[int, int] = {}  # of each clip, at most: the host does not know which have ended
        self.free = list(range(n_slots))

    @property
    def n_live(self) -> int:
        """Number of clips that have slots."""
        return len(self._clips)

    def fill(self, names: Sequence[str], audio: EncoderOutput) -> None:
        """Start the texts of clips in free slots."""
        taken, self.free = self.free[: len(names)], self.free[len(names) :]
        self._clips |= zip(taken, names, strict=True)
        self._n_steps |= dict.fromkeys(taken, 0)
        slots = send(torch.tensor(taken), self.ended.device)
        pairs = self._model.audio_keys_values(audio.features)
        for layer, pair in zip(self._cache.layers, pairs, strict=True):
            for kept, new in zip(layer.audio, pair, strict=True):
                kept.index_copy_(0, slots, new)
        self.positions.index_fill_(0, slots, 0)
        self.ended.index_fill_(0, slots, False)
        self.ngram_blocked.index_fill_(0, slots, False)

    def advance(self, n_steps: int) -> None:
        """Let every text grow by this many tokens, those of the prompt included; a GPU computes them later."""
        self._n_steps = {slot: done + n_steps for slot, done in self._n_steps.items()}
        n_visible = min(round_up(max(self._n_steps.values()), _VISIBLE_STEP), self.capacity)
        for _ in range(n_steps):
            self._graphs.run(n_visible, lambda: self.step(n_visible))

    def step(self, n_visible: int) -> tuple[torch.Tensor, ...]:
        """Write one token of each text that has not ended; return the flags of those that have.

        Parameters
        ----------
        n_visible : int
            Leading positions of the texts that attention reads: at least as many as a text that goes on has tokens.
        """
        tokens = self.texts.gather(1, self.positions[:, None])[:, 0]
        logits = self._model.slot_logits(tokens, self.positions, self._cache, n_visible, GPU)
        best, blocked = self._filters.choose(logits, self.texts, self.positions)
        following = self.positions + 1
        # Where the prompt goes on, its token is there already.
        writes = (following >= self._n_prompt) & ~self.ended
        kept = self.texts.gather(1, following[:, None])
        self.texts.scatter_(1, following[:, None], torch.where(writes[:, None], best[:, None], kept))
        if blocked is not None:
            self.ngram_blocked |= blocked & writes
        self.ended |= writes & ((best == self._eot) | (following == self._last))
        self.positions += ~self.ended
        return (self.ended,)

    def collect(self) -> list[tuple[str, DecodedTokens]]:
        """Return the clips whose texts have ended since the last call, and free their slots; waits for the GPU."""
        ended = self.ended.tolist()
        slots = [slot for slot in self._clips if ended[slot]]
        if not slots:
            return []
        found = torch.cat([self.ngram_blocked[:, None].long(), self.texts[:, self._n_prompt : self._last + 1]], dim=1)
        rows = found[send(torch.tensor(slots), found.device)].tolist()
        self.free += slots
        return [(self._release(slot), self._text(row)) for slot, row in zip(slots, rows, strict=True)]

    def _release(self, slot: int) -> str:
        del self._n_steps[slot]
        return self._clips.pop(slot)

    def _text(self, row: list[int]) -> DecodedTokens:
        blocked, *tokens = row
        return DecodedTokens(tokens[: tokens.index(self._eot)] if self._eot in tokens else tokens, bool(blocked))


def max_new_tokens(model: Whisper, options: DecodingOptions) -> int:
    """Return the most tokens of a transcript: the option's, and at most half of the text positions."""
    return min(options.max_new_tokens, model.dims.n_text_ctx // 2)


def text_capacity(model: Whisper, options: DecodingOptions) -> int:
    """Return the positions that a slot's text takes in memory: prompt and transcript, rounded up to 16."""
    n_prompt = len(korean_tokenizer().sot_sequence_including_notimestamps)
    return round_up(n_prompt + max_new_tokens(model, options), 16)
