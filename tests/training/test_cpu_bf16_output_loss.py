import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from kmed_bench.training.batches import IGNORED
from kmed_bench.training.cpu_bf16.output_loss import OutputLoss


def reference(rows, weight, wanted):
    """Return the same from torch's own functions under autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = F.linear(rows, weight)
    loss = F.cross_entropy(logits.float(), wanted, ignore_index=IGNORED, reduction="sum")
    return loss, logits.argmax(dim=-1)


def given(n_vocab, n_rows, scale=0.3, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(n_rows, 32, generator=generator).to(dtype).requires_grad_()
    weight = (scale * torch.randn(n_vocab, 32, generator=generator)).requires_grad_()
    wanted = torch.randint(0, n_vocab, (n_rows,), generator=generator)
    wanted[-n_rows // 3 :] = IGNORED
    return rows, weight, wanted


# Fewer tokens than one searched part has, whole parts, a few more; logits up to 3 and up to 300.
@pytest.mark.parametrize("n_vocab", [5, 1024, 1300])
@pytest.mark.parametrize("scale", [0.1, 10.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_loss_likeliest_tokens_and_gradients_are_torchs(n_vocab, scale, dtype):
    rows, weight, wanted = given(n_vocab, 12, scale, dtype)
    expected, likeliest = reference(rows, weight, wanted)
    loss, best = OutputLoss.apply(rows, weight, wanted)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(best, likeliest)
    true, found = (torch.autograd.grad(each / 7, (rows, weight)) for each in (expected, loss))
    for ours, theirs in zip(found, true, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).float().norm() < 2**-8 * theirs.float().norm()  # once rounded to bf16


def test_rows_without_a_wanted_token_have_no_gradient():
    rows, weight, wanted = given(600, 6)
    loss, _ = OutputLoss.apply(rows, weight, wanted)
    of_rows, of_weight = torch.autograd.grad(loss, (rows, weight))
    assert (of_rows[wanted == IGNORED] == 0).all()
    assert (of_rows[wanted != IGNORED] != 0).any(dim=1).all()
    learned = wanted != IGNORED
    alone = torch.autograd.grad(OutputLoss.apply(rows[learned], weight, wanted[learned])[0], weight)[0]
    torch.testing.assert_close(of_weight, alone, atol=1e-6, rtol=2**-7)


def test_of_equal_logits_the_first_is_the_likeliest():
    weight = torch.zeros(1100, 32)
    weight[[3, 600, 601, 1099], 0] = 1.0
    rows = torch.zeros(2, 32, dtype=torch.bfloat16)
    rows[0, 0] = 1.0
    _, best = OutputLoss.apply(rows, weight, torch.tensor([3, 600]))
    assert best.tolist() == [3, 0]


def test_a_frozen_output_layer_gets_no_gradient():
    rows, weight, wanted = given(600, 6)
    loss, _ = OutputLoss.apply(rows, weight.requires_grad_(False), wanted)
    loss.backward()
    assert weight.grad is None
    assert rows.grad.isfinite().all()


def test_what_is_not_finite_stays_so():
    rows, weight, wanted = given(600, 6)
    with torch.no_grad():
        rows[0, 0] = torch.nan
    loss, _ = OutputLoss.apply(rows, weight, wanted)
    assert loss.isnan()
