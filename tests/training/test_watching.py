"""What a run shows and keeps while it lasts: the best weights, samples every so many epochs."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from tools import TINY, same_state, slices

FIXED = dict(seed=5, device="cpu", precision="fp32", progress=False, ema_warmup=True)


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(20)


def test_the_averaged_weights_on_disk_are_those_of_the_best_validation(rd, betas, tmp_path, monkeypatch):
    from rust_diffusion.training.watch import looks

    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(looks, "validation_loss", lambda *args: next(losses))
    states = []
    fit = dict(betas=betas, epochs=3, batch_size=4, learning_rate=1e-3, weights_dir=tmp_path)
    keep = dict(callback=lambda info: states.append(copy.deepcopy(info.ema.shadow.state_dict())))
    rd.train(rd.DiffusionUNet(**TINY), slices(8), val_data=slices(4), **fit, **keep, **FIXED)
    kept = torch.load(tmp_path / "DDPMDenoiser.pth", weights_only=True)
    assert same_state(kept, states[1]) and not same_state(kept, states[2])


def test_samples_every_so_many_epochs_leave_the_run_as_it_is(rd, betas, tmp_path):
    def run(folder, **options):
        torch.manual_seed(0)
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        fit = dict(betas=betas, epochs=5, batch_size=4, weights_dir=tmp_path / folder, name="mine")
        rd.train(model, slices(8), **fit, **options, **FIXED)
        return model.state_dict()

    assert same_state(run("watched", sample_every=2), run("alone"))
    sheets = sorted((tmp_path / "watched" / "mine_samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["0002.png", "0004.png"]
    pictures = [np.asarray(Image.open(sheet)) for sheet in sheets]
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
    assert not (tmp_path / "alone" / "mine_samples").exists()


@pytest.mark.parametrize("objective", ["eps", "flow"])
def test_samples_are_drawn_for_what_is_trained(rd, betas, tmp_path, objective):
    fit = dict(betas=betas, epochs=1, batch_size=4, weights_dir=tmp_path, sample_every=1, objective=objective)
    rd.train(rd.DiffusionUNet(**TINY), slices(8), **fit, **FIXED)
    assert (tmp_path / "DDPMDenoiser_samples" / "0001.png").exists()


def test_samples_need_a_folder(rd, betas):
    with pytest.raises(ValueError, match=r"^sample_every=2 needs a weights_dir"):
        rd.train(rd.DiffusionUNet(**TINY), slices(4), betas=betas, epochs=1, sample_every=2, **FIXED)


def test_samples_that_no_picture_shows_are_refused_before_any_work(rd, betas, tmp_path):
    model = rd.DiffusionUNet(**{**TINY, "in_ch": 2})
    fit = dict(betas=betas, epochs=1, sample_every=1, weights_dir=tmp_path)
    for data in (slices(4).repeat(1, 2, 1, 1), [slices(4).repeat(1, 2, 1, 1)]):
        with pytest.raises(ValueError, match=r"^sample_every=1 draws pictures, .* but the images have 2"):
            rd.train(model, data, **fit, **FIXED)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("epochs", [2, 3])
def test_samples_that_an_interrupt_cut_off_are_drawn_by_the_resumed_run(
    rd, betas, tmp_path, monkeypatch, epochs
):
    from rust_diffusion.training.watch.samples import SampleSheets

    def run(folder):
        torch.manual_seed(0)
        fit = dict(betas=betas, epochs=epochs, batch_size=4, weights_dir=tmp_path / folder, sample_every=2)
        rd.train(rd.DiffusionUNet(**TINY), slices(8), **fit, **FIXED)
        return (tmp_path / folder / "DDPMDenoiser_samples" / "0002.png").read_bytes()

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SampleSheets, "draw", interrupted)
        run("parts")
    assert run("parts") == run("whole")
