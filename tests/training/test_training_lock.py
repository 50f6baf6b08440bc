"""Two runs never write the same files at once, and a killed run leaves no lock behind."""

import signal
import subprocess
import sys

import pytest

from tools import PROGRAMS, TINY, child_environment, slices


@pytest.fixture
def fit(rd, oracle, tmp_path):
    def run(**options):
        fixed = dict(
            betas=oracle.cosine_beta_schedule(5), epochs=1, batch_size=4, device="cpu", progress=False
        )
        return rd.train(rd.DiffusionUNet(**TINY), slices(4), weights_dir=tmp_path, **{**fixed, **options})

    return run


def started(folder):
    process = subprocess.Popen(
        [sys.executable, PROGRAMS / "train.py", folder, "1000", "0.2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    assert any(line.startswith("step 2") for line in process.stdout), process.stderr.read()
    return process


def test_a_second_run_on_the_same_files_is_refused(fit, tmp_path):
    process = started(tmp_path)
    try:
        with pytest.raises(RuntimeError, match=rf"process {process.pid}.*DDPMDenoiser"):
            fit()
        assert fit(name="Another").epochs_run == 1
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "DDPMDenoiser.lock").exists(), "it was killed, and could not tidy up"
    fit(force_restart=True)
    assert not list(tmp_path.glob("*.lock")) and not list(tmp_path.glob(".*"))


def test_a_run_inside_a_runs_callback_is_refused(fit):
    with pytest.raises(RuntimeError, match="another run of this process"):
        fit(callback=lambda info: fit())
    assert fit(force_restart=True).epochs_run == 1


def test_an_interrupted_run_releases_its_lock(fit, tmp_path):
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not list(tmp_path.glob("*.lock"))
