"""Which parameters are trained: all, the decoder's, or low-rank adapters."""

import torch
from whisper.model import Whisper

from kmed_bench.config import TrainConfig

# The projections of all attentions, cross-attention included.
_PROJECTIONS = r"\.blocks\.\d+\.(attn|cross_attn)\.(query|key|value|out)"
_ADAPTER = "default"  # peft's name for a single adapter


def prepare(model: Whisper, config: TrainConfig) -> list[torch.nn.Parameter]:
    """Return the parameters to train, in the model's order, after freezing and adapting the model in place.

    To freeze the encoder, ``requires_grad=False`` is enough: Whisper has no dropout and no running statistics, so its
    output is the same in training and evaluation, and autograd keeps none of its activations. The optimizer must get
    only the returned parameters, since weight decay would change the frozen ones.

    Adapters follow Hu et al. 2021 (LoRA): W + (lora_alpha / lora_rank) B A, with B = 0 at the start, so the prepared
    model writes what it wrote before. Everything except A and B is frozen. A is drawn from torch's global generator:
    seed that first, and prepare a model before loading its training state.

    Parameters
    ----------
    model : Whisper
        Prepared only once; its adapters stay, also in decoding. ``merged_state`` merges them.
    config : TrainConfig
        ``freeze_encoder``, ``lora_rank`` and ``lora_alpha`` are read.
    """
    if config.lora_rank is not None:
        # peft loads transformers, which takes seconds.
        from peft import LoraConfig, inject_adapter_in_model

        halves = "decoder" if config.freeze_encoder else "(encoder|decoder)"
        adapters = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # named int, used as any number
            target_modules=halves + _PROJECTIONS,
        )
        inject_adapter_in_model(adapters, model, adapter_name=_ADAPTER)
    if config.freeze_encoder:
        model.encoder.requires_grad_(False)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def merged_state(model: Whisper) -> dict[str, torch.Tensor]:
    """Return the state under openai-whisper's names, adapters merged; the model itself does not change.

    As with ``state_dict``, tensors that need no merging share the model's memory: write or clone them before the next
    step.
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
