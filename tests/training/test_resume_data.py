"""A run stopped inside an epoch goes on exactly, in whatever form the data come."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from tools import TINY, same_state, slices

BATCHES = 3  # per epoch


class Augmented(Dataset):
    """Slices shifted and noised at random, by all three generators that transforms use."""

    images = slices(10)
    fetched = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        Augmented.fetched += 1
        shift = random.randint(0, 3)
        noise = torch.rand(()) * np.random.rand()  # noqa: NPY002 - what transforms use
        return (self.images[index].roll(shift, -1) + 0.01 * noise).float()


class Stream(IterableDataset):
    def __iter__(self):
        return iter(slices(10))


class Labelled(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return slices(10)[index], index


FORMS = {
    "tensor": lambda: slices(10),
    "grey levels": lambda: ((slices(10) + 1) * 127).to(torch.uint8),
    "dataset": Augmented,
    "loader with random transforms": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True),
    "loader with workers": lambda: DataLoader(Labelled(), batch_size=4, shuffle=True, num_workers=2),
    "loader with a generator": lambda: DataLoader(
        Augmented(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1)
    ),
    "loader of whole batches": lambda: DataLoader(list(slices(10).split(4)), batch_size=None, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=4),
    "list of arrays": lambda: [part.numpy() for part in slices(10).split(4)],
    "function": lambda: lambda: (part for part in slices(10).split(4)),
}


@pytest.fixture
def fit(rd, oracle):
    def run(folder, data, **options):
        torch.manual_seed(1)
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        fixed = dict(betas=oracle.cosine_beta_schedule(20), epochs=3, batch_size=4, seed=3, device="cpu")
        fixed.update(precision="fp32", progress=False, weights_dir=folder)
        return model, rd.train(model, data, **fixed, **options)

    return run


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("steps", [2, BATCHES, 2 * BATCHES + 1])
def test_a_run_stopped_after_some_steps_goes_on_as_if_it_had_not_been(fit, tmp_path, form, steps):
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    whole, result = fit(tmp_path / "whole", form())
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    fit(tmp_path / "parts", form(), max_steps=steps)
    random.seed(8)
    torch.manual_seed(8)
    resumed, rest = fit(tmp_path / "parts", form())
    assert rest.history == result.history
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert same_state(rest.ema.shadow.state_dict(), result.ema.shadow.state_dict())


@pytest.mark.parametrize("before, after", [("in memory", "loader"), ("loader", "in memory")])
@pytest.mark.parametrize("steps", [2, BATCHES])
def test_a_run_goes_on_with_another_kind_of_data(fit, tmp_path, before, after, steps):
    kinds = {"in memory": lambda: slices(10), "loader": lambda: DataLoader(slices(10), batch_size=4)}
    fit(tmp_path, kinds[before](), max_steps=steps)
    _, result = fit(tmp_path, kinds[after]())
    assert len(result.history) == 3


def test_images_of_skipped_batches_are_not_read(fit, tmp_path):
    fit(tmp_path, DataLoader(Augmented(), batch_size=4), max_steps=2)
    Augmented.fetched = 0
    fit(tmp_path, DataLoader(Augmented(), batch_size=4), max_steps=BATCHES)
    assert Augmented.fetched == 10 - 2 * 4


def test_an_iterator_can_be_read_only_once(fit, tmp_path):
    with pytest.raises(ValueError, match=r"data is an iterator.*function"):
        fit(tmp_path, iter(slices(10).split(4)))


def test_a_function_that_gives_nothing_is_told_of(fit, tmp_path):
    once = iter(slices(10).split(4))
    with pytest.raises(ValueError, match="no batch in epoch 2"):
        fit(tmp_path, lambda: once)
    assert torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)["epoch"] == 0


def test_an_array_is_used_where_it_lies(rd, oracle):
    """Changing the array during the run changes what is trained on: nothing was copied."""
    images = slices(8).numpy()
    losses = []

    def darken(info):
        losses.append(info.loss)
        images[:] = 40.0

    options = dict(betas=oracle.cosine_beta_schedule(20), epochs=2, batch_size=4, objective="x0")
    rd.train(
        rd.DiffusionUNet(**TINY), images, callback=darken, device="cpu", seed=1, progress=False, **options
    )
    assert losses[1] > 100 * losses[0]
