"""Errors of a denoiser that are larger where more happens in the picture: measured, and believed by the methods."""

import math

import pytest
import torch
from test_denoising_error import BARS, SIZE, S, Stationary, measured

import rust_diffusion as rd
from rust_diffusion import operators as ops
from rust_diffusion.inverse import LocalError
from tools import GaussianDenoiser

OPERATORS = {
    "blur": ops.Blurring((8, 8), kernel_type="gaussian", kernel_size=3),
    "inpainting": ops.Inpainting((8, 8), keep=0.4, seed=1),
    "means": ops.DownScaling((8, 8), 2),
    "differences": ops.Gradient((8, 8)),
}


def half_textured(count):
    """Images that are flat on the left and noisy on the right."""
    images = torch.zeros(count, 1, SIZE, SIZE)
    right = images[..., SIZE // 2 :]
    right.copy_(0.2 * torch.randn(right.shape, generator=torch.Generator().manual_seed(0)))
    return images


def edge():
    """What a denoiser says: flat, then a step, on 8 x 8."""
    picture = torch.full((1, 1, 8, 8), -0.5)
    picture[..., 4:] = 0.5
    return picture


def wider_at_the_edge(modes=None, variance=1e-3):
    """Ten times the standard deviation at a step of `edge`, the same at every timestep."""
    modes = torch.ones(8, 5) if modes is None else modes
    curve = torch.tensor([1e-6, 0.2]), torch.tensor([variance, 100 * variance])
    return LocalError(*(part.expand(len(BARS), *part.shape) for part in (modes, *curve)))


def test_where_more_happens_a_denoiser_is_found_to_err_more():
    truth = half_textured(12)
    size = torch.where(torch.arange(SIZE) < SIZE // 2, 0.003, 0.05)
    g = torch.Generator().manual_seed(1)
    error = measured(
        truth,
        lambda x, t: truth + size * torch.randn(truth.shape, generator=g),
        objective="x0",
        batch_size=12,
        local=True,
    )
    assert [tuple(part.shape) for part in error] == [(60, SIZE, SIZE // 2 + 1), (60, 16), (60, 16)]
    assert all(part.dtype == torch.float32 for part in error)
    assert (error.gradients.diff(dim=1) >= 0).all()
    # of 16 points, six or seven lie in either half; at the seam both errors meet
    assert torch.allclose(error.variances[:, :6].mean(1), torch.tensor(0.003**2), rtol=0.2)
    assert torch.allclose(error.variances[:, 9:].mean(1), torch.tensor(0.05**2), rtol=0.2)
    assert error.modes.mean().item() == pytest.approx(1.0, abs=0.1)


def test_a_stationary_gaussian_errs_everywhere_alike():
    model = Stationary(8)
    white = torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = model.times(white, model.variances.sqrt()).float()
    error = measured(drawn, model, local=True, objective="x0", batch_size=500)
    pairs = torch.tensor([1.0, 2, 2, 2, 1])
    together = ((model.errors() * pairs).sum((1, 2)) / 64).float()
    assert torch.allclose(error.variances, together[:, None].expand(-1, 16), rtol=0.15)
    modes = error.modes * error.variances.mean(1)[:, None, None]
    assert torch.allclose(modes.double(), model.errors(), rtol=0.2)


def test_it_is_the_same_for_any_batch_size_and_comes_back_from_a_file(tmp_path):
    images = S**0.5 * torch.randn(10, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    whole, parts = (measured(images, sample_steps=5, local=True, batch_size=size) for size in (10, 3))
    for left, right in zip(whole, parts, strict=True):
        assert torch.allclose(left, right, rtol=1e-5)
    torch.save(tuple(whole), tmp_path / "error.pt")
    back = LocalError(*torch.load(tmp_path / "error.pt", weights_only=True))
    assert all(torch.equal(left, right) for left, right in zip(back, whole, strict=True))


def test_flat_pictures_and_few_pixels_have_errors_too():
    for images in (torch.zeros(2, 1, SIZE, SIZE), torch.zeros(1, 1, 3, 1)):
        error = measured(
            images, lambda x, t: torch.zeros_like(x), objective="x0", sample_steps=2, local=True, floor=1e-5
        )
        for part in error:
            assert torch.isfinite(part).all() and (part > 0).all()
        assert torch.allclose(error.variances, torch.tensor(1e-5)), "all of it is equally quiet"


def posterior(operator, C, sigma):
    """A measurement, and mean and covariance of x0 ~ N(edge, C) given it."""
    basis = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    A = operator(basis).flatten(1).T
    g = torch.Generator().manual_seed(7)
    away = torch.linalg.cholesky(C) @ torch.randn(64, generator=g, dtype=torch.float64)
    noise = sigma * torch.randn(len(A), generator=g, dtype=torch.float64)
    y = A @ (edge().double().flatten() + away) + noise
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + sigma**2 * torch.eye(len(A), dtype=torch.float64))
    x0_hat = edge().double().flatten()
    return y, x0_hat + gain @ (y - A @ x0_hat), C - gain @ A @ C


MODES = 1 / (0.3 + (4 * torch.fft.fftfreq(8)[:, None]).square() + (4 * torch.fft.rfftfreq(8)[None]).square())


def wider_covariance():
    """That of `wider_at_the_edge(MODES)` about `edge`, found by another road."""
    # what happens around a pixel depends on its column
    near = torch.tensor([0, 0, 0, 0.5, 0.5, 0, 0, 0], dtype=torch.float64)
    weights = torch.exp(-torch.arange(-3, 4).double().square() / 2)
    wide = torch.cat([near[:1].expand(3), near, near[-1:].expand(3)])
    gradients = (wide.unfold(0, 7, 1) @ (weights / weights.sum())).clamp(1e-6, 0.2)
    slope = math.log(100) / math.log(0.2 / 1e-6)
    deviations = (1e-3 * (gradients / 1e-6) ** slope).sqrt().repeat(8)
    basis = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    S = torch.fft.irfft2(torch.fft.rfft2(basis) * MODES.double(), s=(8, 8)).view(64, 64)
    return deviations[:, None] * S * deviations


def draws(operator, y, sigma, **options):
    """One step from a denoiser that always says `edge`, (N, 64)."""
    out = rd.daps_sample(
        lambda x, t: edge().expand(len(x), -1, -1, -1),
        y.float().view(len(y), *operator(edge()).shape[1:]),
        operator,
        BARS,
        "cpu",
        1,
        sigma_y=sigma,
        objective="x0",
        clip=False,
        seed=0,
        progress=False,
        **options,
    )
    return out.double().view(len(y), 64)


@pytest.mark.parametrize("kind", OPERATORS)
def test_a_draw_of_daps_has_the_posteriors_mean_and_covariance(kind):
    operator, sigma, count = OPERATORS[kind], 0.1, 4000
    y, mean, covariance = posterior(operator, wider_covariance(), sigma)
    out = draws(operator, y.expand(count, -1), sigma, r2=wider_at_the_edge(MODES))
    std = covariance.diagonal().sqrt()
    # by chance 1 / sqrt(count) = .016 and 1 / sqrt(2 count) = .011
    assert ((out.mean(0) - mean) / std).square().mean().sqrt() < 0.025
    assert (out.std(0) / std - 1).square().mean().sqrt() < 0.02
    apart = (out.T.cov() - covariance) / (std[:, None] * std)
    assert apart.square().mean().sqrt() < 0.025


SOLVED = {**OPERATORS, "ct": ops.CTProjector((8, 8), torch.arange(6) * math.pi / 6, 12)}


@pytest.mark.parametrize("sigma", [0.1, 0.003])
@pytest.mark.parametrize("spread", ["local", "modes", "even"])
@pytest.mark.parametrize("kind", SOLVED)
def test_a_draw_is_off_by_a_small_part_of_its_standard_deviation(kind, spread, sigma):
    """Draws of the same noise differ as their measurements say, so that the solver's error is seen."""
    operator, count = SOLVED[kind], 32
    A = operator(torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)).flatten(1).T
    flat = 0.01 * torch.fft.irfft2(
        torch.fft.rfft2(torch.eye(64, dtype=torch.float64).view(64, 8, 8)) * MODES, s=(8, 8)
    )
    C, r2 = {
        "local": (wider_covariance(), wider_at_the_edge(MODES)),
        "modes": (flat.view(64, 64), (0.01 * MODES).expand(len(BARS), 8, 5)),
        "even": (0.04 * torch.eye(64, dtype=torch.float64), 0.04),
    }[spread]
    g = torch.Generator().manual_seed(3)
    truth = edge().double().view(64) + torch.randn(2, count, 64, generator=g, dtype=torch.float64) @ (
        torch.linalg.cholesky(C).T
    )
    noise = sigma * torch.randn(2, count, len(A), generator=g, dtype=torch.float64)
    y = (truth @ A.T + noise).float().double()
    one, other = (draws(operator, part, sigma, r2=r2) for part in y)
    gain = torch.linalg.solve(A @ C @ A.T + sigma**2 * torch.eye(len(A)), A @ C)
    off = one - other - (y[0] - y[1]) @ gain
    precision = A.T @ A / sigma**2 + torch.linalg.inv(C)
    # two draws that are off by .2 each would be by .28
    assert ((off @ precision) * off).sum(1).sqrt().max() < 0.3


@pytest.mark.parametrize("sampler", [rd.daps_sample, rd.pigdm_sample])
@pytest.mark.parametrize("kind", OPERATORS)
def test_errors_that_are_alike_everywhere_are_those_of_the_modes(sampler, kind):
    model, operator = Stationary(8), OPERATORS[kind]
    flat = LocalError(
        model.errors() / 0.04, torch.tensor([1e-6, 0.2]).expand(60, 2), torch.full((60, 2), 0.04)
    )
    y = operator(torch.linspace(-1, 1, 64).sin().view(1, 1, 8, 8)).expand(2, -1, -1, -1)
    drawn = [
        sampler(
            model,
            y,
            operator,
            BARS,
            "cpu",
            6,
            sigma_y=0.3,
            r2=r2,
            objective="x0",
            clip=False,
            seed=0,
            progress=False,
        )
        for r2 in (model.errors(), flat)
    ]
    assert torch.allclose(*drawn, atol=2e-3)


@pytest.mark.parametrize("widen", [False, True])
@pytest.mark.parametrize("kind", OPERATORS)
def test_an_image_does_not_depend_on_those_beside_it(kind, widen):
    operator, model = OPERATORS[kind], GaussianDenoiser(BARS, S**0.5)
    y = operator(torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5)))
    options = dict(sigma_y=0.05, r2=wider_at_the_edge(), widen=widen, clip=False, progress=False)
    all_of_them = rd.daps_sample(model, y, operator, BARS, "cpu", 5, seed=4, **options)
    for k in range(3):
        alone = rd.daps_sample(model, y[k : k + 1], operator, BARS, "cpu", 5, seed=4 + k, **options)
        assert torch.equal(alone[0], all_of_them[k])


def test_a_measurement_that_surprises_widens_it_and_explains_itself():
    operator = OPERATORS["blur"]
    truth = edge() + 0.3 * torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    noise = 0.05 * torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(3))

    def residual(widen):
        found = []
        rd.daps_sample(
            lambda x, t: edge().expand(len(x), -1, -1, -1),
            operator(truth) + noise,
            operator,
            BARS,
            "cpu",
            3,
            sigma_y=0.05,
            r2=wider_at_the_edge(variance=1e-5),
            widen=widen,
            objective="x0",
            clip=False,
            seed=0,
            progress=False,
            callback=lambda step: found.append(step.residual),
        )
        return found[-1].mean().item()

    assert residual(True) < 0.75 * residual(False)


WRONG = {
    "timesteps": (
        lambda e: LocalError(*(part[:59] for part in e)),
        "modes of r2 must have numbers for each timestep",
    ),
    "modes": (
        lambda e: e._replace(modes=e.modes[:, :, :4]),
        "r2 must have .*modes for the operator's images",
    ),
    "points": (lambda e: e._replace(variances=e.variances[:, :1]), r"r2 must hold \(T, H, W // 2 \+ 1\)"),
    "below zero": (
        lambda e: e._replace(gradients=-e.gradients),
        "gradients of r2 must be finite and above 0",
    ),
    "falling": (lambda e: e._replace(gradients=e.gradients.flip(1)), "gradients of r2 must not fall"),
    "a number": (
        lambda e: e._replace(modes=torch.tensor(1.0)),
        r"modes of r2 must have numbers for each timestep \(60\), got one",
    ),
    "no points": (
        lambda e: e._replace(gradients=e.gradients[:, :0], variances=e.variances[:, :0]),
        r"r2 must hold \(T, H, W // 2 \+ 1\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_before_the_model_is_asked(case):
    def never(x, t):
        raise AssertionError("the model was asked")

    change, text = WRONG[case]
    y = torch.zeros(1, 1, 8, 8)
    for sampler in (rd.daps_sample, rd.pigdm_sample):
        with pytest.raises(ValueError, match=text):
            r2 = change(wider_at_the_edge())
            sampler(never, y, ops.Identity((8, 8)), BARS, "cpu", 5, sigma_y=0.1, r2=r2, progress=False)


STRANGE = {
    "sparse": (lambda part: part.to_sparse(), "modes of r2 must be a dense tensor"),
    "meta": (lambda part: part.to("meta"), "modes of r2 must be a dense tensor"),
    "complex": (lambda part: part.to(torch.complex64), "modes of r2 must hold real numbers"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_part_that_is_no_dense_tensor_of_numbers_is_told(case):
    change, text = STRANGE[case]
    error = wider_at_the_edge()
    r2 = error._replace(modes=change(error.modes))
    with pytest.raises(TypeError, match=text):
        rd.daps_sample(
            None, torch.zeros(1, 1, 8, 8), ops.Identity((8, 8)), BARS, "cpu", 5, sigma_y=0.1, r2=r2
        )


def test_a_broken_model_is_told():
    with pytest.raises(ValueError, match="NaN or infinity at timestep"):
        measured(torch.zeros(1, 1, SIZE, SIZE), lambda x, t: x * torch.nan, local=True, sample_steps=3)


def test_what_was_read_from_a_file_is_told_to_be_made_a_local_error():
    r2, y = tuple(wider_at_the_edge()), torch.zeros(1, 1, 8, 8)
    with pytest.raises(TypeError, match=r"LocalError\(\*r2\)"):
        rd.daps_sample(None, y, ops.Identity((8, 8)), BARS, "cpu", 5, sigma_y=0.1, r2=r2)
