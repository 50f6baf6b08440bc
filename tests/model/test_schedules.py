"""Schedules and the closed forms of the forward process."""

import numpy as np
import pytest
import torch

from tools import max_error

LENGTHS = [1, 2, 3, 10, 50, 200, 400, 1000, 4000]


@pytest.mark.parametrize("num_steps", LENGTHS)
def test_cosine_betas_are_the_courses(rd, oracle, num_steps):
    betas = rd.cosine_beta_schedule(num_steps)
    assert betas.shape == (num_steps,) and betas.dtype == torch.float32 and betas.device.type == "cpu"
    assert (betas - oracle.cosine_beta_schedule(num_steps)).abs().max() <= 1e-6


@pytest.mark.parametrize("num_steps", LENGTHS)
def test_cosine_betas_follow_the_papers_formula(rd, num_steps):
    x = np.arange(num_steps + 1) / num_steps
    f = np.cos((x + 0.008) / 1.008 * np.pi / 2) ** 2
    exact = np.clip(1 - f[1:] / f[:-1], 1e-5, 0.999)
    # The cosine near pi/2 is good to some 1e-7 in float32, which the ratio of two such values amplifies.
    slack = 1e-6 + 1e-6 / np.sqrt(f[:-1])
    assert (np.abs(rd.cosine_beta_schedule(num_steps).numpy() - exact) <= slack).all()


@pytest.mark.parametrize("num_steps", [10, 400, 1000])
def test_cosine_betas_stay_in_their_range_and_alpha_bars_fall(rd, num_steps):
    betas = rd.cosine_beta_schedule(num_steps)
    assert torch.isfinite(betas).all() and betas.min() >= 1e-5 and betas.max() <= 0.999
    assert (betas.diff() >= 0).all()
    assert (torch.cumprod(1 - betas, 0).diff() < 0).all()


def test_cosine_offset_s_is_honoured(rd, oracle):
    for s in (0.0, 0.001, 0.05):
        assert torch.allclose(
            rd.cosine_beta_schedule(100, s=s), oracle.cosine_beta_schedule(100, s=s), atol=1e-6
        )
    assert not torch.equal(rd.cosine_beta_schedule(100), rd.cosine_beta_schedule(100, 0.05))


@pytest.mark.parametrize("num_steps", LENGTHS)
def test_linear_betas_are_the_papers(rd, oracle, num_steps):
    betas = rd.linear_beta_schedule(num_steps)
    assert betas.shape == (num_steps,) and betas.dtype == torch.float32
    assert (betas - oracle.linear_beta_schedule(num_steps)).abs().max() <= 1e-6
    assert betas[0] == pytest.approx(1e-4, rel=1e-6)


def test_linear_betas_take_their_ends_by_name(rd):
    betas = rd.linear_beta_schedule(5, beta_start=0.1, beta_end=0.5)
    assert torch.allclose(betas, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]))


def test_schedules_are_float32_whatever_the_default_dtype(rd):
    torch.set_default_dtype(torch.float64)
    assert rd.cosine_beta_schedule(10).dtype == torch.float32
    assert rd.linear_beta_schedule(10).dtype == torch.float32


@pytest.mark.parametrize("x_shape", [(3,), (3, 7), (3, 1, 4, 4), torch.Size([3, 2, 4, 4, 4])])
def test_extract_broadcasts_over_any_shape(rd, schedule, x_shape):
    alpha_bars, t = schedule[2], torch.tensor([0, 11, 5])
    taken = rd.extract(alpha_bars, t, x_shape)
    assert taken.shape == (3,) + (1,) * (len(x_shape) - 1)
    assert torch.equal(taken.reshape(-1), alpha_bars[t])


def test_extract_keeps_the_dtype_of_the_coefficients(rd, schedule):
    t = torch.tensor([1, 2])
    assert rd.extract(schedule[2].double(), t, (2, 1, 4, 4)).dtype == torch.float64
    assert rd.extract(schedule[2], t, (2, 1, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_extract_takes_both_integer_dtypes_of_indices(rd, schedule, dtype):
    t = torch.tensor([3, 0], dtype=dtype)
    assert torch.equal(rd.extract(schedule[2], t, (2, 1)).reshape(-1), schedule[2][[3, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_q_sample_is_the_closed_form(rd, oracle, schedule, dtype):
    x0, noise = torch.randn(2, 4, 1, 8, 8, dtype=dtype)
    t, alpha_bars = torch.tensor([0, 4, 8, 11]), schedule[2].to(dtype)
    x_t = rd.q_sample(x0, t, noise, alpha_bars)
    assert x_t.dtype == dtype
    assert max_error(x_t, oracle.q_sample(x0, t, noise, alpha_bars)) <= 1e-6


def test_predict_x0_undoes_q_sample(rd, oracle):
    alpha_bars = torch.cumprod(1 - oracle.linear_beta_schedule(50), 0)
    x0, noise = torch.randn(2, 5, 1, 8, 8)
    t = torch.tensor([0, 10, 20, 30, 49])
    x_t = rd.q_sample(x0, t, noise, alpha_bars)
    assert max_error(rd.predict_x0_from_eps(x_t, noise, t, alpha_bars), x0) <= 1e-5
    assert (
        max_error(
            rd.predict_x0_from_eps(x_t, noise, t, alpha_bars),
            oracle.predict_x0_from_eps(x_t, noise, t, alpha_bars),
        )
        <= 1e-6
    )


def test_gradients_flow_through_the_closed_forms(rd, oracle, schedule):
    x0, noise = torch.randn(2, 3, 1, 4, 4)
    t = torch.tensor([0, 3, 6])

    def gradients(module):
        a, b = x0.clone().requires_grad_(), noise.clone().requires_grad_()
        x_t = module.q_sample(a, t, b, schedule[2])
        module.predict_x0_from_eps(x_t, b * 0.5, t, schedule[2]).square().sum().backward()
        return a.grad, b.grad

    for got, expected in zip(gradients(rd), gradients(oracle), strict=True):
        assert max_error(got, expected) <= 1e-5


def test_denormalize_maps_to_the_unit_interval_and_clamps(rd):
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 7.0])
    assert torch.equal(rd.denormalize_to_01(x), torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0]))
    assert torch.equal(x, torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 7.0])), "the argument was changed"


def test_numpy_arrays_are_taken_where_tensors_are(rd, schedule):
    if rd.__name__ == "oracle":
        pytest.skip("the course's functions take tensors only")
    x0, noise = torch.randn(2, 2, 1, 4, 4)
    t, alpha_bars = torch.tensor([1, 9]), schedule[2]
    arrays = [a.numpy() for a in (x0, t, noise, alpha_bars)]
    assert torch.equal(rd.q_sample(*arrays), rd.q_sample(x0, t, noise, alpha_bars))
    assert torch.equal(
        rd.predict_x0_from_eps(*(arrays[i] for i in (0, 2, 1, 3))),
        rd.predict_x0_from_eps(x0, noise, t, alpha_bars),
    )
    assert torch.equal(rd.extract(arrays[3], arrays[1], (2, 1)), rd.extract(alpha_bars, t, (2, 1)))
    assert torch.equal(rd.denormalize_to_01(arrays[0]), rd.denormalize_to_01(x0))


def test_get_device_names_the_best_device_at_hand(rd):
    if rd.__name__ == "oracle":
        pytest.skip("the oracle has no get_device")
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert rd.get_device() == best and type(rd.get_device()) is str
