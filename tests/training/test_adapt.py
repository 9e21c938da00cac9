import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
import whisper

from kmed_bench.asr.decoding.greedy import decode_greedy
from kmed_bench.asr.decoding.options import DecodingOptions
from kmed_bench.asr.model.execution import STANDARD
from kmed_bench.asr.model.tokenizer import korean_tokenizer
from kmed_bench.asr.model.weights import load_weights, save_weights
from kmed_bench.asr.model.whisper import Whisper
from kmed_bench.config import TrainConfig
from kmed_bench.training.adapt import merged_state, prepare

RECOMPUTE = dataclasses.replace(STANDARD, recompute=True)

N_PROJECTIONS = 3 * 4  # a layer of encoder and decoder each: self-attention twice, cross-attention once


@pytest.fixture
def model(tiny_checkpoint) -> Whisper:
    return load_weights(tiny_checkpoint)


def mels(n_clips: int = 3, n_frames: int = 200) -> torch.Tensor:
    return torch.randn(n_clips, 80, n_frames, generator=torch.Generator().manual_seed(5)) * 0.3


def tokens_in() -> torch.Tensor:
    prompt = korean_tokenizer().sot_sequence_including_notimestamps
    return torch.tensor([[*prompt, 300 + i, 4_000, 17 * i] for i in range(3)])


def logits_of(model: Whisper, tokens: torch.Tensor, execution=STANDARD) -> torch.Tensor:
    audio = model.encode(mels(), execution=execution)
    states = model.decoder_states(model.decoder.token_embedding(tokens), audio, execution)
    return model.decoder.ln(states) @ model.decoder.token_embedding.weight.T


def loss_of(model: Whisper, execution=STANDARD) -> torch.Tensor:
    tokens = tokens_in()
    logits = logits_of(model, tokens[:, :-1], execution)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def take_steps(model: Whisper, parameters: list[torch.nn.Parameter], n_steps: int = 3) -> list[float]:
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_plain_settings_train_everything(model):
    before = {name: id(p) for name, p in model.named_parameters()}
    assert [id(p) for p in prepare(model, TrainConfig())] == list(before.values())
    state = merged_state(model)
    assert list(state) == list(model.state_dict())
    assert not any(tensor.requires_grad for tensor in state.values())


def test_a_frozen_encoder_stays_and_the_decoder_learns(model):
    before = copy.deepcopy(model.state_dict())
    trained = prepare(model, TrainConfig(freeze_encoder=True))
    assert {id(p) for p in trained} == {id(p) for p in model.decoder.parameters()}
    assert not model.encode(mels()).features.requires_grad
    take_steps(model, trained)
    for name, tensor in model.state_dict().items():
        moved = not torch.equal(tensor, before[name])
        # Cross-attention's first keys have a gradient too; a buffer is no parameter.
        assert moved == (name.startswith("decoder.") and not name.endswith("mask")), name


@pytest.mark.parametrize(("freeze_encoder", "n_adapted"), [(False, N_PROJECTIONS), (True, 8)])
def test_adapters_alone_are_trained(model, freeze_encoder, n_adapted):
    before = copy.deepcopy(model.state_dict())
    logits = logits_of(model, tokens_in())
    config = TrainConfig(lora_rank=4, lora_alpha=8, freeze_encoder=freeze_encoder)
    trained = prepare(model, config)
    # A of 4 x 64 and B of 64 x 4 for each projection.
    assert sum(p.numel() for p in trained) == n_adapted * 2 * 4 * 64
    torch.testing.assert_close(logits_of(model, tokens_in()), logits, atol=0, rtol=0)
    losses = take_steps(model, trained)
    assert losses[-1] < losses[0]
    plain = {name: t for name, t in model.state_dict().items() if ".lora_" not in name}
    for name, tensor in plain.items():
        assert torch.equal(tensor, before[name.replace(".base_layer.", ".")]), name


def test_adapters_follow_the_seed(tiny_checkpoint):
    drawn = []
    for seed in (1, 1, 2):
        model = load_weights(tiny_checkpoint)
        torch.manual_seed(seed)
        drawn.append(torch.cat([p.detach().flatten() for p in prepare(model, TrainConfig(lora_rank=2))]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_merged_weights_decode_as_the_adapters_do(model, tmp_path):
    untouched = copy.deepcopy(model)
    take_steps(model, prepare(model, TrainConfig(lora_rank=4, lora_alpha=32)), n_steps=8)
    live = copy.deepcopy(model.state_dict())
    state = merged_state(model)
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())

    save_weights(model, tmp_path / "merged.pt", state)
    assert list(state) == list(untouched.state_dict())
    merged = Whisper.from_openai(whisper.load_model(str(tmp_path / "merged.pt"), device="cpu"))

    with torch.no_grad():
        adapted, handed, before = (logits_of(m, tokens_in()) for m in (model, merged, untouched))
    torch.testing.assert_close(handed, adapted, atol=1e-5, rtol=0)
    assert (adapted - before).abs().max() > 0.1
    texts = []
    for m in (model.eval(), merged):
        with torch.no_grad():
            texts.append(decode_greedy(m, m.encode(mels()), DecodingOptions(max_new_tokens=12)))
    assert texts[0] == texts[1]
    assert any(texts[0])


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(
    "config",
    [TrainConfig(), TrainConfig(freeze_encoder=True), TrainConfig(lora_rank=4)],
    ids=["all", "frozen encoder", "adapters"],
)
def test_recomputed_activations_give_the_same_gradients(model, config, bf16):
    trained = prepare(model, config)
    gradients = []
    for execution in (STANDARD, RECOMPUTE):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = loss_of(model, execution)
        loss.backward()
        gradients.append([p.grad.clone() for p in trained])
        model.zero_grad()
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_fewer_activations_are_kept(model):
    def kept_bytes(execution) -> int:
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model.encode(mels(), execution=execution).features.sum()
        return sum(kept.values())

    assert kept_bytes(RECOMPUTE) < 0.5 * kept_bytes(STANDARD)
