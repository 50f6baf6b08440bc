"""The viewer of a trajectory: what it shows is what the sampler did; a figure where there are no widgets."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tools import TINY, GaussianDenoiser


@pytest.fixture
def model(rd):
    made = rd.DiffusionUNet(**TINY).eval()
    made.betas, made.image_size = rd.cosine_beta_schedule(20), (16, 16)
    return made


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp", "unipc", "heun", "euler"])
def test_the_way_ends_at_the_image_that_the_sampler_draws(rd, model, sampler):
    from rust_diffusion.view.trajectory import follow

    options = {} if sampler == "ddpm" else {"sample_steps": 5}
    way = follow(model, sampler, seed=3, **options)
    drawn = model.sample(1, sampler, generator=torch.Generator().manual_seed(3), progress=False, **options)
    assert torch.equal(way.result, drawn[0])
    assert len(way.stops) == (20 if sampler == "ddpm" else 5)
    assert torch.equal(way.stops[0].x_t, torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(3)))


def test_signal_and_noise_make_what_the_network_was_shown(model):
    from rust_diffusion.view.trajectory import follow

    alpha_bars = torch.cumprod(1 - model.betas, 0)
    for stop in follow(model, "ddim", seed=0, sample_steps=6, eta=1.0).stops:
        alpha_bar = alpha_bars[int(stop.timestep)]
        made = alpha_bar.sqrt() * stop.x0_hat + (1 - alpha_bar).sqrt() * stop.eps_hat
        assert torch.allclose(made, stop.x_t, atol=1e-4)


@pytest.mark.parametrize("objective", ["eps", "v"])
def test_each_stop_shows_what_the_network_says_of_the_image_beside_it(model, objective):
    from rust_diffusion.view.trajectory import follow

    model.objective = objective
    for sampler in ("heun", "euler"):
        for stop in follow(model, sampler, seed=0, sample_steps=4).stops:
            with torch.no_grad():
                said = model.x0(stop.x_t[None], torch.tensor([int(stop.timestep)]))[0].clamp(-1, 1)
            assert torch.allclose(stop.x0_hat, said, atol=1e-4), sampler


def test_a_model_of_straight_paths_is_followed_too(model):
    from rust_diffusion.view.trajectory import follow

    model.objective = "flow"
    for stop in follow(model, "flow", seed=0, sample_steps=4).stops:
        share = stop.timestep / 1000
        assert torch.allclose((1 - share) * stop.x0_hat + share * stop.eps_hat, stop.x_t, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp", "heun"])
def test_a_model_of_straight_paths_is_followed_by_the_other_samplers_too(model, sampler):
    from rust_diffusion.view.trajectory import follow

    model.objective = "flow"
    alpha_bars = torch.cumprod(1 - model.betas, 0)
    for stop in follow(model, sampler, seed=0, sample_steps=4).stops:
        alpha_bar = alpha_bars[round(stop.timestep)]
        made = alpha_bar.sqrt() * stop.x0_hat + (1 - alpha_bar).sqrt() * stop.eps_hat
        assert torch.allclose(made, stop.x_t, atol=1e-4)


@pytest.mark.parametrize(
    "options", [dict(sampler="dpmpp", eta=1.0), dict(sampler="ddpm", sample_steps=5)], ids=str
)
def test_what_a_sampler_does_not_take_is_refused(rd, model, options):
    with pytest.raises(ValueError, match=r"^(eta=1\.0|sample_steps=5) is for "):
        rd.explore(model, **options)


def test_a_size_that_the_model_cannot_take_is_called_by_its_name(rd, model):
    with pytest.raises(ValueError, match=r"^image_size=17 makes images \(1, 17, 17\), .* multiples of 2$"):
        rd.explore(model, image_size=17)


def test_outside_of_a_notebook_it_is_a_figure(rd, model):
    figure = rd.explore(rd.EMA(model), sample_steps=8, seed=1)
    images = [axis for axis in figure.axes if axis.images]
    assert len(images) == 3 * 6 and [axis.get_ylabel() for axis in images if axis.get_ylabel()] == [
        "x_t",
        "x0_hat",
        "noise estimate",
    ]
    assert "DDIM, 8 steps" in figure.get_suptitle()
    assert len([axis for axis in rd.explore(model, sample_steps=2).axes if axis.images]) == 3 * 2


def pictures(box):
    widgets = pytest.importorskip("ipywidgets")
    found, todo = [], [box]
    while todo:
        widget = todo.pop(0)
        found += [widget] if isinstance(widget, widgets.Image) else []
        todo += getattr(widget, "children", ())
    return [np.asarray(Image.open(io.BytesIO(picture.value))) for picture in found]


def controls(box):
    found, todo = {}, [box]
    while todo:
        widget = todo.pop(0)
        if getattr(widget, "description", ""):
            found[widget.description] = widget
        todo += getattr(widget, "children", ())
    return found


def test_moving_a_control_changes_the_pictures(rd, model):
    pytest.importorskip("ipywidgets")
    box = rd.explore(model, sample_steps=5, interactive=True)
    handles, first = controls(box), pictures(box)
    assert set(handles) == {"sampler", "steps", "eta", "seed", "step"} and len(first) == 3
    handles["step"].value = 4
    later = pictures(box)
    assert all((a != b).any() for a, b in zip(first, later, strict=True))
    handles["seed"].value = 9
    assert (pictures(box)[0] != later[0]).any()
    handles["steps"].value = 3
    assert handles["step"].max == 2 and handles["step"].value == 2
    handles["sampler"].value = "ddpm"
    assert handles["step"].max == 19 and handles["eta"].disabled and handles["steps"].disabled


def test_the_slider_of_eta_holds_what_was_asked_for(rd, model):
    pytest.importorskip("ipywidgets")
    assert controls(rd.explore(model, sample_steps=2, eta=1.5, interactive=True))["eta"].value == 1.5


def test_what_cannot_be_followed_is_refused_in_words(rd, model):
    with pytest.raises(TypeError, match=r"^model must be a DiffusionUNet"):
        rd.explore(GaussianDenoiser(torch.linspace(0.9, 0.1, 10)))
    for wrong in ({"sampler": "rk45"}, {"sample_steps": 21}, {"seed": -1}, {"eta": float("nan")}):
        with pytest.raises(ValueError, match=rf"^{next(iter(wrong))} must"):
            rd.explore(model, **wrong)


def test_a_model_of_straight_paths_brings_its_sampler(rd, model):
    model.objective = "flow"
    assert "FLOW, 4 steps" in rd.explore(model, sample_steps=4, interactive=False).get_suptitle()
    assert "DDIM, 3 steps" in rd.explore(model, sampler="ddim", sample_steps=3).get_suptitle()
    model.objective = "v"
    with pytest.raises(ValueError, match=r"^sampler must be one of .*'ddim'.*predicts 'v', got 'flow'"):
        rd.explore(model, sampler="flow")


def test_the_widgets_of_straight_paths_begin_with_their_sampler(rd, model):
    pytest.importorskip("ipywidgets")
    model.objective = "flow"
    box = rd.explore(model, sample_steps=3, interactive=True)
    handles = controls(box)
    assert handles["sampler"].value == "flow" and handles["step"].max == 2
    before = pictures(box)
    handles["sampler"].value = "ddim"
    handles["step"].value = 2
    assert handles["step"].max == 2 and (pictures(box)[1] != before[1]).any()


def test_the_slider_stays_still_while_nothing_could_be_drawn(rd, model):
    pytest.importorskip("ipywidgets")
    box = rd.explore(model, sample_steps=3, image_size=15, interactive=True)
    handles = controls(box)
    handles["step"].max = 5
    handles["step"].value = 4
    handles["steps"].value = 2
    assert handles["step"].max == 5, "still nothing was drawn"
