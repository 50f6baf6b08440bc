"""What a sampler prepares of a network's weights serves the next call, and never outlives the weights."""

import copy

import pytest
import torch

from tools import TINY, TINY_SHAPE


@pytest.fixture
def model(rd):
    torch.manual_seed(0)
    return rd.DiffusionUNet(**TINY).eval()


def drawn(rd, model, alpha_bars, **options):
    options = dict(seed=1, progress=False, sample_steps=3, clip=False, **options)
    return rd.ddim_sample(model, 2, TINY_SHAPE, alpha_bars, "cpu", **options)


@pytest.fixture
def alpha_bars(oracle):
    return torch.cumprod(1 - oracle.cosine_beta_schedule(50), 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.mul_(1.5),
        lambda p: p.data.mul_(1.5),
        lambda p: setattr(p, "data", p.data * 1.5),
    ],
    ids=["in place", "behind the counter", "other memory"],
)
def test_changed_weights_are_prepared_anew(rd, model, alpha_bars, precision, change):
    before = drawn(rd, model, alpha_bars, precision=precision)
    assert torch.equal(before, drawn(rd, model, alpha_bars, precision=precision))
    with torch.no_grad():
        for parameter in model.parameters():
            change(parameter)
    after = drawn(rd, model, alpha_bars, precision=precision)
    assert torch.equal(after, drawn(rd, copy.deepcopy(model), alpha_bars, precision=precision))
    assert not torch.equal(after, before)


def test_a_replaced_parameter_is_seen(rd, model, alpha_bars):
    before = drawn(rd, model, alpha_bars)
    model.out_conv.bias = torch.nn.Parameter(model.out_conv.bias + 1)
    after = drawn(rd, model, alpha_bars)
    assert torch.equal(after, drawn(rd, copy.deepcopy(model), alpha_bars))
    assert not torch.equal(after, before)


def test_a_call_inside_a_run_has_weights_of_its_own(rd, model, alpha_bars):
    """The network is asked while a sampler holds what was prepared of it."""
    x, t = torch.randn(1, *TINY_SHAPE), torch.tensor([3])
    with torch.no_grad():
        want = model(x, t)
        inside = []
        images = drawn(rd, model, alpha_bars, callback=lambda step: inside.append(model(x, t)))
    assert all(torch.equal(got, want) for got in inside) and len(inside) == 3
    assert torch.equal(images, drawn(rd, model, alpha_bars))
