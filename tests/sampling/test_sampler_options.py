"""What our samplers offer beyond the course's: seeds per image, other grids, callbacks, a progress bar."""

import inspect
import itertools
import re
import time

import numpy as np
import pytest
import torch

from tools import TINY, TINY_SHAPE, GaussianDenoiser

T = 20
SAMPLERS = ["ddpm", "ddim", "ddim, eta 0.7"]


@pytest.fixture
def alpha_bars(oracle):
    return torch.cumprod(1 - oracle.cosine_beta_schedule(T), dim=0)


@pytest.fixture
def exact(alpha_bars):
    return GaussianDenoiser(alpha_bars)


@pytest.fixture
def draw(rd, oracle, alpha_bars):
    betas = oracle.cosine_beta_schedule(T)

    def sample(which, model, num_samples=3, image_shape=TINY_SHAPE, **options):
        options.setdefault("progress", False)
        if which == "ddpm":
            return rd.ddpm_sample(
                model, num_samples, image_shape, betas, 1 - betas, alpha_bars, "cpu", **options
            )
        options = {"sample_steps": 5, "eta": 0.7 if "eta" in which else 0.0, **options}
        return rd.ddim_sample(model, num_samples, image_shape, alpha_bars, "cpu", **options)

    return sample


@pytest.mark.parametrize("which", SAMPLERS)
def test_an_int_seed_repeats_and_leaves_the_global_generator_alone(draw, exact, which):
    before = torch.get_rng_state()
    first, again, other = (draw(which, exact, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("which", SAMPLERS)
def test_an_image_with_its_own_seed_is_the_same_in_any_batch(draw, exact, which):
    seeds = [5, 900, 5, 3]
    together = draw(which, exact, 4, seed=seeds)
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    for image, seed in zip(together, seeds, strict=True):
        assert torch.equal(draw(which, exact, 1, seed=[seed])[0], image)
    assert torch.equal(draw(which, exact, 2, seed=[3, 900]), together[[3, 1]])


@pytest.mark.parametrize("which", SAMPLERS)
def test_seeded_images_of_a_network_hardly_depend_on_the_batch(rd, draw, which):
    model = rd.DiffusionUNet(**TINY).eval()
    together = draw(which, model, 3, seed=[1, 2, 3])
    assert (draw(which, model, 1, seed=[2])[0] - together[1]).abs().max() <= 1e-3


def test_seeded_start_noise_is_standard_normal(draw):
    starts = []
    draw("ddim", lambda x, t: starts.append(x.clone()) or x, 64, seed=list(range(64)))
    start = starts[0]
    assert abs(start.mean()) < 0.05 and abs(start.std() - 1) < 0.05
    images = start.reshape(64, -1)
    correlation = (images @ images.T) / images.shape[1] - torch.eye(64)
    assert correlation.abs().max() < 0.5


def diffusers_timesteps(spacing, steps):
    """The three grids of diffusers' DDIMScheduler, with its steps_offset of zero."""
    if spacing == "leading":
        return (np.arange(steps) * (T // steps))[::-1].astype(int).tolist()
    if spacing == "linspace":
        return np.linspace(0, T - 1, steps).round()[::-1].astype(int).tolist()
    return (np.round(np.arange(T, 0, -T / steps)) - 1).astype(int).tolist()


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_other_spacings_are_those_of_diffusers(oracle, alpha_bars, draw, exact, spacing, steps):
    torch.manual_seed(3)
    ours = draw("ddim", exact, sample_steps=steps, eta=0.5, spacing=spacing)
    expected = diffusers_timesteps(spacing, steps)
    assert exact.timesteps == expected
    torch.manual_seed(3)
    theirs = oracle.ddim_sample(exact, 3, TINY_SHAPE, alpha_bars, "cpu", eta=0.5, timesteps=expected)
    assert (ours - theirs).abs().max() <= 1e-4


def test_the_courses_spacing_is_the_default(draw, exact):
    draw("ddim", exact, sample_steps=6)
    default = exact.timesteps
    exact.calls.clear()
    draw("ddim", exact, sample_steps=6, spacing="course")
    assert exact.timesteps == default == torch.linspace(T - 1, 0, 6).long().tolist()


@pytest.mark.parametrize("timesteps", [[19, 10, 3], [15], [18, 17, 2, 0], list(range(19, -1, -1))])
def test_own_timesteps_are_used_as_given(oracle, alpha_bars, draw, exact, timesteps):
    torch.manual_seed(3)
    ours = draw("ddim", exact, timesteps=timesteps, eta=0.5)
    assert exact.timesteps == timesteps
    torch.manual_seed(3)
    theirs = oracle.ddim_sample(exact, 3, TINY_SHAPE, alpha_bars, "cpu", eta=0.5, timesteps=timesteps)
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("which, calls", [("ddpm", T), ("ddim", 5)])
def test_callback_is_called_once_per_step(draw, exact, which, calls):
    seen = []
    with_callback = draw(which, exact, seed=1, callback=lambda *info: seen.append(info))
    assert len(seen) == calls
    assert torch.equal(with_callback, draw(which, exact, seed=1)), "the callback changed the samples"


def test_an_exception_in_the_callback_comes_through(draw, exact):
    def fail(*info):
        raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        draw("ddim", exact, callback=fail)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_model_comes_through(draw, error):
    def stop(x, t):
        raise error

    with pytest.raises(error):
        draw("ddpm", stop)


@pytest.mark.parametrize("which", SAMPLERS)
def test_progress_is_shown_unless_switched_off(draw, exact, capfd, which):
    draw(which, exact, progress=False)
    out, err = capfd.readouterr()
    assert out == "" and err == ""
    draw(which, exact, progress=True)
    out, err = capfd.readouterr()
    assert "100%" in out + err


def test_the_last_step_is_shown_however_fast_it_came(draw, exact, monkeypatch):
    from rust_diffusion.sampling import progress

    shown = []
    monkeypatch.setattr(progress.Progress, "_show", lambda self, done: shown.append(done))
    begin = time.perf_counter()
    draw("ddpm", exact, progress=True)
    assert shown[-1] == T and shown == sorted(set(shown))
    assert len(shown) <= (time.perf_counter() - begin) / 0.1 + 1


def test_nobody_is_called_who_does_not_listen(rd, draw):
    """Without bar and callback the engine comes back to Python for signals alone, at most every 50 ms."""
    model = rd.DiffusionUNet(**TINY).eval()
    alpha_bars = torch.cumprod(1 - rd.cosine_beta_schedule(400), 0)

    def calls(**options):
        before, begin = rd._native.python_calls(), time.perf_counter()
        rd.ddim_sample(model, 8, TINY_SHAPE, alpha_bars, "cpu", 50, **options)
        return rd._native.python_calls() - before, time.perf_counter() - begin

    calls(progress=False)
    made, seconds = calls(progress=False)
    assert made <= seconds / 0.05
    made, seconds = calls(progress=True)
    assert made <= seconds / 0.05 + seconds / 0.1 + 1
    made, _ = calls(progress=False, callback=lambda step: None)
    assert made >= 50


def test_without_clipping_nothing_is_clamped(oracle, alpha_bars, draw):
    """Data of deviation 2 lie far outside [-1, 1]; the course's formulas without their clamps are the judge."""
    model = GaussianDenoiser(alpha_bars, sigma=2.0)
    grid = [19, 12, 6, 0]
    start = x = torch.randn(64, *TINY_SHAPE)
    for k, s in itertools.pairwise([*grid, None]):
        eps = model(x, torch.full((64,), k))
        x0 = (x - (1 - alpha_bars[k]).sqrt() * eps) / alpha_bars[k].sqrt()
        x = x0 if s is None else alpha_bars[s].sqrt() * x0 + (1 - alpha_bars[s]).sqrt() * eps
    seen = []
    options = dict(timesteps=grid, x_T=start, callback=lambda step: seen.append(step.x0_hat.abs().max()))
    free = draw("ddim", model, 64, clip=False, **options)
    assert torch.allclose(free, x, atol=1e-4) and free.abs().max() > 4 and max(seen) > 4
    seen.clear()
    assert draw("ddim", model, 64, **options).abs().max() <= 1 and max(seen) <= 1
    ancestral = draw("ddpm", model, 256, clip=False, seed=1)
    assert abs(ancestral.std() - 2) < 0.2
    with pytest.raises(TypeError, match=r"clip.*1"):
        draw("ddim", model, clip=1)


@pytest.mark.parametrize("first, last", [(1e-9, 1e-9), (1e-9, 0.3), (3e-8, 1e-7)])
def test_steps_too_small_for_float32_are_no_division_by_zero(rd, first, last):
    """1 - alpha_bar is 0 in float32 where a step's noise is below its precision."""
    betas = rd.linear_beta_schedule(12, first, last)
    alpha_bars = torch.cumprod(1 - betas, 0)
    assert alpha_bars[0] == 1 or last < 1e-6
    x = torch.rand(2, *TINY_SHAPE) - 0.5
    arguments = (2, TINY_SHAPE, betas, 1 - betas, alpha_bars, "cpu")
    out = rd.ddpm_sample(lambda x, t: torch.zeros_like(x), *arguments, x_T=x, progress=False)
    assert torch.isfinite(out).all()
    if last < 1e-6:  # there is no noise to speak of: the image is what it began as
        assert torch.allclose(out, x, atol=5e-3)


def test_a_keyword_that_no_sampler_takes_is_refused_by_the_samplers_name(draw, exact):
    with pytest.raises(TypeError, match=r"ddim_sample\(\) got an unexpected keyword argument 'colour'"):
        draw("ddim", exact, colour="grey")


def test_every_sampler_shows_its_keywords_and_says_what_they_are(rd):
    from rust_diffusion.sampling.sampler import DEFAULTS, SAMPLERS

    assert {"ddim", "ddpm"} <= SAMPLERS.keys()
    for name, function in SAMPLERS.items():
        assert function is getattr(rd, f"{name}_sample")
        parameters = inspect.signature(function).parameters
        assert {key: parameters[key].default for key in DEFAULTS} == DEFAULTS
        assert all(re.search(rf"^{key} : ", inspect.getdoc(function), re.MULTILINE) for key in DEFAULTS)


def test_samplers_can_be_nested(draw, exact):
    """A model that itself samples, as solvers of inverse problems do."""
    inner = []

    def model(x, t):
        inner.append(draw("ddim", exact, 1, sample_steps=2))
        return exact(x, t)

    assert draw("ddim", model, sample_steps=3).shape == (3, *TINY_SHAPE)
    assert len(inner) == 3


def test_more_images_than_the_engine_takes_at_once_are_drawn_in_parts(rd, alpha_bars):
    """A thousand images of 16 x 16 and some: the parts are joined in order."""
    model = rd.DiffusionUNet(**TINY).eval()
    start = torch.randn(1100, *TINY_SHAPE)

    def draw(x_T):
        # not from nearly pure noise: there an untrained network amplifies the last bit a thousand times
        options = dict(timesteps=[len(alpha_bars) // 2, 0], x_T=x_T, progress=False)
        return rd.ddim_sample(model, len(x_T), TINY_SHAPE, alpha_bars, "cpu", **options)

    parts = torch.cat([draw(part) for part in start.split(300)])
    assert torch.allclose(draw(start), parts, atol=1e-4)


@pytest.mark.parametrize("kind", ["ours", "the course's"])
def test_a_seed_fixes_the_dropout_of_a_model_in_training_mode(rd, oracle, kind):
    torch.manual_seed(0)
    make = rd.DiffusionUNet if kind == "ours" else oracle.DiffusionUNet
    model = make(**{**TINY, "dropout": 0.3}).train()
    bars = torch.cumprod(1 - rd.cosine_beta_schedule(20), 0)

    def draw():
        return rd.ddim_sample(model, 2, (1, 16, 16), bars, "cpu", 3, seed=7, progress=False)

    first = draw()
    torch.rand(5)
    state = torch.get_rng_state()
    assert torch.equal(draw(), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(
        rd.ddim_sample(model.eval(), 2, (1, 16, 16), bars, "cpu", 3, seed=7, progress=False), first
    )


class Noting(torch.nn.Module):
    """One convolution, and what it was computed in."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.computed_in = set()

    def forward(self, x, t):
        out = self.convolution(x)
        self.computed_in.add(out.dtype)
        return out


@pytest.mark.parametrize("which", SAMPLERS)
def test_a_short_precision_runs_any_module_under_autocast(draw, which):
    model = Noting().eval()
    images = draw(which, model, seed=1, precision="bf16")
    assert model.computed_in == {torch.bfloat16} and images.dtype == torch.float32
    exactly = draw(which, model, seed=1)
    assert model.computed_in == {torch.bfloat16, torch.float32}
    assert 0 < (images - exactly).norm() < 0.1 * exactly.norm()


def test_a_subclass_with_a_forward_of_its_own_keeps_the_precision(rd, draw):
    seen = set()

    class Own(rd.DiffusionUNet):
        def forward(self, x, t):
            seen.add(torch.is_autocast_enabled("cpu"))
            return super().forward(x, t)

    model = Own(**TINY).eval()
    images = draw("ddim", model, seed=1, precision="bf16")
    assert seen == {True} and images.dtype == torch.float32
    draw("ddim", model, seed=1)
    assert seen == {True, False}


def test_a_function_has_no_precision_to_choose(draw):
    with pytest.raises(ValueError, match=r"precision must be 'fp32'.*torch\.nn\.Module, got 'bf16'"):
        draw("ddim", lambda x, t: x, precision="bf16")


@pytest.mark.parametrize("name", ["dpmpp", "unipc", "heun"])
def test_answers_may_come_in_the_same_memory(rd, alpha_bars, name):
    exact = GaussianDenoiser(alpha_bars)
    buffer = torch.zeros(2, *TINY_SHAPE)
    options = dict(sample_steps=6, seed=1, clip=False, objective="x0", progress=False)

    def fresh(x, t):
        return rd.as_eps(exact, alpha_bars).x0(x, t)

    def reused(x, t):
        return buffer.copy_(fresh(x, t))

    images = [
        getattr(rd, f"{name}_sample")(model, 2, TINY_SHAPE, alpha_bars, "cpu", **options)
        for model in (fresh, reused)
    ]
    assert torch.equal(*images)


@pytest.mark.parametrize("name", ["device", "image_shape", "alpha_bars", "betas"])
def test_what_sample_takes_of_the_model_is_not_given_to_it(rd, name):
    model = rd.DiffusionUNet(**TINY)
    with pytest.raises(TypeError, match=rf"^sample\(\) takes no {name}, but the model's own"):
        model.sample(2, **{name: "cpu"})


def test_a_module_that_begins_in_place_changes_nothing_of_the_callers(rd, alpha_bars):
    class InPlace(torch.nn.Module):
        def forward(self, x, t):
            return x.mul_(0.5)

    start = torch.randn(2, *TINY_SHAPE)
    before = start.clone()
    options = dict(sample_steps=4, progress=False)

    def drawn(model):
        forth = rd.ddim_sample(model, 2, TINY_SHAPE, alpha_bars, "cpu", x_T=start, **options)
        return forth, rd.ddim_invert(model, start, alpha_bars, "cpu", **options)

    for got, want in zip(drawn(InPlace()), drawn(lambda x, t: 0.5 * x), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(start, before)


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("network", [True, False], ids=["our network", "a function"])
def test_images_are_float32_whatever_torchs_default_is(rd, draw, exact, network, seed):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY).eval() if network else exact
    images = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        torch.manual_seed(1)
        images.append(draw("ddim, eta 0.7", model, seed=seed))
    assert images[1].dtype == torch.float32 and torch.equal(*images)


def test_more_noise_than_ddpm_has_is_drawn_with_a_warning(draw, exact):
    with pytest.warns(UserWarning, match=r"^eta=7 is above 1, .* noisy") as caught:
        images = draw("ddim", exact, sample_steps=5, eta=7)
    assert len(caught) == 1 and images.isfinite().all()
