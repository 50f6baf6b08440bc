"""What is asked for is what is computed: gradients to x with frozen weights, and what torch's tracers see."""

import os
import subprocess
import sys

import pytest
import torch

from tools import TINY, max_error, relative_l2

SHAPE = (2, 1, 16, 16)


@pytest.fixture
def frozen(rd):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**{**TINY, "dropout": 0.0}).requires_grad_(False)
    return model.eval()


def inputs(dtype=torch.float32):
    return torch.randn(SHAPE, dtype=dtype), torch.randint(0, 400, SHAPE[:1])


@pytest.mark.parametrize("backend", ["engine", "libtorch"])
def test_frozen_weights_get_no_gradient_and_x_gets_its_own(rd, oracle, frozen, backend):
    theirs = oracle.DiffusionUNet(**{**TINY, "dropout": 0.0}).eval()
    theirs.load_state_dict(frozen.state_dict())
    if backend == "libtorch":
        frozen, theirs = frozen.double(), theirs.double()
    x, t = inputs(next(theirs.parameters()).dtype)
    (to_x,) = torch.autograd.grad(frozen(x.requires_grad_(), t).square().sum(), x)
    (expected,) = torch.autograd.grad(theirs(x, t).square().sum(), x)
    assert relative_l2(to_x, expected) <= 1e-4
    assert all(parameter.grad is None for parameter in frozen.parameters())


KEPT = """
import os
import torch
import rust_diffusion as rd

model = rd.DiffusionUNet(base_ch=32, dropout=0.0)
x, t = torch.randn(8, 1, 64, 64).requires_grad_(), torch.zeros(8, dtype=torch.long)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def kept(weights):
    model.requires_grad_(weights)
    before = resident()
    out = model(x, t)
    held = resident() - before
    assert out.requires_grad
    return held

kept(False), kept(True)  # what stays between calls is there
print(kept(False), kept(True))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_a_tape_for_x_keeps_less_than_one_for_the_weights(rd):
    # A process of its own, where every tensor is mapped and given back by itself: a heap that earlier tests have left
    # full of holes grows by less than what is kept.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    ran = subprocess.run([sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for_x, for_weights = map(int, ran.stdout.split())
    assert 0 < for_x < 0.8 * for_weights


def test_some_weights_frozen(frozen):
    x, t = inputs()
    chosen = [frozen.init.weight, frozen.out_conv.bias]
    for parameter in chosen:
        parameter.requires_grad_()
    few = torch.autograd.grad(frozen(x, t).square().sum(), chosen)
    frozen.requires_grad_(True)
    every = torch.autograd.grad(frozen(x, t).square().sum(), list(frozen.parameters()))
    for got, parameter in zip(few, chosen, strict=True):
        place = next(k for k, other in enumerate(frozen.parameters()) if other is parameter)
        assert torch.equal(got, every[place])


def test_a_frozen_weight_changed_before_its_gradient_is_an_error(frozen):
    x, t = inputs()
    out = frozen(x.requires_grad_(), t)
    with torch.no_grad():
        frozen.init.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed in place"):
        torch.autograd.grad(out.sum(), x)


def test_weights_changed_behind_torchs_back_are_seen_by_the_next_call(frozen):
    x, t = inputs()
    with torch.no_grad():
        before = frozen(x, t)
        frozen.init.weight.data.mul_(3.0)
        changed = frozen(x, t)
        frozen.init.weight.data.div_(3.0)
        again = frozen(x, t)
    assert max_error(changed, before) > 1e-3
    assert max_error(again, before) <= 1e-5


def test_weights_put_in_place_of_others_are_used(frozen):
    x, t = inputs()
    with torch.no_grad():
        before = frozen(x, t)
        frozen.init.weight = torch.nn.Parameter(torch.zeros_like(frozen.init.weight))
        frozen.init.bias.data = torch.zeros_like(frozen.init.bias)
        without = frozen(x, t)
        blank = frozen(torch.zeros_like(x), t)
    assert torch.equal(without, blank) and not torch.equal(without, before)


def test_directional_derivatives_are_those_of_the_gradient(frozen):
    x, t = inputs()
    v, w = torch.randn(2, *SHAPE)
    out, tangent = torch.func.jvp(lambda x: frozen(x, t), (x,), (v,))
    (to_x,) = torch.autograd.grad((frozen(x.requires_grad_(), t) * w).sum(), x)
    assert (tangent * w).sum().item() == pytest.approx((to_x * v).sum().item(), rel=1e-4, abs=1e-3)
    assert max_error(out, frozen(x, t)) <= 1e-5


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_a_trace_computes_what_the_model_computes(frozen, grad):
    (x, t), (y, s) = inputs(), inputs()
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(frozen, (x, t), check_trace=False)
        assert max_error(traced(y, s), frozen(y, s)) <= 1e-5


def test_make_fx_sees_the_operations(frozen):
    from torch.fx.experimental.proxy_tensor import make_fx

    (x, t), (y, s) = inputs(), inputs()
    with torch.no_grad():
        graph = make_fx(frozen)(x, t)
        assert max_error(graph(y, s), frozen(y, s)) <= 1e-5
