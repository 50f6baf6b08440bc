"""From images to noise: inversion, likelihoods and interpolation, where the answer is known."""

import math

import pytest
import torch

from tools import TINY, TINY_SHAPE, GaussianDenoiser

SIGMA = 0.5


@pytest.fixture(scope="module")
def alpha_bars():
    return torch.cumprod(1 - torch.linspace(1e-4, 0.05, 300), 0)


@pytest.fixture
def images():
    return SIGMA * torch.randn(4, *TINY_SHAPE)


def test_inversion_is_diffusers_inverse_scheduler(rd, alpha_bars, images):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the judge")
    betas = torch.linspace(1e-4, 0.05, 300)
    for prediction, objective in (("epsilon", "eps"), ("v_prediction", "v")):
        scheduler = diffusers.DDIMInverseScheduler(
            num_train_timesteps=300,
            trained_betas=betas.numpy(),
            clip_sample=False,
            prediction_type=prediction,
        )
        scheduler.set_timesteps(20)
        model = GaussianDenoiser(alpha_bars, SIGMA)
        x = images
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t.expand(len(x))), int(t), x).prev_sample
        grid = scheduler.timesteps.tolist()[::-1]
        options = dict(timesteps=grid, objective=objective, clip=False, progress=False)
        got = rd.ddim_invert(model, images, alpha_bars, "cpu", **options)
        assert (got - x).abs().max() <= 1e-4


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_ddim_comes_back_from_the_noise(rd, alpha_bars, images, objective):
    exact = GaussianDenoiser(alpha_bars, SIGMA)

    def model(x, t):
        bar = alpha_bars[t].reshape(-1, 1, 1, 1)
        eps = exact(x, t)
        x0 = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
        return {"eps": eps, "x0": x0, "v": bar.sqrt() * eps - (1 - bar).sqrt() * x0}[objective]

    options = dict(objective=objective, clip=False, progress=False)

    def error(steps):
        noise = rd.ddim_invert(model, images, alpha_bars, "cpu", steps, **options)
        assert steps < 300 or abs(noise.std() - 1) < 0.1
        back = rd.ddim_sample(model, 4, TINY_SHAPE, alpha_bars, "cpu", steps, x_T=noise, **options)
        return (back - images).abs().max()

    assert error(300) < 0.04 and error(300) < error(30) / 5


def test_a_model_for_x0_is_inverted_as_well_as_by_its_noise(rd, alpha_bars, images):
    exact = GaussianDenoiser(alpha_bars, SIGMA)
    model = rd.as_eps(exact, alpha_bars)
    options = dict(sample_steps=20, clip=False, progress=False)
    want = rd.ddim_invert(exact, images, alpha_bars, "cpu", **options)
    got = rd.ddim_invert(model.x0, images, alpha_bars, "cpu", objective="x0", **options)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_noise_is_not_clamped(rd, alpha_bars, images):
    noise = rd.ddim_invert(GaussianDenoiser(alpha_bars, SIGMA), images, alpha_bars, "cpu", progress=False)
    assert noise.abs().max() > 1.5


def bits(images):
    """Exactly, of N(0, SIGMA^2)."""
    nats = -(images.double() ** 2) / (2 * SIGMA**2) - 0.5 * math.log(2 * math.pi * SIGMA**2)
    return (7 - nats.flatten(1).mean(1) / math.log(2)).float()


def test_the_likelihood_of_a_gaussian_is_exact(rd, alpha_bars, images):
    model = GaussianDenoiser(alpha_bars, SIGMA)
    wanted = bits(images)
    errors = []
    for steps in (25, 100):
        got = rd.log_likelihood(model, images, alpha_bars, "cpu", steps, seed=1, progress=False)
        assert got.shape == (4,) and got.dtype == torch.float32
        errors.append((got - wanted).abs().max())
    assert errors[1] < 1e-2 and errors[1] < errors[0] / 4


def test_the_likelihood_of_an_uneven_gaussian_is_right_on_average_over_probes(rd, alpha_bars):
    """Pixels of two kinds, each independent: only Hutchinson's signs see that the Jacobian is no multiple of one."""
    variances = torch.where(torch.arange(16) % 2 == 0, 0.3, 0.02).expand(1, 16, 16)
    mixing = torch.linalg.qr(torch.randn(256, 256, dtype=torch.float64))[0].float()
    diagonal = variances.reshape(256)

    def model(x, t):
        bar = alpha_bars[t][0]
        spectrum = (1 - bar).sqrt() / (bar * diagonal + 1 - bar)
        return ((x.flatten(1) @ mixing * spectrum) @ mixing.T).reshape(x.shape)

    z = torch.randn(3, 256)
    x = ((z * diagonal.sqrt()) @ mixing.T).reshape(3, 1, 16, 16)
    nats = (-0.5 * z**2 - 0.5 * (2 * math.pi * diagonal).log()).mean(1)
    wanted = 7 - nats / math.log(2)
    got = rd.log_likelihood(model, x, alpha_bars, "cpu", 150, probes=12, seed=0, progress=False)
    assert (got - wanted).abs().max() < 0.05


def test_a_network_has_likelihoods_whatever_computes_it(rd, alpha_bars, images):
    """The engine's gradient to x, and torch's autograd through a callable, are the same."""
    torch.manual_seed(1)
    model = rd.DiffusionUNet(**TINY).eval()
    options = dict(sample_steps=3, seed=2, progress=False)
    engine = rd.log_likelihood(model, images, alpha_bars, "cpu", **options)
    callable_ = rd.log_likelihood(lambda x, t: model(x, t), images, alpha_bars, "cpu", **options)
    assert torch.allclose(engine, callable_, rtol=1e-3, atol=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_interpolation_leads_from_one_image_to_the_other(rd, alpha_bars, images):
    model = GaussianDenoiser(alpha_bars, SIGMA)
    a, b = images[0], images[1]
    options = dict(sample_steps=151, clip=False, progress=False)
    path = rd.interpolate(model, a, b, alpha_bars, "cpu", 5, timestep=150, **options)
    assert path.shape == (5, *TINY_SHAPE)
    assert (path[0] - a).abs().max() < 0.1 and (path[-1] - b).abs().max() < 0.1
    steps = (path[1:] - path[:-1]).flatten(1).norm(dim=1)
    assert steps.max() < 1.5 * steps.min()
    assert abs(path[2].std() - SIGMA) < 0.15, "the middle is an image of the same kind, not a mean of two"


def test_interpolation_takes_timesteps_of_ones_own(rd, alpha_bars, images):
    model, grid, seen = GaussianDenoiser(alpha_bars, SIGMA), list(range(150, -1, -10)), []
    arguments = (model, images[0], images[1], alpha_bars, "cpu", 3)
    options = dict(clip=False, progress=False)
    got = rd.interpolate(
        *arguments, timesteps=grid, callback=lambda step: seen.append(step.timestep), **options
    )
    assert seen == [*reversed(grid), *grid]
    want = rd.interpolate(*arguments, timestep=150, sample_steps=16, spacing="linspace", **options)
    assert torch.equal(got, want)


def test_a_model_for_flow_is_asked_at_the_time_of_what_it_is_shown(rd, alpha_bars, images):
    times, grid = [], [200, 100, 50]

    def model(x, t):
        times.append(t[0].item())
        return torch.zeros_like(x)

    rd.ddim_invert(model, images, alpha_bars, "cpu", timesteps=grid, objective="flow", progress=False)
    signal, spread = (alpha_bars[[50, 100]].sqrt(), (1 - alpha_bars[[50, 100]]).sqrt())
    assert times == pytest.approx([0.0, *(1000 * spread / (signal + spread)).tolist()], rel=1e-4)


WRONG = {
    "images of three axes": (
        lambda rd, m, ab: rd.ddim_invert(m, torch.zeros(1, 4, 4), ab, "cpu"),
        r"x.*1, 4, 4",
    ),
    "images of NaN": (
        lambda rd, m, ab: rd.ddim_invert(m, torch.full((1, 1, 4, 4), math.nan), ab, "cpu"),
        r"x must be finite",
    ),
    "no probes": (
        lambda rd, m, ab: rd.log_likelihood(m, torch.zeros(1, 1, 4, 4), ab, "cpu", probes=0),
        r"probes.*0",
    ),
    "two images for one": (
        lambda rd, m, ab: rd.interpolate(m, torch.zeros(2, 1, 4, 4), torch.zeros(1, 4, 4), ab, "cpu"),
        r"a must be one image.*2, 1, 4, 4",
    ),
    "an end of NaN": (
        lambda rd, m, ab: rd.interpolate(
            m, torch.full((1, 4, 4), math.nan), torch.zeros(1, 4, 4), ab, "cpu", progress=False
        ),
        r"^a must be finite",
    ),
    "images of two shapes": (
        lambda rd, m, ab: rd.interpolate(m, torch.zeros(1, 4, 4), torch.zeros(1, 4, 8), ab, "cpu"),
        r"shape",
    ),
    "a timestep past the end": (
        lambda rd, m, ab: rd.interpolate(
            m, torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), ab, "cpu", timestep=300
        ),
        r"timestep.*300",
    ),
    "a timestep besides timesteps": (
        lambda rd, m, ab: rd.interpolate(
            m, torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), ab, "cpu", timestep=9, timesteps=[9, 0]
        ),
        r"timestep must be left out.*got 9",
    ),
    "no timesteps to mix at": (
        lambda rd, m, ab: rd.interpolate(
            m, torch.zeros(1, 4, 4), torch.zeros(1, 4, 4), ab, "cpu", timesteps=[]
        ),
        r"timesteps must not be empty",
    ),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(rd, alpha_bars, call, message):
    with pytest.raises(ValueError, match=message):
        call(rd, lambda x, t: x, alpha_bars)


def test_what_draws_no_noise_takes_no_seed(rd, alpha_bars, images):
    with pytest.raises(TypeError, match=r"ddim_invert\(\) got an unexpected keyword argument 'seed'"):
        rd.ddim_invert(lambda x, t: x, images, alpha_bars, "cpu", seed=1)
    with pytest.raises(TypeError, match=r"^interpolate\(\) got an unexpected keyword argument 'seed'"):
        rd.interpolate(lambda x, t: x, images[0], images[0], alpha_bars, "cpu", seed=1)
