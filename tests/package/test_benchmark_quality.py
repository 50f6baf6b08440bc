"""The measure of recipes: its rows add up in one table, and a recipe can be changed from the command line."""

import re

import pytest
import torch


@pytest.fixture
def quality(monkeypatch):
    import benchmarks.quality.__main__ as quality
    from benchmarks.quality import data

    monkeypatch.setattr(data, "TRAINED", 32)
    monkeypatch.setattr(data, "HELD_OUT", 8)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    return quality


@pytest.fixture
def run(quality, tmp_path):
    """run(*words): rows of a small network, measured after two updates by four samples."""

    def call(*words):
        small = ["--set", "base_ch=8", "--set", "sample_steps=2", "--set", "time_dim=16"]
        cut = ["--size", "16", "--samples", "4", "--updates", "2"]
        quality.main(
            ["--out", str(tmp_path), *cut, "--row", "minutes", *small, *words], standalone_mode=False
        )

    return call


def rows_of(folder):
    """The cells of the table's rows."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (folder / "quality.md").read_text().splitlines()
        if line.startswith("| phantoms, 16")
    ]


def test_rows_of_several_runs_add_up_and_a_row_measured_again_replaces_itself(run, tmp_path):
    run("--minutes", "3", "--seed", "0", "--seed", "1")
    run("--minutes", "1", "--set", "objective=eps")
    run("--minutes", "3", "--seed", "1")
    rows = rows_of(tmp_path)
    assert [(row[1], row[3]) for row in rows] == [("1", "0"), ("3", "0"), ("3", "1")]
    assert all(row[5] == "2" and row[12] == "2" and len(row[-1].split(",")) == 5 for row in rows)
    assert "objective=eps" in rows[0][2] and len(list(tmp_path.glob("*.png"))) == 3
    assert all(re.fullmatch(r"\d\.\d{3} \(\d\.\d{3}\)", row[11]) for row in rows), "what is learnt by heart"


def test_a_search_does_not_take_the_place_of_a_measure(quality):
    change = ("learning_rate=1e-3",)
    names = [
        quality._name("minutes", changes, updates, samples, device)
        for changes in ((), change)
        for updates in (None, 700)
        for samples in (quality.SAMPLES, 16)
        for device in ("cpu", "cuda")
    ]
    assert len(set(names)) == len(names) and names[0] == "minutes"
    assert names[-1] == "minutes, learning_rate=1e-3, 700 updates, 16 drawn, cuda"
    assert quality._name("course, eager", change, None, quality.SAMPLES, "cpu") == "course, eager", (
        "nothing is changed"
    )


def test_another_sampler_is_given_what_it_takes(run, tmp_path):
    for sampler in ("ddpm", "ddim"):
        run("--minutes", "3", "--set", f"sampler={sampler}", "--set", "num_steps=5")
    assert [row[12] for row in rows_of(tmp_path)] == ["5", "2"]


def test_the_error_of_the_noise_is_that_of_a_denoiser_that_knows_it(rd, quality):
    """A network that always says 0 is off by the noise itself if that is eps, whatever the level."""
    from benchmarks.quality.measure import LEVELS, Trained, noise_errors

    def trained(objective, model=lambda x, t: torch.zeros_like(x)):
        betas = rd.cosine_beta_schedule(50)
        made = dict(seconds=1.0, updates=1, speed=1.0, parameters=1, sampling={}, device="cpu")
        return Trained(model=model, objective=objective, betas=betas, **made)

    black = torch.zeros(64, 1, 16, 16)
    errors = noise_errors(trained("eps"), black)
    assert len(errors) == len(LEVELS) and errors == pytest.approx([1.0] * len(LEVELS), abs=0.05)
    assert max(noise_errors(trained("x0"), black)) < 1e-6, "black images are known"
    # on its straight path to black, x_s is s eps, and the velocity eps
    assert max(noise_errors(trained("flow", lambda x, t: 1000 * x / t[:, None, None, None]), black)) < 1e-6
