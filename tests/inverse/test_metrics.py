"""Metrics and noise against their formulas, and total variation against a direct solution."""

import math

import pytest
import torch
import torch.nn.functional as F

import rust_diffusion as rd
from rust_diffusion import operators as ops
from rust_diffusion import utilities


def ssim(x, y):
    """Section 2 of the contract, by loops over windows."""
    place = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(place**2) / (2 * 1.5**2))
    line = line / line.sum()
    window = line[:, None] * line
    x, y = (F.pad(v.double(), (5, 5, 5, 5)).unfold(2, 11, 1).unfold(3, 11, 1) for v in (x, y))
    mean = lambda v: (v * window).sum((-1, -2))  # noqa: E731
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * both + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean()


def test_metrics_are_their_formulas_averaged_over_images():
    x, y = torch.rand(3, 1, 20, 24), torch.rand(3, 1, 20, 24)
    difference = (x - y).double().flatten(1)
    mse = (difference**2).mean(1)
    assert utilities.PSNR(x, y) == pytest.approx((-10 * mse.log10()).mean().item())
    assert utilities.RMSE(x, y) == pytest.approx(mse.sqrt().mean().item())
    relative = difference.norm(dim=1) / y.double().flatten(1).norm(dim=1)
    assert utilities.RE(x, y) == pytest.approx(relative.mean().item())
    want = torch.stack([ssim(x[i : i + 1], y[i : i + 1]) for i in range(3)]).mean().item()
    assert utilities.SSIM(x, y) == pytest.approx(want, abs=1e-10)


def test_a_picture_is_like_itself():
    x = torch.rand(1, 1, 16, 16)
    assert utilities.SSIM(x, x) == pytest.approx(1.0) and utilities.RE(x, x) == 0
    assert utilities.PSNR(x[0, 0], x[0, 0]) == math.inf


def test_noise_has_the_norm_that_was_asked_for():
    y = torch.rand(4, 1, 8, 8) * 3
    noise = utilities.gaussian_noise(y, 0.05)
    assert noise.norm().item() == pytest.approx(0.05 * y.norm().item(), rel=1e-5)
    torch.manual_seed(5)
    again = utilities.gaussian_noise(y, 0.05)
    assert torch.equal(again, utilities.gaussian_noise(y, 0.05, torch.Generator().manual_seed(5)))
    assert torch.equal(again, utilities.gaussian_noise(y, 0.05, seed=5))


def test_total_variation_of_one_jump():
    # ROF moves either side of a jump by lambda / width
    step = torch.cat([-torch.ones(1, 1, 6, 10), torch.ones(1, 1, 6, 10)], 3).double()
    got = rd.tv_reconstruct(step, ops.Identity((6, 20)), 0.5, iterations=3000)
    assert torch.allclose(got, step * (1 - 0.05), atol=1e-4)


def test_total_variation_treats_every_image_for_itself():
    operator = ops.Blurring((12, 12), kernel_size=3)
    y = operator(torch.rand(3, 1, 12, 12))
    whole = rd.tv_reconstruct(y, operator, 0.01, 50)
    assert torch.equal(rd.tv_reconstruct(y[1:2], operator, 0.01, 50)[0], whole[1])
    with pytest.raises(ValueError, match="lambda_ must be above 0"):
        rd.tv_reconstruct(y, operator, 0.0)


def test_the_course_finds_its_modules():
    from rust_diffusion import operators, utilities
    from rust_diffusion.nn.diffusion import DiffusionUNet, cosine_beta_schedule, denormalize_to_01, extract

    assert DiffusionUNet is rd.DiffusionUNet and extract is rd.extract
    assert cosine_beta_schedule is rd.cosine_beta_schedule and denormalize_to_01 is rd.denormalize_to_01
    assert utilities.get_device() == rd.get_device() and operators.Blurring.__module__.startswith(
        "rust_diffusion."
    )
