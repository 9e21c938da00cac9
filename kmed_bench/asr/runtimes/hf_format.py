"""Whisper in the Hugging Face layout, made from openai-whisper's own data: tensors, tokenizer, generation settings.

Nothing is downloaded: the vocabulary is openai-whisper's tiktoken file, the alignment heads are the table in
openai-whisper's package.
"""

import base64
import functools
import gzip
import itertools
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import whisper
from whisper.model import ModelDimensions

from kmed_bench.asr.decoding.logit_filters import suppressed_tokens
from kmed_bench.asr.model.tensor_checks import check_finite, check_names
from kmed_bench.asr.model.tokenizer import N_VOCAB, korean_tokenizer
from kmed_bench.asr.model.weights import dimensions
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.asr.runtimes.libraries import import_transformers
from kmed_bench.core.errors import KmedError, brief
from kmed_bench.core.schema import SIZES

if TYPE_CHECKING:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

_MAX_INITIAL_TIMESTAMP_STEPS = 50  # openai-whisper's max_initial_timestamp of 1.0 s, in steps of 20 ms

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
_FEED_FORWARD = {"mlp.0": "fc1", "mlp.2": "fc2"}


def tensor_names(dims: ModelDimensions) -> dict[str, str]:
    """Return transformers' name of every tensor by openai-whisper's name."""
    names = {
        "encoder.positional_embedding": "model.encoder.embed_positions.weight",
        "decoder.positional_embedding": "model.decoder.embed_positions.weight",
        "decoder.token_embedding.weight": "model.decoder.embed_tokens.weight",
    }
    linears = {"encoder.conv1": "model.encoder.conv1", "encoder.conv2": "model.encoder.conv2"}
    linears |= {"encoder.ln_post": "model.encoder.layer_norm", "decoder.ln": "model.decoder.layer_norm"}
    keys: dict[str, str] = {}
    for side, n_layer in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        attentions = {"attn": "self_attn"} | ({"cross_attn": "encoder_attn"} if side == "decoder" else {})
        for i in range(n_layer):
            ours, theirs = f"{side}.blocks.{i}", f"model.{side}.layers.{i}"
            linears[f"{ours}.mlp_ln"] = f"{theirs}.final_layer_norm"
            linears |= {f"{ours}.{a}": f"{theirs}.{b}" for a, b in _FEED_FORWARD.items()}
            for attention, other in attentions.items():
                linears[f"{ours}.{attention}_ln"] = f"{theirs}.{other}_layer_norm"
                for a, b in _ATTENTION.items():
                    (keys if a == "key" else linears)[f"{ours}.{attention}.{a}"] = f"{theirs}.{other}.{b}"
    for kind in ("weight", "bias"):
        names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in linears.items()}
    # Whisper's key projections have no bias.
    return names | {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in keys.items()}


def write_hf_folder(model: Whisper, folder: Path) -> None:
    """Write safetensors, config, generation config, tokenizer and feature extractor.

    Raises
    ------
    KmedError
        When transformers is missing or the vocabulary is not the multilingual one of 51,865 tokens.
    """
    transformers = import_transformers()
    check_vocabulary(model.dims.n_vocab)
    network = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**_config(model.dims)))
    state = model.state_dict()
    renamed = {theirs: state[ours].detach().cpu().float() for ours, theirs in tensor_names(model.dims).items()}
    missing, unexpected = network.load_state_dict(renamed, strict=False)
    if unexpected or set(missing) - {"proj_out.weight"}:  # the output projection is the token embedding itself
        raise KmedError(f"transformers' Whisper has other tensors than expected: {[*missing, *unexpected]}.")
    network.tie_weights()
    network.generation_config = transformers.GenerationConfig(**generation_settings(model.dims))
    network.save_pretrained(folder)
    processor = build_processor(model.dims)
    processor.save_pretrained(folder)
    # faster-whisper and transformers 4 look for it under this name.
    processor.feature_extractor.save_pretrained(folder)
    # safetensors makes its files readable by their owner only; the other files follow the umask.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)


def read_hf_folder(folder: Path) -> Whisper:
    """Return the model of a Hugging Face folder as openai-whisper's.

    Raises
    ------
    KmedError
        When transformers is missing, the folder can't be read or does not hold the whole model, its output is not tied
        to its token embedding, or it has another vocabulary than the multilingual one.
    """
    network = load_hf_network(folder)
    config = network.config
    check_vocabulary(config.vocab_size)
    dims = ModelDimensions(
        config.num_mel_bins,
        config.max_source_positions,
        config.d_model,
        config.encoder_attention_heads,
        config.encoder_layers,
        config.vocab_size,
        config.max_target_positions,
        config.d_model,
        config.decoder_attention_heads,
        config.decoder_layers,
    )
    state = network.state_dict()
    if not torch.equal(state["proj_out.weight"], state["model.decoder.embed_tokens.weight"]):
        raise KmedError(
            f"{folder} has an output projection (proj_out.weight) of its own, and Whisper's is the token embedding: "
            "the model can be evaluated as it is, but not exported."
        )
    model = Whisper(dims)
    model.load_state_dict({ours: state[theirs] for ours, theirs in tensor_names(dims).items()})
    return model.eval()


def load_hf_network(folder: Path) -> "WhisperForConditionalGeneration":
    """Return transformers' model of a folder, fp32; tensors that the folder lacks are not filled in.

    Raises
    ------
    KmedError
        When transformers is missing, the folder can't be read, or tensors are missing, not Whisper's, not finite or
        no floating-point numbers.
    """
    transformers = import_transformers()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # hides its table of missing tensors, which are named below
    try:
        network, found = transformers.WhisperForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of safetensors, of the configuration's checks and of the layers that it describes
        raise KmedError(
            f"{folder} can't be opened by transformers {transformers.__version__} "
            f"({brief(error)}); save the model there again."
        ) from None
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    expected = set(network.state_dict())
    check_names((expected - found["missing_keys"]) | found["unexpected_keys"], expected, folder)
    check_finite(network.state_dict(), folder)
    if getattr(network.config, "quantization_config", None) is None:
        _refuse_whole_numbers(folder)
    return network


def _refuse_whole_numbers(folder: Path) -> None:
    """Raise KmedError for tensors that transformers would make fp32 without a word, though that changes them.

    Whole numbers are quantized weights, which need their scales; complex ones would lose their imaginary part.
    """
    from safetensors import safe_open

    whole, parts = folder / "model.safetensors", sorted(folder.glob("model-*.safetensors"))
    for file in [whole] if whole.is_file() else parts:
        with safe_open(file, "pt") as tensors:
            kinds = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118 (no mapping)
        for name, kind in kinds.items():
            if not kind.startswith(("F", "BF")):
                raise KmedError(
                    f"{file} holds {name} as {kind}, which is no floating-point format: its numbers would change on "
                    "the way to fp32; save the model there again, in fp32, fp16 or bf16."
                )


def check_vocabulary(n_vocab: int) -> None:
    """Raise KmedError unless a model has the multilingual vocabulary, the one that exports are made for."""
    if n_vocab != N_VOCAB:
        raise KmedError(
            f"The model has {n_vocab} tokens; exports are made for Whisper's multilingual vocabulary of {N_VOCAB} "
            "(tiny to large-v2). English-only models and large-v3 can be evaluated, not exported."
        )


def _config(dims: ModelDimensions) -> dict[str, Any]:
    tokenizer = korean_tokenizer()
    never, never_first = suppressed_tokens(tokenizer)
    return {
        "vocab_size": dims.n_vocab,
        "num_mel_bins": dims.n_mels,
        "d_model": dims.n_audio_state,
        "encoder_layers": dims.n_audio_layer,
        "encoder_attention_heads": dims.n_audio_head,
        "encoder_ffn_dim": 4 * dims.n_audio_state,
        "decoder_layers": dims.n_text_layer,
        "decoder_attention_heads": dims.n_text_head,
        "decoder_ffn_dim": 4 * dims.n_text_state,
        "max_source_positions": dims.n_audio_ctx,
        "max_target_positions": dims.n_text_ctx,
        "bos_token_id": tokenizer.eot,
        "eos_token_id": tokenizer.eot,
        "pad_token_id": tokenizer.eot,
        "decoder_start_token_id": tokenizer.sot,
        "suppress_tokens": never,
        "begin_suppress_tokens": never_first,
    }


def generation_settings(dims: ModelDimensions) -> dict[str, Any]:
    """Return the generation config: Korean transcription, openai-whisper's suppressed tokens, no forced ids."""
    tokenizer = korean_tokenizer()
    never, never_first = suppressed_tokens(tokenizer)
    return {
        "alignment_heads": alignment_heads(dims),
        "begin_suppress_tokens": never_first,
        "bos_token_id": tokenizer.eot,
        "decoder_start_token_id": tokenizer.sot,
        "eos_token_id": tokenizer.eot,
        "pad_token_id": tokenizer.eot,
        "is_multilingual": True,
        "lang_to_id": {f"<|{code}|>": tokenizer.to_language_token(code) for code in tokenizer.all_language_codes},
        "task_to_id": {"transcribe": tokenizer.transcribe, "translate": tokenizer.translate},
        "language": "ko",
        "task": "transcribe",
        "max_initial_timestamp_index": _MAX_INITIAL_TIMESTAMP_STEPS,
        "max_length": dims.n_text_ctx,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "prev_sot_token_id": tokenizer.sot_prev,
        "return_timestamps": False,
        "suppress_tokens": never,
    }


def alignment_heads(dims: ModelDimensions) -> list[list[int]]:
    """Return [layer, head] of the cross-attention heads whose weights follow time.

    They are openai-whisper's table for its sizes and its default for other shapes: all heads of the upper half.
    """
    shape = (dims.n_text_layer, dims.n_text_head)
    for size in SIZES:
        if dims == dimensions(size):
            packed = gzip.decompress(base64.b85decode(whisper._ALIGNMENT_HEADS[size]))
            return np.argwhere(np.frombuffer(packed, dtype=bool).reshape(shape)).tolist()
    return [[layer, head] for layer in range(shape[0] // 2, shape[0]) for head in range(shape[1])]


def build_processor(dims: ModelDimensions) -> "WhisperProcessor":
    """Return transformers' tokenizer and feature extractor, from openai-whisper's vocabulary and constants."""
    transformers = import_transformers()
    codec = korean_tokenizer().encoding
    vocabulary, merges = _byte_pairs()
    tokenizer = transformers.WhisperTokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=dims.n_text_ctx,
    )
    special = sorted(codec.special_tokens_set, key=codec.encode_single_token)
    # In transformers' Whisper, timestamps are not special tokens: `skip_special_tokens` must keep them.
    n_timestamps = dims.n_audio_ctx + 1
    stamps, marks = special[-n_timestamps:], special[:-n_timestamps]
    tokenizer.add_tokens(
        [transformers.AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True
    )
    tokenizer.add_tokens([transformers.AddedToken(stamp, normalized=False) for stamp in stamps])
    tokenizer.set_prefix_tokens(language="korean", task="transcribe", predict_timestamps=False)
    extractor = transformers.WhisperFeatureExtractor(feature_size=dims.n_mels)
    return transformers.WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)


@functools.cache
def _byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the vocabulary and merges of a byte-pair tokenizer, from the ranks of openai-whisper's tiktoken file.

    The two pieces of a token's merge are what its bytes merge to if only merges of lower rank are allowed.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    codec = korean_tokenizer().encoding
    ranks = {token: codec.encode_single_token(token) for token in codec.token_byte_values()}
    letters = bytes_to_unicode()

    def spell(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pieces = _merge(ranks, token, below=rank)
        if len(pieces) == 2:  # single bytes and the empty token have none
            merges.append((spell(pieces[0]), spell(pieces[1])))
    return {spell(token): rank for token, rank in ranks.items()}, merges


def _merge(ranks: dict[bytes, int], token: bytes, *, below: int) -> list[bytes]:
    """Return the pieces of a token after all merges whose rank is under a bound, lowest rank first."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 1:
        candidates = [ranks.get(a + b, below) for a, b in itertools.pairwise(pieces)]
        lowest = min(candidates)
        if lowest >= below:
            break
        at = candidates.index(lowest)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces
