"""The measure of recipes: its rows add up in one table, and a recipe can be changed from the command line."""

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


def test_rows_of_several_runs_add_up_and_a_row_measured_again_replaces_itself(quality, tmp_path):
    def run(*words):
        small = ["--set", "base_ch=8", "--set", "sample_steps=2", "--set", "time_dim=16"]
        fixed = [
            "--out",
            str(tmp_path),
            "--size",
            "16",
            "--samples",
            "4",
            "--updates",
            "2",
            "--row",
            "minutes",
        ]
        quality.main([*fixed, *small, *words], standalone_mode=False)

    run("--minutes", "3", "--seed", "0", "--seed", "1")
    run("--minutes", "1", "--set", "objective=eps")
    run("--minutes", "3", "--seed", "1")
    table = (tmp_path / "quality.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table
        if line.startswith("| phantoms, 16")
    ]
    assert [(row[1], row[3]) for row in rows] == [("1", "0"), ("3", "0"), ("3", "1")]
    assert all(row[5] == "2" and row[11] == "2" and len(row[-1].split(",")) == 5 for row in rows)
    assert "objective=eps" in rows[0][2] and len(list(tmp_path.glob("*.png"))) == 3


def test_the_error_of_the_noise_is_that_of_a_denoiser_that_knows_it(rd, quality):
    """A network that always says 0 is off by the noise itself if that is eps, whatever the level."""
    from benchmarks.quality.measure import LEVELS, Trained, noise_errors

    def trained(objective):
        zero = dict(
            model=lambda x, t: torch.zeros_like(x), objective=objective, betas=rd.cosine_beta_schedule(50)
        )
        return Trained(**zero, seconds=1.0, updates=1, speed=1.0, parameters=1, sampling={})

    errors = noise_errors(trained("eps"), torch.zeros(64, 1, 16, 16))
    assert len(errors) == len(LEVELS) and errors == pytest.approx([1.0] * len(LEVELS), abs=0.05)
    assert max(noise_errors(trained("x0"), torch.zeros(64, 1, 16, 16))) < 1e-6, "black images are known"
