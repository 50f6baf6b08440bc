"""The denoiser's own error at each timestep: against the exact denoiser of a Gaussian, whose errors are known."""

import itertools

import pytest
import torch

import rust_diffusion as rd
from rust_diffusion import operators as ops
from tools import TINY, GaussianDenoiser, slices

S, SIZE = 0.04, 16
BARS = torch.cumprod(1 - rd.cosine_beta_schedule(60), 0)
EXACT = S * (1 - BARS) / (BARS * S + 1 - BARS)


@pytest.fixture(scope="module")
def images():
    return S**0.5 * torch.randn(24, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def measured(images, model=None, **options):
    options = {"clip": False, "progress": False, "floor": 1e-12, **options}
    return rd.denoising_error(model or GaussianDenoiser(BARS, S**0.5), images, BARS, "cpu", **options)


def test_a_gaussians_errors_are_its_posterior_variances(images):
    error = measured(images)
    assert error.shape == (60,) and error.dtype == torch.float32
    assert torch.allclose(error, EXACT, rtol=0.06)


def test_timesteps_between_those_visited_are_interpolated(images):
    model = GaussianDenoiser(BARS, S**0.5)
    error = measured(images, model, sample_steps=20)
    assert len(model.calls) == 2 * 20
    assert torch.allclose(error, EXACT, rtol=0.08)
    assert torch.equal(measured(images, timesteps=[30])[[0, 59]], measured(images, timesteps=[30])[[30, 30]])


def test_it_is_the_same_for_any_batch_size_and_differs_by_seed(images):
    whole, parts = measured(images, batch_size=24), measured(images, batch_size=7)
    assert torch.allclose(whole, parts, rtol=1e-6)
    assert torch.equal(whole, measured(images, batch_size=24))
    assert not torch.allclose(whole, measured(images, seed=1), rtol=1e-6)


def test_the_network_of_the_engine_agrees_with_its_call():
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY).eval()
    model.objective = "v"
    images = (slices(3, SIZE) + 1) * 127.5
    native = rd.denoising_error(model, images.byte(), BARS, "cpu", 9, progress=False)
    called = rd.denoising_error(
        lambda x, t: model(x, t), images.byte(), BARS, "cpu", 9, objective="v", progress=False
    )
    assert torch.allclose(native, called, rtol=1e-3)


def test_a_floor_holds_and_the_methods_take_the_result(images):
    class Knows:
        def __call__(self, x, t):
            return torch.zeros_like(x)

    error = measured(torch.zeros(2, 1, SIZE, SIZE), Knows(), objective="x0", floor=1e-5)
    assert torch.allclose(error, torch.full((60,), 1e-5))
    model, operator = GaussianDenoiser(BARS, S**0.5), ops.Identity((SIZE, SIZE))
    r2 = measured(images, sample_steps=20)
    y = torch.full((64, 1, SIZE, SIZE), 0.1)
    options = dict(sigma_y=0.3, r2=r2, clip=False, seed=0, progress=False)
    out = rd.daps_sample(model, y, operator, BARS, "cpu", 30, **options)
    # the posterior of N(0, S) given y = x + N(0, 0.3^2)
    assert out.mean().item() == pytest.approx(0.1 * S / (S + 0.09), abs=0.005)
    assert out.std().item() == pytest.approx((S * 0.09 / (S + 0.09)) ** 0.5, rel=0.05)
    assert torch.isfinite(rd.pigdm_sample(model, y, operator, BARS, "cpu", 5, **options)).all()


class Stationary:
    """The exact denoiser of a Gaussian that is the same everywhere: each Fourier mode has a variance of its own."""

    def __init__(self, size):
        down, across = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
        self.variances = (1 / (0.3 + (12 * down).square() + (12 * across).square())).double()
        self.size = (size, size)

    def times(self, x, factors):
        return torch.fft.irfft2(torch.fft.rfft2(x.double()) * factors, s=self.size)

    def __call__(self, x, t):
        bar = BARS[t].double().view(-1, 1, 1, 1)
        gain = bar.sqrt() * self.variances / (bar * self.variances + 1 - bar)
        return self.times(x, gain).float()

    def errors(self):
        bar = BARS.double().view(-1, 1, 1)
        return self.variances * (1 - bar) / (bar * self.variances + 1 - bar)


def test_a_stationary_gaussians_errors_are_known_mode_by_mode():
    model = Stationary(8)
    white = torch.randn(2000, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    drawn = model.times(white, model.variances.sqrt()).float()
    options = dict(objective="x0", batch_size=500)
    found = measured(drawn, model, spectrum=True, **options)
    assert found.shape == (60, 8, 5) and found.dtype == torch.float32
    # means of the squares of 2000 normal numbers, or, of modes that have a partner, 4000
    assert torch.allclose(found.double(), model.errors(), rtol=0.15)
    assert (found / model.errors()).mean().item() == pytest.approx(1.0, abs=0.02)
    pairs = torch.tensor([1.0, 2, 2, 2, 1])
    together = (found * pairs).sum((1, 2)) / 64
    assert torch.allclose(together, measured(drawn, model, **options), rtol=1e-4)


@pytest.mark.parametrize("kind", ["inpainting", "blur"])
def test_draws_with_modes_follow_the_posterior_of_a_stationary_gaussian(kind):
    model, count = Stationary(8), 120
    operator = {
        "inpainting": ops.Inpainting((8, 8), keep=0.4, seed=1),
        "blur": ops.Blurring((8, 8), kernel_type="gaussian", kernel_size=3),
    }[kind]
    basis = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    prior = model.times(basis, model.variances).view(64, 64)
    A = operator(basis).view(64, 64).T
    y = A @ torch.linspace(-1, 1, 64, dtype=torch.float64).sin()
    gain = prior @ A.T @ torch.linalg.inv(A @ prior @ A.T + 0.3**2 * torch.eye(64, dtype=torch.float64))
    mean, std = gain @ y, (prior - gain @ A @ prior).diagonal().sqrt()
    many = y.view(1, 1, 8, 8).float().expand(count, -1, -1, -1)

    def drawn(r2):
        options = dict(sigma_y=0.3, objective="x0", clip=False, seed=0, progress=False)
        return (
            rd.daps_sample(model, many, operator, BARS, "cpu", 8, r2=r2, **options).double().view(count, 64)
        )

    def apart(found, wanted):
        return ((found - wanted).norm() / std.norm()).item()

    out = drawn(model.errors())
    # by chance 1 / sqrt(count) = .09 and 1 / sqrt(2 count) = .065
    assert apart(out.mean(0), mean) < 0.14 and apart(out.std(0), std) < 0.1
    even = model.errors() @ torch.tensor([1.0, 2, 2, 2, 1], dtype=torch.float64)
    blind = drawn(even.sum(1) / 64)
    assert apart(blind.mean(0), mean) > 0.3


def test_modes_that_do_not_fit_are_told_before_the_model_is_asked():
    def never(x, t):
        raise AssertionError("the model was asked")

    operator, y = ops.Identity((SIZE, SIZE)), torch.zeros(1, 1, SIZE, SIZE)
    right = torch.ones(60, SIZE, SIZE // 2 + 1)
    wrong = {
        "r2 must have numbers for each timestep": right[:59],
        "r2 must have .*modes for the operator's images": right[:, :, :8],
        "r2 must be finite and above 0 at every": right - 1,
    }
    for sampler in (rd.daps_sample, rd.pigdm_sample):
        for text, r2 in wrong.items():
            with pytest.raises(ValueError, match=text):
                sampler(never, y, operator, BARS, "cpu", 5, sigma_y=0.1, r2=r2, progress=False)


WRONG = {
    "no images": (dict(images=torch.zeros(0, 1, SIZE, SIZE)), ValueError, "images is empty"),
    "a single image": (dict(images=torch.zeros(1, SIZE, SIZE)), ValueError, "images must be"),
    "nan": (dict(images=torch.full((1, 1, SIZE, SIZE), torch.nan)), ValueError, "images must be finite"),
    "floor": (dict(floor=0.0), ValueError, "floor must be above 0"),
    "steps": (dict(sample_steps=61), ValueError, "sample_steps must be between 1 and 60"),
    "timesteps": (dict(timesteps=[3, 7]), ValueError, "timesteps"),
    "batch size": (dict(batch_size=0), ValueError, "batch_size must be"),
    "seed": (dict(seed="x"), TypeError, "seed"),
    "start": (dict(x_T=torch.zeros(1, 1, SIZE, SIZE)), TypeError, "unexpected keyword argument 'x_T'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_before_the_model_is_asked(case):
    def never(x, t):
        raise AssertionError("the model was asked")

    changes, error, text = WRONG[case]
    arguments = {"images": torch.zeros(1, 1, SIZE, SIZE), **changes}
    with pytest.raises(error, match=text):
        rd.denoising_error(never, alpha_bars=BARS, device="cpu", progress=False, **arguments)


def test_images_of_another_size_values_or_a_broken_model_are_told():
    model = rd.DiffusionUNet(**TINY)
    model.image_size = (32, 32)
    with pytest.raises(ValueError, match=r"images are .*the model was trained on"):
        rd.denoising_error(model, torch.zeros(1, 1, SIZE, SIZE), BARS, "cpu")
    with pytest.warns(UserWarning, match=r"2 \* x - 1"):
        measured(torch.linspace(0, 1, SIZE * SIZE).view(1, 1, SIZE, SIZE), sample_steps=2)
    calls = itertools.count()
    with pytest.raises(ValueError, match="NaN or infinity at timestep 59"):
        measured(torch.zeros(1, 1, SIZE, SIZE), lambda x, t: x * (torch.nan if next(calls) == 0 else 1.0))
