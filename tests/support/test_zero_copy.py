"""Tensors and arrays cross between Python and Rust without a copy: the same memory on both sides."""

import numpy as np
import pytest
import torch

from tools import TINY, TINY_SHAPE, slices


@pytest.fixture
def model(rd):
    return rd.DiffusionUNet(**TINY)


@pytest.fixture
def alpha_bars(oracle):
    return torch.cumprod(1 - oracle.cosine_beta_schedule(10), 0)


def saved_places(run):
    """(result of run(), the addresses of what autograd kept for the backward pass)."""
    places = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda kept: places.add(kept.data_ptr()) or kept, lambda kept: kept
    ):
        return run(), places


def test_the_forward_pass_works_on_the_modules_own_weights_and_on_x(model):
    x, t = torch.randn(2, 1, 16, 16, requires_grad=True), torch.tensor([0, 9])
    _, places = saved_places(lambda: model(x, t))
    assert x.data_ptr() in places
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) > 10
    assert all(m.weight.data_ptr() in places for m in convolutions)


def test_gradients_are_added_in_place(model):
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0, 9])
    model(x, t).sum().backward()
    places = [p.grad.data_ptr() for p in model.parameters()]
    model(x, t).sum().backward()
    assert places == [p.grad.data_ptr() for p in model.parameters()]


def test_training_changes_the_modules_own_weights(rd, oracle, model):
    places = [p.data_ptr() for p in model.parameters()]
    before = model.init.weight.detach().clone()
    held = model.init.weight
    options = dict(betas=oracle.cosine_beta_schedule(10), epochs=1, device="cpu", progress=False)
    rd.train(model, slices(4), **options)
    assert places == [p.data_ptr() for p in model.parameters()]
    assert model.init.weight is held and not torch.equal(held, before)


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_training_reads_the_callers_own_data(rd, oracle, kind):
    """What the caller writes into it between two epochs is what the second epoch sees."""

    def losses(change):
        torch.manual_seed(1)
        images = slices(4) if kind == "tensor" else slices(4).numpy()
        model = rd.DiffusionUNet(**TINY)
        options = dict(betas=oracle.cosine_beta_schedule(10), epochs=2, batch_size=4, seed=1, device="cpu")

        def callback(info):
            if change:
                images[:] = 0.0

        return rd.train(model, images, progress=False, callback=callback, **options).history

    unchanged, changed = losses(False), losses(True)
    assert unchanged[0] == changed[0] and unchanged[1] != changed[1]


def test_start_noise_reaches_the_model_where_it_lies(rd, alpha_bars):
    tensor = torch.randn(2, *TINY_SHAPE)
    for start in (tensor, tensor.numpy().copy()):
        seen = []

        def model(x, t, seen=seen):
            seen.append(x.data_ptr())
            return 0.5 * x

        rd.ddim_sample(model, 2, TINY_SHAPE, alpha_bars, "cpu", 3, x_T=start, progress=False)
        assert seen[0] == (start.data_ptr() if torch.is_tensor(start) else start.ctypes.data)


def test_samples_share_their_memory_with_numpy(rd, alpha_bars):
    samples = rd.ddim_sample(lambda x, t: x, 2, TINY_SHAPE, alpha_bars, "cpu", 3, progress=False)
    array = samples.numpy()
    assert array.ctypes.data == samples.data_ptr() and array.flags.writeable
    array[:] = 0.25
    assert (samples == 0.25).all()


def test_memory_of_results_is_freed_with_them(rd, model):
    """No reference is kept on either side: a thousand batches would otherwise be 260 MB."""
    resource = pytest.importorskip("resource")
    x, t = torch.randn(64, 1, 32, 32), torch.zeros(64, dtype=torch.long)
    array = np.zeros((64, 1, 32, 32), dtype="float32")

    def work(times):
        for _ in range(times):
            rd.denormalize_to_01(array)
            rd.q_sample(x, t, array, np.linspace(0.9, 0.1, 5, dtype="float32"))

    work(50)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(1000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
