"""Whisper's forward pass, written once for training, validation and decoding.

`Whisper` is openai-whisper's network with the same tensors under the same names. openai-whisper's own ``forward`` and
``whisper.decode`` still work on it, which the original's recipe and the tests use; all else in this package calls the
methods below.
"""

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
import whisper.model
from whisper.model import AudioEncoder, MultiHeadAttention, ResidualAttentionBlock

from kmed_bench.asr.model.execution import STANDARD, Execution, project
from kmed_bench.asr.model.kv_cache import KVCache, LayerCache
from kmed_bench.asr.model.windows import FULL_WINDOW, Window

# Candidates of a step. Rounding to bf16 moves a logit by some hundredths, too little to make a lower one the best.
_N_RECOMPUTED = 32


@dataclasses.dataclass(frozen=True)
class EncoderOutput:
    """What the decoder attends to.

    Attributes
    ----------
    features : torch.Tensor
        Shape (batch, n_positions, n_state).
    log_counts : torch.Tensor or None
        Logarithm of the number of positions of the 30 s window that each position represents, shape (n_positions,);
        attention adds it to the logits of each key. None: each position represents itself only.
    """

    features: torch.Tensor
    log_counts: torch.Tensor | None = None

    def to(self, device: torch.device) -> "EncoderOutput":
        """Return the same on a device."""
        log_counts = None if self.log_counts is None else self.log_counts.to(device)
        return EncoderOutput(self.features.to(device), log_counts)


class Whisper(whisper.model.Whisper):
    """openai-whisper's network with pooled windows, a static key-value cache and exchangeable kernels."""

    @classmethod
    def from_openai(cls, model: whisper.model.Whisper) -> "Whisper":
        """Return an openai-whisper model as one of ours that shares its weights."""
        converted = cls(model.dims)
        converted.encoder, converted.decoder = model.encoder, model.decoder
        converted.alignment_heads = model.alignment_heads
        return converted.train(model.training)

    def encode(self, mel: torch.Tensor, window: Window = FULL_WINDOW, execution: Execution = STANDARD) -> EncoderOutput:
        """Return the encoder's output for a window.

        Parameters
        ----------
        mel : torch.Tensor
            The window's first log-mel frames, shape (batch, 80, at least ``window.n_frames``). With the full window,
            fewer frames give the output of a window cut to them.
        """
        encoder = self.encoder
        x = execution.compile(_encoder_input)(encoder, mel, window)
        log_counts = window.log_counts(x.device)
        for block in encoder.blocks:
            x = execution.run(_encoder_block, block, x, log_counts, execution)
        return EncoderOutput(execution.layer_norm(encoder.ln_post, x), log_counts)

    def decoder_states(
        self, embedded: torch.Tensor, audio: EncoderOutput, execution: Execution = STANDARD
    ) -> torch.Tensor:
        """Return the decoder's states before its last layer norm, shape (batch, n_tokens, n_state).

        ``decoder.ln`` of them, times the token embedding, is openai-whisper's ``decoder(tokens, features)``.

        Parameters
        ----------
        embedded : torch.Tensor
            Embeddings of all tokens, each of which sees those before it; shape (batch, n_tokens, n_state).
        """
        x = (embedded + self.decoder.positional_embedding[: embedded.shape[1]]).to(audio.features.dtype)
        blocks, project_all = self.decoder.blocks, execution.project_audio
        sources = [audio.features] * len(blocks)
        if project_all is not None:
            sources = execution.compile(project_all)(blocks, audio.features)
        for block, source in zip(blocks, sources, strict=True):
            x = execution.run(_decoder_block, block, x, source, audio.log_counts, execution)
        return x

    def start_cache(self, audio: EncoderOutput, n_tokens: int) -> KVCache:
        """Return an empty cache for decoding clips step by step.

        Parameters
        ----------
        audio : EncoderOutput
            Its type becomes that of cross-attention's keys and values, by far the largest tensors that a step reads.
            A step computes in fp32 otherwise: its few rows take little time, and rounding would decide near ties.
        n_tokens : int
            Maximum length of a text, prompt included.
        """
        n_tokens = min(n_tokens, self.dims.n_text_ctx)
        layers = []
        for projected in self.audio_keys_values(audio.features):
            pair = [x.contiguous() for x in projected]  # each head's positions adjacent, as every step reads them
            shape = (*pair[0].shape[:2], n_tokens, pair[0].shape[-1])
            layers.append(LayerCache(pair, [x.new_empty(shape, dtype=torch.float32) for x in pair]))
        return KVCache(layers, audio.log_counts, self._narrow_output(audio.features.dtype))

    def start_slots(self, n_slots: int, n_tokens: int, dtype: torch.dtype) -> KVCache:
        """Return an empty cache of clips that come and go in slots, whose audio is in the full window.

        Parameters
        ----------
        dtype : torch.dtype
            Type of the encoder's output, as in `start_cache`.
        """
        dims = self.dims
        shape = (n_slots, dims.n_text_head, dims.n_audio_ctx, dims.n_text_state // dims.n_text_head)
        layers = []
        for _ in self.decoder.blocks:
            # Zeros, because attention multiplies masked values by 0, and uninitialized memory may hold NaN.
            audio = [torch.zeros(shape, dtype=dtype, device=self.device) for _ in range(2)]
            text_shape = (*shape[:2], n_tokens, shape[3])
            layers.append(LayerCache(audio, [x.new_zeros(text_shape, dtype=torch.float32) for x in audio]))
        return KVCache(layers, None, self._narrow_output(dtype))

    def audio_keys_values(self, features: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Yield each layer's cross-attention keys and values, shape (batch, n_head, n_positions, n_state / n_head)."""
        for block in self.decoder.blocks:
            yield project(block.cross_attn, features, "key", "value")

    def next_logits(self, tokens: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Return the logits of the tokens after new ones, shape (n_rows, n_vocab), fp32.

        The new tokens, shape (n_rows, n_new), are added to the cache.
        """
        start = cache.length
        cache.length = start + tokens.shape[1]
        return self._logits(
            tokens, self.decoder.positional_embedding[start : cache.length], cache, (start, cache.length)
        )

    def slot_logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: KVCache,
        n_visible: int,
        execution: Execution = STANDARD,
    ) -> torch.Tensor:
        """Return the logits of the tokens after each slot's new one, shape (n_slots, n_vocab), fp32.

        Shapes do not depend on values, which the host does not read, so a CUDA graph can record it.

        Parameters
        ----------
        tokens, positions : torch.Tensor
            Each slot's new token and where it stands in the slot's text, shape (n_slots,).
        n_visible : int
            Leading positions of the texts that attention reads; it masks those after a slot's own.
        """
        # On a GPU the mask leaves torch its memory-efficient attention, which takes fp32. Cross-attention has none, so
        # 16-bit keys go to flash attention, and those in fp32 to the memory-efficient one.
        later = torch.arange(n_visible, device=positions.device) > positions[:, None]
        mask = torch.zeros(later.shape, device=later.device).masked_fill_(later, -torch.inf)[:, None, None]
        embedding = F.embedding(positions, self.decoder.positional_embedding)[:, None]
        return self._logits(tokens[:, None], embedding, cache, (positions, n_visible), mask, execution)

    def _logits(
        self,
        tokens: torch.Tensor,
        embedding: torch.Tensor,
        cache: KVCache,
        span: tuple[int | torch.Tensor, int],
        mask: torch.Tensor | None = None,
        execution: Execution = STANDARD,
    ) -> torch.Tensor:
        decoder = self.decoder
        x = decoder.token_embedding(tokens) + embedding
        for block, layer in zip(decoder.blocks, cache.layers, strict=True):
            x = _decoder_block(block, x, layer.audio, cache.log_counts, execution, layer, span, mask)
        return _output_logits(decoder.ln(x[:, -1]), decoder.token_embedding.weight, cache.narrow_output)

    def _narrow_output(self, dtype: torch.dtype) -> torch.Tensor | None:
        # A GPU computes all logits in fp32 in the time that it takes to find the likeliest ones.
        on_cpu = self.device.type == "cpu"
        return self.decoder.token_embedding.weight.to(dtype) if on_cpu and dtype != torch.float32 else None


def _encoder_input(encoder: AudioEncoder, mel: torch.Tensor, window: Window) -> torch.Tensor:
    """Return what the encoder's first block reads, shape (batch, n_positions, n_state)."""
    x = F.gelu(encoder.conv1(mel[:, :, : window.n_frames]))
    x = F.gelu(encoder.conv2(x)).permute(0, 2, 1)
    if window.is_full:
        x = x.contiguous()  # otherwise every later layer would copy it
        embedding = encoder.positional_embedding[: x.shape[1]]
    else:
        # Silence gives the same at every position, so the convolutions need not compute all of it.
        n_read = window.n_read
        silence = x[:, n_read : n_read + 1].expand(-1, len(window.counts) - n_read, -1)
        x = torch.cat([x[:, :n_read], silence], dim=1)
        embedding = encoder.positional_embedding[window.positions(x.device)]
    return (x + embedding).to(x.dtype)


def _encoder_block(
    block: ResidualAttentionBlock, x: torch.Tensor, log_counts: torch.Tensor | None, execution: Execution
) -> torch.Tensor:
    normed = execution.layer_norm(block.attn_ln, x)
    queries, keys, values = execution.project(block.attn, normed, "query", "key", "value")
    x = x + _attend(block.attn, queries, keys, values, execution, log_counts)
    return x + block.mlp(execution.layer_norm(block.mlp_ln, x))


def _decoder_block(
    block: ResidualAttentionBlock,
    x: torch.Tensor,
    audio: torch.Tensor | list[torch.Tensor],
    log_counts: torch.Tensor | None,
    execution: Execution,
    layer: LayerCache | None = None,
    span: tuple[int | torch.Tensor, int] = (0, 0),
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return a block's output for tokens of the ``span`` (`LayerCache.append`), which ``mask`` keeps from later ones.

    ``audio`` is the encoder's output, or cross-attention's keys and values of it. ``layer`` has self-attention's of the
    tokens before.
    """
    normed = execution.layer_norm(block.attn_ln, x)
    queries, keys, values = execution.project(block.attn, normed, "query", "key", "value")
    if layer is not None:
        keys, values = layer.append([keys, values], *span)
    # Several tokens at once are a whole text or a prompt, so they start at position 0.
    x = x + _attend(block.attn, queries, keys, values, execution, mask, causal=x.shape[1] > 1)
    normed = execution.layer_norm(block.cross_attn_ln, x)
    pair = execution.project(block.cross_attn, audio, "key", "value") if isinstance(audio, torch.Tensor) else audio
    keys, values = pair
    # A clip's hypotheses attend to the same keys, as if they were one longer text.
    (queries,) = execution.project(block.cross_attn, normed.reshape(len(keys), -1, normed.shape[-1]), "query")
    x = x + _attend(block.cross_attn, queries, keys, values, execution, log_counts).reshape(x.shape)
    return x + block.mlp(execution.layer_norm(block.mlp_ln, x))


def _attend(
    attention: MultiHeadAttention,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    execution: Execution,
    bias: torch.Tensor | None = None,
    *,
    causal: bool = False,
) -> torch.Tensor:
    """Return what the queries' positions gather from the values, shape (batch, n_queries, n_state).

    ``bias``, added to the logits of the keys, is (n_keys,) for all queries alike or (batch, 1, 1, n_keys).
    """
    bias = None if bias is None else torch.atleast_2d(bias).to(keys.dtype)
    mixed = execution.attention(queries.to(keys.dtype), keys, values, bias, causal)
    return attention.out(mixed.transpose(1, 2).flatten(start_dim=2).to(queries.dtype))


def _output_logits(states: torch.Tensor, weight: torch.Tensor, narrow: torch.Tensor | None) -> torch.Tensor:
    """Return the logits of all tokens, shape (rows, n_vocab), fp32.

    The vocabulary's weight is most of what a CPU reads for a token. With a 16-bit copy of it (``narrow``) logits are
    computed in that type, except for the most likely ones: these are computed again in fp32, so rounding never decides
    between them.
    """
    if narrow is None:
        return F.linear(states, weight).float()  # autocast casts the weight once a batch, ``to`` at every token
    logits = F.linear(states.to(narrow.dtype), narrow).float()
    likely = logits.topk(_N_RECOMPUTED, dim=-1).indices
    exact = torch.einsum("rcs,rs->rc", F.embedding(likely, weight), states)
    return logits.scatter_(-1, likely, exact)
