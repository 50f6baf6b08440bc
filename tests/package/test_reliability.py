"""The long programs of `make reliability` with few cases each, and what they cannot simulate well."""

import errno
import os
import re
import threading

import numpy as np
import pytest
import torch

from rust_diffusion.files import checkpoint
from rust_diffusion.support import guards, random
from rust_diffusion.training import run
from tools import PROGRAMS, TINY, run_python, same_state, slices

FEW = {
    "memory.py": "0.05",
    "threads.py": "1",
    "disk.py": "2",
    "damage.py": "25",
    "out_of_memory.py": "2",
}


@pytest.mark.slow
@pytest.mark.parametrize("program", FEW)
def test_nothing_is_lost_in_a_few_cases_of_each_kind(program):
    done = run_python(PROGRAMS / program, FEW[program], timeout=240)
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("ROW")]
    assert done.returncode == 0 and rows, done.report
    assert all(tried == survived and lost == "0" for _, _, tried, survived, lost, _ in rows), done.report


@pytest.fixture
def fit(rd, oracle, tmp_path):
    """fit(**options): (model, result) of a short run in tmp_path/weights."""

    def run(**options):
        torch.manual_seed(1)
        model = rd.DiffusionUNet(**{**TINY, "dropout": 0.1})
        fixed = dict(epochs=3, batch_size=4, seed=3, device="cpu", precision="fp32", progress=False)
        options = {**fixed, "weights_dir": tmp_path / "weights", **options}
        return model, rd.train(model, slices(12), betas=oracle.cosine_beta_schedule(20), **options)

    return run


# ---------------------------------------------------------------------- a GPU that fails


def test_a_cuda_error_in_mid_run_leaves_a_checkpoint_to_go_on_from(fit, tmp_path, monkeypatch):
    """No GPU fails here: as after a real failure, from some step on whatever needs the device raises."""
    whole, _ = fit(weights_dir=tmp_path / "alone")
    real, steps = run.Run.next_batch, []

    def fail(*_):
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might ..."
        )

    def next_batch(self, fresh):
        steps.append(fresh)
        if len(steps) == 7:  # the second epoch has begun
            monkeypatch.setattr(run.Run, "_random_state", fail)
            monkeypatch.setattr(run.Run, "_save_checkpoint", fail)
            fail()
        return real(self, fresh)

    with monkeypatch.context() as broken:
        monkeypatch.setattr(run.Run, "next_batch", next_batch)
        with pytest.raises(
            RuntimeError, match=r"the GPU failed.*Restart Python.*DDPMDenoiser\.ckpt is good"
        ) as caught:
            fit()
        assert "CUDA error" in str(caught.value.__cause__) and "kernel errors" not in str(caught.value)
        monkeypatch.undo()
        del broken
    assert torch.load(tmp_path / "weights" / "DDPMDenoiser.ckpt", weights_only=True)["epoch"] == 0
    resumed, result = fit()
    assert result.epochs_run == 2 and same_state(resumed.state_dict(), whole.state_dict())


def test_a_cuda_error_without_a_folder_says_that_nothing_was_saved(fit):
    def fail(info):
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="nothing had been saved"):
        fit(weights_dir=None, callback=fail)


# ---------------------------------------------------------------------- memory that does not suffice


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no more"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory\nframe #0"
        ),
    ],
)
def test_a_batch_too_large_is_told_the_size_to_try(rd, fit, tmp_path, error):
    class Data(torch.utils.data.Dataset):
        images = slices(12)

        def __len__(self):
            return 12

        def __getitem__(self, index):
            if index >= 10:
                raise error
            return self.images[index]

    loader = torch.utils.data.DataLoader(Data(), batch_size=6)
    with pytest.raises(
        MemoryError, match=r"6 images at a time do not fit; try a DataLoader.* of 3"
    ) as caught:
        rd.train(
            rd.DiffusionUNet(**TINY), loader, betas=rd.cosine_beta_schedule(5), device="cpu", progress=False
        )
    assert caught.value.__cause__ is error and "frame #0" not in str(caught.value)

    def model(x, t):
        raise error

    with pytest.raises(MemoryError, match=r"8 images at a time do not fit; try 4.*batch_size=4"):
        rd.ddim_sample(model, 8, (1, 8, 8), torch.linspace(0.9, 0.1, 5), "cpu", 2, progress=False)
    with pytest.raises(MemoryError, match="not even one"):
        rd.ddim_sample(model, 1, (1, 8, 8), torch.linspace(0.9, 0.1, 5), "cpu", 2, progress=False)


def test_other_errors_are_left_alone():
    for error in (RuntimeError("something else"), ValueError("x"), KeyError("x")):
        with pytest.raises(type(error)) as caught, guards.enough_memory(lambda: "advice"):
            raise error
        assert caught.value is error


# ---------------------------------------------------------------------- equal bits


def test_the_deterministic_switch_is_on_during_the_run_and_as_before_afterwards(fit):
    seen = []

    def look(info):
        seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))

    torch.backends.cudnn.benchmark = True
    try:
        plain, _ = fit(weights_dir=None)
        forced, _ = fit(weights_dir=None, deterministic=True, callback=look)
        assert seen == [(True, False)] * 3
        assert torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()
        assert same_state(forced.state_dict(), plain.state_dict())
        torch.use_deterministic_algorithms(True, warn_only=True)
        fit(weights_dir=None, epochs=1, deterministic=True)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False


def test_cublas_is_told_before_cuda_is_used_and_asked_for_afterwards(monkeypatch):
    cuda = torch.device("cuda", 0)
    monkeypatch.delenv(guards.CUBLAS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    guards.prepare_cublas()
    with (
        pytest.raises(RuntimeError, match=r"CUBLAS_WORKSPACE_CONFIG=:4096:8.*restart"),
        guards.deterministic(True, cuda),
    ):
        pass
    with guards.deterministic(False, cuda):
        assert not torch.are_deterministic_algorithms_enabled()
    with guards.deterministic(True, torch.device("cpu")):
        assert torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    guards.prepare_cublas()
    assert os.environ[guards.CUBLAS] == ":4096:8"
    with guards.deterministic(True, cuda):
        assert torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv(guards.CUBLAS, ":16:8")
    guards.prepare_cublas()
    assert os.environ[guards.CUBLAS] == ":16:8"


@pytest.mark.parametrize("threads", ["1", "2"])
def test_fresh_processes_give_the_same_bits_whatever_ran_before(threads):
    said = set()
    for before in ("nothing", "another_run", "memory_in_use"):
        done = run_python(PROGRAMS / "repeat.py", "child", before, threads, MALLOC_PERTURB_="85")
        assert done.returncode == 0, done.report
        said.add(done.stdout)
    assert len(said) == 1 and re.fullmatch(r"(\w{16} ){3}\w{16}\n", said.pop())


# ---------------------------------------------------------------------- one folder, several runs


def test_of_threads_that_begin_on_one_folder_at_once_one_trains(fit):
    """POSIX locks part processes, not threads."""
    for _ in range(5):
        start, said = threading.Barrier(4), []

        def run(start=start, said=said):
            start.wait()
            try:
                fit(epochs=1, force_restart=True)
                said.append("done")
            except RuntimeError as error:
                said.append(str(error))

        threads = [threading.Thread(target=run) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join(120) for thread in threads]
        assert len(said) == 4 and "done" in said
        assert all(text == "done" or "another run of this process" in text for text in said), said


def test_a_folder_that_vanishes_is_not_said_to_hold_what_was_saved(fit, tmp_path):
    def remove(info):
        for path in (tmp_path / "weights").iterdir():
            path.unlink()
        (tmp_path / "weights").rmdir()

    with pytest.raises(FileNotFoundError, match=r"DDPMDenoiser\.ckpt") as caught:
        fit(callback=remove)
    assert caught.value.errno == errno.ENOENT and "still there" not in str(caught.value)


def test_a_random_state_is_put_back_after_a_checkpoint_was_checked(fit, tmp_path):
    fit(epochs=1)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    saved = torch.load(tmp_path / "weights" / "DDPMDenoiser.ckpt", weights_only=True)
    random.check(saved["rust_diffusion"]["random"]["now"])
    assert torch.equal(torch.rand(3), expected[0]) and np.random.rand() == expected[1]  # noqa: NPY002


def test_threads_may_look_at_a_folder_at_once(tmp_path):
    start, errors = threading.Barrier(6), []

    def look():
        start.wait()
        try:
            for _ in range(200):
                checkpoint.check_folder(tmp_path)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join(60) for thread in threads]
    assert not errors and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "call",
    [
        "rd.train(model, x, betas=liar, epochs=1)",
        "rd.train(model, liar, betas=bars, epochs=1)",
        "rd.ddim_sample(model, 1, (1, 8, 8), bars, 'cpu', 2, x_T=liar)",
        "rd.ddim_sample(lambda x, t: liar, 1, (1, 8, 8), bars, 'cpu', 2)",
        "model.save_pretrained('nowhere', betas=liar, image_size=8)",
        "model(liar, torch.tensor([0]))",
        "model(x, liar)",
        "rd.extract(liar, torch.tensor([0, 1]), (2, 1, 8, 8))",
        "rd.denormalize_to_01(liar)",
        "rd.ddim_sample(model, 1, (1, 8, 8), liar, 'cpu', 2)",
    ],
)
def test_an_object_that_lies_about_its_type_ends_no_process(call):
    program = f"""
import torch, rust_diffusion as rd
from tools import TINY, Liar
liar, x, bars, model = Liar(), torch.zeros(1, 1, 8, 8), torch.linspace(0.9, 0.1, 4), rd.DiffusionUNet(**TINY)
try:
    {call}
except (TypeError, AttributeError) as error:
    print("refused:", error)
"""
    done = run_python("-c", program)
    assert done.returncode == 0 and "refused" in done.stdout, done.report
