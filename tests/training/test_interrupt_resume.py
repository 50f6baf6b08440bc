"""A run that was stopped and resumed equals one that was not, bit for bit (float32, CPU, same threads)."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.utils.data import DataLoader

from tools import PROGRAMS, TINY, child_environment, same_state, slices

EPOCHS = 6


@pytest.fixture
def fit(rd, oracle):
    """fit(folder, data, **options): (model, result) with dropout on; the first seed is always the same."""

    def run(folder, data=None, **options):
        torch.manual_seed(options.pop("model_seed", 1))
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        fixed = dict(epochs=EPOCHS, batch_size=4, seed=3, learning_rate=1e-3, device="cpu", precision="fp32")
        data = slices(10) if data is None else data
        betas = oracle.cosine_beta_schedule(20)
        options = {**fixed, "progress": False, "weights_dir": folder, **options}
        return model, rd.train(model, data, betas=betas, **options)

    return run


def checkpoint(folder):
    return torch.load(folder / "DDPMDenoiser.ckpt", weights_only=True)


def assert_same(a, b, path="checkpoint"):
    """Equality of nested dicts, lists and tensors, bit for bit."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert list(a) == list(b), path
        [assert_same(a[key], b[key], f"{path}[{key!r}]") for key in a]
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        [assert_same(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True))]
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    else:
        assert a == b, path


COURSE_KEYS = ("epoch", "model", "ema", "optimizer", "scheduler", "scaler", "history", "best_loss", "config")


def assert_same_runs(folder, expected):
    ours, theirs = checkpoint(folder), checkpoint(expected)
    for key in COURSE_KEYS:
        assert_same(ours[key], theirs[key], key)
    for name in ("DDPMDenoiser.pth", "DDPMDenoiser_raw.pth"):
        assert_same(
            torch.load(folder / name, weights_only=True), torch.load(expected / name, weights_only=True), name
        )


DATA = {
    "a tensor": lambda: slices(10),
    "an array": lambda: slices(10).numpy(),
    "a shuffled loader": lambda: DataLoader(slices(10), batch_size=4, shuffle=True),
    "a loader with its own generator": lambda: DataLoader(
        slices(10), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(4)
    ),
    "a list of batches": lambda: list(slices(10).split(4)),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_epochs_in_two_goes_equal_epochs_in_one(fit, tmp_path, data, stop):
    whole, result = fit(tmp_path / "whole", data())
    fit(tmp_path / "parts", data(), callback=lambda info: info.epoch + 1 < stop)
    assert checkpoint(tmp_path / "parts")["epoch"] == stop - 1
    torch.manual_seed(99)  # the state of the session that resumes must not matter
    resumed, rest = fit(tmp_path / "parts", data(), model_seed=55)
    assert rest.epochs_run == EPOCHS - stop and rest.history == result.history
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert same_state(rest.ema.shadow.state_dict(), result.ema.shadow.state_dict())
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_an_epoch_at_a_time_equals_epochs_in_one(fit, tmp_path):
    whole, _ = fit(tmp_path / "whole")
    for _ in range(EPOCHS):
        parts, _ = fit(tmp_path / "parts", callback=lambda info: False)
    assert same_state(parts.state_dict(), whole.state_dict())
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_a_run_without_a_seed_resumes_exactly_too(fit, tmp_path):
    torch.manual_seed(42)
    whole, _ = fit(tmp_path / "whole", seed=None, model_seed=8)
    fit(tmp_path / "parts", seed=None, model_seed=8, callback=lambda info: info.epoch < 2)
    torch.manual_seed(43)
    resumed, _ = fit(tmp_path / "parts", seed=None)
    assert same_state(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("stop", [0, 2, 4, 8, 14])
@pytest.mark.parametrize("shuffle", [False, True])
def test_an_interrupt_inside_an_epoch_loses_nothing(fit, tmp_path, stop, shuffle):
    """KeyboardInterrupt out of the data, as Ctrl-C raises it there."""

    class Interrupting(torch.utils.data.Dataset):
        images, left = slices(10), None

        def __len__(self):
            return 10

        def __getitem__(self, index):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
            return self.images[index]

    def loader(left=None):
        dataset = Interrupting()
        dataset.left = left
        return DataLoader(dataset, batch_size=4, shuffle=shuffle)

    whole, _ = fit(tmp_path / "whole", loader())
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", loader(left=4 * stop))
    resumed, result = fit(tmp_path / "parts", loader(), model_seed=55)
    assert len(result.history) == EPOCHS
    assert same_state(resumed.state_dict(), whole.state_dict())
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def start(folder, pause=0.0):
    return subprocess.Popen(
        [sys.executable, PROGRAMS / "train.py", folder, str(EPOCHS), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


def wait_for(process, line):
    for text in process.stdout:
        if text.startswith(line):
            return
    raise AssertionError(f"{line!r} never came: {process.stderr.read()}")


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "done" in out, err
    return out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    finish(start(folder))
    return folder


@pytest.mark.parametrize("step", [2, 8])
def test_ctrl_c_ends_the_run_within_a_step_after_saving(tmp_path, uninterrupted, step):
    process = start(tmp_path, pause=0.3)
    wait_for(process, f"step {step}")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.count("step") <= 1, f"steps after the signal: {out}"
    assert "KeyboardInterrupt" in err and process.returncode != 0 and "done" not in out
    assert checkpoint(tmp_path)["epoch"] == step // 3 - 1 or step % 3 == 0
    # Batches that were trained on are not fetched again: 18 in all, but for the one interrupted.
    fetched = int(finish(start(tmp_path)).split("fetched ")[1].split()[0])
    assert fetched <= (3 * EPOCHS - step + 2) * 4
    assert_same_runs(tmp_path, uninterrupted)


def test_a_second_ctrl_c_does_not_spoil_what_was_saved(tmp_path, uninterrupted):
    process = start(tmp_path, pause=0.2)
    wait_for(process, "step 5")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    process.communicate(timeout=60)
    finish(start(tmp_path))
    assert_same_runs(tmp_path, uninterrupted)


def test_a_handler_that_python_did_not_set_is_left_alone(fit, tmp_path, monkeypatch):
    """A program around Python (R, Julia, a debugger) may handle Ctrl-C itself; Python then knows of no handler."""
    real = signal.signal
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: real(number, handler) and None)
    _, result = fit(tmp_path)
    assert len(result.history) == EPOCHS


@pytest.mark.parametrize("missing", ["DDPMDenoiser.pth", "DDPMDenoiser_raw.pth"])
def test_a_run_killed_between_the_files_of_an_epoch_has_them_all_in_the_end(fit, tmp_path, missing):
    """The checkpoint is written first: weights alone are what a finished run may leave."""
    fit(tmp_path / "whole")
    fit(tmp_path / "parts", callback=lambda info: False)
    (tmp_path / "parts" / missing).unlink()
    fit(tmp_path / "parts", epochs=1)
    assert (tmp_path / "parts" / missing).exists()
    fit(tmp_path / "parts")
    assert_same_runs(tmp_path / "parts", tmp_path / "whole")


def test_the_checkpoint_is_written_before_the_weights(fit, tmp_path, monkeypatch):
    order = []
    replace = os.replace
    monkeypatch.setattr(
        os, "replace", lambda source, target: order.append(str(target)) or replace(source, target)
    )
    fit(tmp_path, epochs=1)
    assert os.path.basename(order[0]) == "DDPMDenoiser.ckpt"


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, uninterrupted):
    chance = random.Random(1)
    for _ in range(8):
        process = start(tmp_path, pause=0.02)
        try:
            wait_for(process, "step 1")
        except AssertionError:
            break  # it was finished by the run before
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.communicate()
        if (tmp_path / "DDPMDenoiser.ckpt").exists():
            assert -1 <= checkpoint(tmp_path)["epoch"] < EPOCHS
    finish(start(tmp_path))
    assert_same_runs(tmp_path, uninterrupted)


def test_jupyter_shows_an_interrupt_in_one_line(fit, tmp_path, capsys):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()

    def stop(info):
        raise KeyboardInterrupt

    shell.user_ns.update(fit=lambda: fit(tmp_path, callback=stop))
    assert isinstance(shell.run_cell("fit()").error_in_exec, KeyboardInterrupt)
    shown = capsys.readouterr().out.strip().splitlines()
    assert len(shown) == 1 and shown[0].startswith(
        "KeyboardInterrupt: stopped in epoch 2, after 0 batches"
    ), shown
    assert f"goes on from {tmp_path / 'DDPMDenoiser.ckpt'}" in shown[0]
