"""Recipes: plain data that the network and `train` take as they are, and that a user can change."""

import json
import warnings

import pytest
import torch


@pytest.mark.parametrize("name", ["minutes", "demo", "course"])
@pytest.mark.parametrize("size", [16, 32, 48, 50, 64, (64, 96), 128])
def test_a_recipe_fits_its_images(rd, name, size):
    recipe = rd.recipe(name, size=size, minutes=5)
    if name == "course" and size == 50:
        return  # the course's network halves twice
    recipe.network["base_ch"] = 8
    model = rd.DiffusionUNet(**recipe.network)
    sides = size if isinstance(size, tuple) else (size, size)
    with torch.no_grad():
        assert model(torch.zeros(1, 1, *sides), torch.tensor([3])).shape == (1, 1, *sides)
    assert recipe.betas.shape == (recipe.num_steps,)


@pytest.mark.parametrize("size, better", [(65, (64, 64)), ((33, 64), (32, 64)), (66, (64, 64))])
def test_sides_that_make_an_update_slow_are_warned_of(rd, size, better):
    with pytest.warns(UserWarning, match=rf"^size=.* levels.* with size=\({better[0]}, {better[1]}\)$"):
        rd.recipe(size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for usual in (better, 16, 28, 48, 50, 64, 100, 512):
            rd.recipe(size=usual)


def test_a_recipe_trains_and_says_how_to_draw(rd):
    recipe = rd.recipe(size=16, minutes=5)
    recipe.network["base_ch"] = 8
    recipe.training |= {"max_steps": 2}
    model = rd.DiffusionUNet(**recipe.network)
    result = rd.train(model, rd.phantoms(8, size=16), betas=recipe.betas, progress=False, **recipe.training)
    assert result.updates == 2 and result.ema.shadow.objective == "flow"
    recipe.sampling["sample_steps"] = 3
    assert model.sample(2, progress=False, **recipe.sampling).shape == (2, 1, 16, 16)


def test_more_time_makes_a_larger_network_and_the_course_stays(rd):
    widths = [rd.recipe(minutes=minutes).network["base_ch"] for minutes in (3, 10, 30, 60, 600)]
    assert widths == sorted(widths) and widths[0] < widths[-1]
    assert rd.recipe("course", minutes=3) == rd.recipe("course", size=128)
    model = rd.DiffusionUNet(**rd.recipe("course").network)
    assert sum(p.numel() for p in model.parameters()) == 12_356_161


def test_a_recipe_is_plain_data_and_each_time_a_new_one(rd):
    for name in ("minutes", "demo", "course"):
        first, second = rd.recipe(name), rd.recipe(name)
        json.dumps([first.network, first.training, first.sampling])
        first.network["base_ch"] = 1
        first.training["batch_size"] = 1
        assert second == rd.recipe(name) != first
        assert all(f"{key}={value!r}" in str(second) for key, value in second.training.items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "best"}, r"^name must be one of 'minutes', 'demo', 'course'"),
        ({"size": 0}, "^size must be"),
        ({"minutes": 0}, r"^minutes must be above 0"),
        ({"minutes": float("inf")}, "^minutes must be"),
    ],
)
def test_what_is_no_recipe_is_refused(rd, wrong, message):
    with pytest.raises(ValueError, match=message):
        rd.recipe(**wrong)


@pytest.mark.parametrize("size", [32, (32, 48)])
def test_a_size_is_no_name(rd, size):
    with pytest.raises(TypeError, match=r"got .*: is it size="):
        rd.recipe(size)
