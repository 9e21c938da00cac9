"""Which parameters are trained, and how: frozen encoder, low-rank adapters, recomputed activations."""

import contextlib
import functools

import torch
from torch.utils.checkpoint import checkpoint
from whisper.model import Whisper

from kmed_bench.asr.model.patching import patched_methods
from kmed_bench.config import TrainConfig

# The projections of all attention, cross-attention included; the decoder's alone where the encoder is frozen.
_PROJECTIONS = r"\.blocks\.\d+\.(attn|cross_attn)\.(query|key|value|out)"
_ADAPTER = "default"  # peft's own name for a lone adapter


def prepare(model: Whisper, config: TrainConfig) -> list[torch.nn.Parameter]:
    """Return the parameters to train, in the model's order, after freezing and adapting the model in place.

    A frozen encoder needs no more than ``requires_grad=False``: Whisper has no dropout and no running
    statistics, so that its output is the same in training and evaluation, and autograd keeps none of
    its activations. Give the optimizer these parameters alone, or weight decay would move the frozen ones.

    Adapters follow Hu et al. 2021 (LoRA): W + (lora_alpha / lora_rank) B A, with B = 0 at the start, so that
    the prepared model writes what it wrote before. Everything but A and B is frozen. A is drawn from
    torch's global generator: seed it before, and prepare a model before its training state is loaded.

    Parameters
    ----------
    model : Whisper
        Prepared once; its adapters stay in place, in decoding too. ``merged_state`` hands it over.
    config : TrainConfig
        ``freeze_encoder``, ``lora_rank`` and ``lora_alpha`` are read.
    """
    if config.lora_rank is not None:
        # peft loads transformers, which takes seconds; only those who asked for adapters wait.
        from peft import LoraConfig, inject_adapter_in_model

        rooms = "decoder" if config.freeze_encoder else "(encoder|decoder)"
        adapters = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # named int, used as any number
            target_modules=rooms + _PROJECTIONS,
        )
        inject_adapter_in_model(adapters, model, adapter_name=_ADAPTER)
    if config.freeze_encoder:
        model.encoder.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def merged_state(model: Whisper) -> dict[str, torch.Tensor]:
    """Return the state in openai-whisper's own names, adapters merged; the model itself stays as it is.

    As with ``state_dict``, tensors that need no merging share the live model's memory: write them, or
    clone them, before the next step.
    """
    state: dict[str, torch.Tensor] = {
        name.replace(".base_layer.", "."): tensor.detach()
        for name, tensor in model.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):  # peft's adapted layers
            state[f"{name}.weight"] = module.base_layer.weight + module.get_delta_weight(_ADAPTER)
    return state


def checkpointed(model: Whisper) -> contextlib.AbstractContextManager[None]:
    """Keep no activations within the blocks of encoder and decoder: backward computes them again.

    Only a block's input stays in memory until then, for about a third more time (Chen et al. 2016).
    Gradients are the same. Evaluation and decoding inside the context work and cost nothing more.
    """
    # Blocks of a frozen encoder have no backward, so there is nothing to spare.
    blocks = [
        block
        for block in (*model.encoder.blocks, *model.decoder.blocks)
        if any(parameter.requires_grad for parameter in block.parameters())
    ]
    # No block draws random numbers, so their state need not be kept and restored.
    options = {"use_reentrant": False, "preserve_rng_state": False}
    return patched_methods(blocks, "forward", lambda block: functools.partial(checkpoint, block.forward, **options))
