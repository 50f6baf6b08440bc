"""Wrong arguments of the samplers, each named before the model is called."""

import pytest
import torch

from tools import TINY_SHAPE
from wrong import INF, NAN, assert_raises, unet

GENERATOR = torch.Generator


def ddpm(world, **changes):
    schedule = dict(betas=world.betas, alphas=world.alphas, alpha_bars=world.alpha_bars)
    defaults = dict(model=world.model, num_samples=2, image_shape=TINY_SHAPE, device="cpu", progress=False)
    return world.rd.ddpm_sample(**{**defaults, **schedule, **changes})


def ddim(world, **changes):
    defaults = dict(model=world.model, num_samples=2, image_shape=TINY_SHAPE, device="cpu", progress=False)
    return world.rd.ddim_sample(**{**defaults, "alpha_bars": world.alpha_bars, "sample_steps": 4, **changes})


BOTH = {
    "no images": (dict(num_samples=0), ValueError, r"num_samples.*0"),
    "fewer than no images": (dict(num_samples=-2), ValueError, r"num_samples.*-2"),
    "a fraction of images": (dict(num_samples=1.5), TypeError, r"num_samples.*1\.5"),
    "two axes": (dict(image_shape=(16, 16)), ValueError, r"image_shape.*16, 16"),
    "an axis of zero": (dict(image_shape=(1, 0, 16)), ValueError, r"image_shape.*0"),
    "an axis of text": (dict(image_shape=(1, "a", 16)), TypeError, r"image_shape.*a"),
    "a shape that cannot be halved": (dict(image_shape=(1, 16, 15)), ValueError, r"image_shape.*15"),
    "other channels than the model's": (dict(image_shape=(3, 16, 16)), ValueError, r"image_shape.*3"),
    "no schedule": (dict(alpha_bars=torch.zeros(0)), ValueError, r"alpha_bars.*0"),
    "a schedule of two axes": (dict(alpha_bars=torch.full((3, 4), 0.5)), ValueError, r"alpha_bars.*3, 4"),
    "a schedule with NaN": (dict(alpha_bars=torch.full((12,), NAN)), ValueError, r"alpha_bars"),
    "a schedule above one": (dict(alpha_bars=torch.linspace(1.5, 0.1, 12)), ValueError, r"alpha_bars.*1\.5"),
    "a schedule that rises": (
        dict(alpha_bars=torch.linspace(0.1, 0.9, 12)),
        ValueError,
        r"alpha_bars must not rise with the timestep, got 0\.1 at 0",
    ),
    "a schedule that is None": (dict(alpha_bars=None), TypeError, r"alpha_bars.*None"),
    "an unknown device": (dict(device="toaster"), ValueError, r"device.*toaster"),
    "a device that is none": (dict(device=3.5), TypeError, r"device.*3\.5"),
    "a model that is none": (dict(model=None), TypeError, r"model.*None"),
    "a model of another shape": (dict(model=lambda x, t: x[:1]), ValueError, r"model.*1, 1, 16, 16"),
    "a model that changes what it is shown": (
        dict(model=lambda x, t: x.mul_(0.5)),
        ValueError,
        r"model must leave x_t as it is.*x\.clone\(\)",
    ),
    "a model that returns nothing": (dict(model=lambda x, t: None), TypeError, r"model.*None"),
    "a model that returns integers": (
        dict(model=lambda x, t: x.long()),
        (TypeError, ValueError),
        r"model.*int64",
    ),
    "start noise of another shape": (dict(x_T=torch.zeros(1, *TINY_SHAPE)), ValueError, r"x_T.*1, 1, 16, 16"),
    "start noise of integers": (
        dict(x_T=torch.zeros(2, *TINY_SHAPE, dtype=torch.long)),
        (TypeError, ValueError),
        r"x_T.*int64",
    ),
    "start noise with NaN": (dict(x_T=torch.full((2, *TINY_SHAPE), NAN)), ValueError, r"x_T.*(nan|finite)"),
    "start noise with infinity": (
        dict(x_T=torch.full((2, *TINY_SHAPE), INF)),
        ValueError,
        r"x_T.*(inf|finite)",
    ),
    "too few seeds": (dict(seed=[1]), ValueError, r"seed.*1"),
    "a seed of text": (dict(seed="seven"), TypeError, r"seed.*"),
    "a fraction as a seed": (dict(seed=1.5), TypeError, r"seed.*1\.5"),
    "a seed and a generator": (
        dict(seed=1, generator=GENERATOR()),
        ValueError,
        r"seed.*generator|generator.*seed",
    ),
    "a generator that is none": (dict(generator=7), TypeError, r"generator.*(7|int)"),
    "a callback that is none": (dict(callback=7), TypeError, r"callback.*(7|int)"),
}


@pytest.mark.parametrize("sampler", [ddpm, ddim])
@pytest.mark.parametrize("changes, kinds, message", BOTH.values(), ids=BOTH.keys())
def test_a_wrong_argument_of_a_sampler_is_refused(world, sampler, changes, kinds, message):
    assert_raises(lambda: sampler(world, **changes), kinds, message)


DDPM = {
    "betas of another length": (lambda w: ddpm(w, betas=w.betas[:5]), ValueError, r"betas.*5"),
    "alphas of another length": (lambda w: ddpm(w, alphas=w.alphas[:5]), ValueError, r"alphas.*5"),
    "alpha_bars for alphas": (
        lambda w: ddpm(w, alphas=w.alpha_bars),
        ValueError,
        r"alphas must follow from betas.*at timestep",
    ),
    "alphas for alpha_bars": (
        lambda w: ddpm(w, alpha_bars=w.alphas),
        ValueError,
        r"alpha_bars must follow from betas.*at timestep",
    ),
    "negative alphas": (lambda w: ddpm(w, alphas=-w.alphas), ValueError, r"alphas must follow from betas"),
    "betas of integers": (lambda w: ddpm(w, betas=torch.ones(12).long()), (TypeError, ValueError), r"betas"),
    "betas with NaN": (lambda w: ddpm(w, betas=torch.full((12,), NAN)), ValueError, r"betas"),
}


@pytest.mark.parametrize("call, kinds, message", DDPM.values(), ids=DDPM.keys())
def test_a_wrong_schedule_of_ddpm_is_refused(world, call, kinds, message):
    assert_raises(lambda: call(world), kinds, message)


DDIM = {
    "no steps": (dict(sample_steps=0), ValueError, r"sample_steps.*0"),
    "negative steps": (dict(sample_steps=-3), ValueError, r"sample_steps.*-3"),
    "more steps than T": (dict(sample_steps=13), ValueError, r"sample_steps.*13"),
    "steps a float": (dict(sample_steps=2.5), TypeError, r"sample_steps.*2\.5"),
    "eta negative": (dict(eta=-0.1), ValueError, r"eta.*-0\.1"),
    "eta NaN": (dict(eta=NAN), ValueError, r"eta.*nan"),
    "eta infinite": (dict(eta=INF), ValueError, r"eta.*inf"),
    "eta text": (dict(eta="big"), TypeError, r"eta.*big"),
    "an unknown spacing": (dict(spacing="random"), ValueError, r"spacing.*random"),
    "no timesteps": (dict(timesteps=[]), ValueError, r"timesteps"),
    "timesteps that rise": (dict(timesteps=[1, 5]), ValueError, r"timesteps"),
    "a timestep twice": (dict(timesteps=[5, 5, 1]), ValueError, r"timesteps.*5"),
    "a timestep past the end": (dict(timesteps=[12, 1]), ValueError, r"timesteps.*12"),
    "a negative timestep": (dict(timesteps=[5, -1]), ValueError, r"timesteps.*-1"),
    "a fraction of a timestep": (dict(timesteps=[5.5, 1]), TypeError, r"timesteps.*5\.5"),
}


@pytest.mark.parametrize("changes, kinds, message", DDIM.values(), ids=DDIM.keys())
def test_a_wrong_argument_of_ddim_is_refused(world, changes, kinds, message):
    called = []
    changes = {**changes, "model": lambda x, t: called.append(t) or x}
    assert_raises(lambda: ddim(world, **changes), kinds, message)
    assert not called, "the model was called before the arguments were checked"


def test_a_model_in_float64_is_refused_by_name(world):
    assert_raises(lambda: ddim(world, model=unet(world).double()), (TypeError, ValueError), r"model.*float64")


def test_weights_with_nan_are_not_drawn_as_images(world):
    """A ruined network shows in the result, or is refused: NaN must not be clamped into a grey image."""
    model = unet(world).eval()
    with torch.no_grad():
        model.out_conv.bias.fill_(NAN)
    with pytest.warns(RuntimeWarning, match="samples hold NaN"):
        samples = ddim(world, model=model)
    assert samples.isnan().all()
