"""Files that version 0.1.0 wrote (data/0.1.0/make.py): they load, resume and sample as they did there."""

import json
import shutil

import pytest
import torch

from tools import ROOT, same_state

OLD = ROOT / "tests" / "data" / "0.1.0"
# The same bits came out on the machine that made them; another one rounds otherwise.
CLOSE = dict(rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def expected():
    return torch.load(OLD / "expected.pt", weights_only=True)


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD / "run", tmp_path / "run")


@pytest.mark.parametrize("place", ["run", "run/DDPMDenoiser.pth", "run/DDPMDenoiser.ckpt", "pretrained"])
@pytest.mark.filterwarnings("ignore:.*random ones that training began with")
def test_a_model_loads_and_samples_as_before(rd, expected, place):
    model = rd.load(OLD / place)
    stored = torch.load(OLD / "run" / "DDPMDenoiser.pth", weights_only=True)
    assert same_state(model.state_dict(), stored)
    assert model.objective == "v" and model.image_size == (16, 16)
    assert torch.equal(model.betas, rd.linear_beta_schedule(20, 1e-3, 0.4))
    assert model.config["num_heads"] == 2
    samples = model.sample(2, "ddim", sample_steps=5, seed=3, progress=False)
    assert torch.allclose(samples, expected["samples"], **CLOSE)


def test_what_an_old_file_says_counts_as_stated(rd):
    for place in ("run/DDPMDenoiser.ckpt", "run/DDPMDenoiser.pth", "pretrained"):
        card = rd.load(OLD / place).card
        assert {card.certainty(name) for name in ("objective", "betas", "image_size")} == {"stated"}, place
        assert card.certainty("data_variance") == "unknown"
    card = rd.load(OLD / "run" / "DDPMDenoiser.ckpt").card
    assert card.initial_share == 0.25 and card.trained_with.startswith("torch 2.11.0")
    raw = rd.load(OLD / "run" / "DDPMDenoiser_raw.pth")
    assert raw.card.initial_share is None, "no averages"


@pytest.mark.filterwarnings("ignore:.*random ones that training began with")
def test_a_run_goes_on_as_it_did(rd, expected, run):
    model = rd.DiffusionUNet(**json.loads((OLD / "pretrained" / "config.json").read_text())["model"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = rd.train(
        model,
        rd.phantoms(8, size=16),
        betas=rd.linear_beta_schedule(20, 1e-3, 0.4),
        weights_dir=run,
        epochs=2,
        batch_size=4,
        objective="v",
        ema_decay=0.5,
        device="cpu",
        progress=False,
    )
    samples = result.ema.shadow.sample(2, "ddpm", seed=3, progress=False)
    torch.set_num_threads(threads)
    assert result.epochs_run == 1
    assert result.history == pytest.approx(expected["history"], rel=1e-4)
    assert torch.allclose(samples, expected["samples of the finished run"], **CLOSE)


def test_what_goes_on_is_written_in_todays_form(rd, run):
    def fit(epochs):
        config = json.loads((OLD / "pretrained" / "config.json").read_text())["model"]
        betas = rd.linear_beta_schedule(20, 1e-3, 0.4)
        return rd.train(
            rd.DiffusionUNet(**config),
            rd.phantoms(8, size=16),
            betas=betas,
            weights_dir=run,
            epochs=epochs,
            batch_size=4,
            objective="v",
            device="cpu",
            progress=False,
        )

    with pytest.warns(UserWarning, match="ema_decay"):
        fit(3)
    card = rd.load(run / "DDPMDenoiser.ckpt").card
    assert card.certainty("data_variance") == "stated" and card.trained_with.startswith("rust-diffusion")
    assert fit(3).epochs_run == 0


def test_a_cache_is_read_or_made_anew(rd, tmp_path):
    shutil.copy(OLD / "slices.cache", tmp_path)
    cached = rd.load_images(OLD / "slices", 8, cache=tmp_path / "slices.cache", progress=False)
    assert torch.equal(cached, rd.load_images(OLD / "slices", 8, progress=False))
