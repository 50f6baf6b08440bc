"""Several processes over gloo: DistributedDataParallel around the denoiser, and `train` under torchrun."""

import json
import subprocess
import sys
import time

import pytest
import torch

from tools import PROGRAMS, TINY, child_environment, flat, relative_l2, run_python, same_state

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


def spawn(program, *arguments):
    return subprocess.Popen(
        [sys.executable, PROGRAMS / program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )


def expected_of_ddp(oracle):
    """The same three steps on the whole batch, in the course's module and in this process."""
    torch.manual_seed(3)
    model = oracle.DiffusionUNet(**TINY)
    ema = oracle.EMA(model, decay=0.5)
    torch.manual_seed(5)
    x, noise = torch.randn(2, 4, 1, 16, 16)
    t = torch.tensor([0, 40, 200, 399])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x, t), noise).backward()
        optimizer.step()
        ema.update(model)
    return model, ema


@pytest.mark.parametrize("world", [1, 2])
def test_distributed_data_parallel_averages_gradients(oracle, tmp_path, world):
    processes = [
        spawn("ddp.py", tmp_path / "result.pt", rank, world, tmp_path / "store") for rank in range(world)
    ]
    reports = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), reports
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    model, ema = expected_of_ddp(oracle)
    assert relative_l2(flat(result["grads"].values()), flat(p.grad for p in model.parameters())) <= 1e-4
    assert relative_l2(flat(result["model"].values()), flat(model.parameters())) <= 1e-5
    assert relative_l2(flat(result["ema"].values()), flat(ema.shadow.parameters())) <= 1e-5


def torchrun(processes, *arguments, timeout=180):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return run_python(*launcher, PROGRAMS / "torchrun_train.py", *arguments, timeout=timeout)


def results(done):
    assert done.returncode == 0, done.report
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_two_processes_lose_what_one_loses(tmp_path):
    [alone] = results(run_python(PROGRAMS / "torchrun_train.py", tmp_path / "one", 4))
    done = torchrun(2, tmp_path / "two", 4)
    together = results(done)
    assert sorted(result["rank"] for result in together) == [0, 1]
    for result in together:
        assert result["history"] == pytest.approx(alone["history"], rel=1e-4)
        assert result["checksum"] == pytest.approx(alone["checksum"], rel=1e-4)
    assert together[0]["checksum"] == together[1]["checksum"], "the ranks ended with different weights"
    assert done.stderr.count("epoch 1/4:   0%") == 1, "rank 0 alone shows progress"

    one, two = (
        torch.load(tmp_path / name / "DDPMDenoiser.ckpt", weights_only=True) for name in ("one", "two")
    )
    assert relative_l2(flat(two["model"].values()), flat(one["model"].values())) <= 1e-3
    assert relative_l2(flat(two["ema"]["shadow"].values()), flat(one["ema"]["shadow"].values())) <= 1e-3


def test_two_processes_resume_what_they_began(tmp_path):
    whole = results(torchrun(2, tmp_path / "whole", 4))
    begun = torch.load(tmp_path / "whole" / "DDPMDenoiser.ckpt", weights_only=True)
    assert begun["epoch"] == 3 and len(begun["history"]) == 4
    rest = results(torchrun(2, tmp_path / "whole", 6))
    assert all(result["history"][:4] == whole[0]["history"] for result in rest)
    assert all(len(result["history"]) == 6 for result in rest)


def test_a_rank_that_dies_ends_the_run(tmp_path):
    began = time.monotonic()
    done = torchrun(2, tmp_path, 50, 1, timeout=120)
    assert done.returncode != 0, "the run went on without one of its ranks"
    assert time.monotonic() - began < 90
    checkpoint = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)
    assert 0 <= checkpoint["epoch"] < 49


def ranks(folder, case, world=2, patience=100):
    """What each rank says of its run; all of them stay alive until the last has said it."""
    processes = [spawn("ranks.py", folder, case, rank, world) for rank in range(world)]
    said = [folder / f"{case}.{rank}.json" for rank in range(world)]
    deadline = time.monotonic() + patience
    try:
        while not all(path.exists() for path in said) and time.monotonic() < deadline:
            if all(process.poll() is not None for process in processes):
                break
            time.sleep(0.1)
        waiting = [path.name for path in said if not path.exists()]
    finally:
        reports = [process.communicate(timeout=60)[1] for process in processes if not process.poll()]
        for process in processes:
            process.kill()
    assert not waiting, f"never came: {waiting}\n" + "\n".join(reports)
    return [json.loads(path.read_text()) for path in said]


def same_run(folder, other):
    first, second = (torch.load(f / "run" / "DDPMDenoiser.ckpt", weights_only=True) for f in (folder, other))
    return first["history"] == second["history"] and same_state(first["model"], second["model"])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, ranks(folder, "plain")


def test_every_rank_returns_the_same_result(uninterrupted):
    _, (first, second) = uninterrupted
    assert first == second
    assert first["outcome"] == "done" and first["best_loss"] == min(first["history"])
    assert len(first["val_history"]) == 3 and first["paths"] == ["checkpoint", "ema", "raw"]


def test_a_finished_run_is_finished_on_every_rank(uninterrupted):
    folder, (before, _) = uninterrupted
    first, second = ranks(folder, "again")
    assert first == second == {**before, "epochs_run": 0}


@pytest.mark.parametrize("case", ["interrupt 0", "interrupt 1", "terminate"])
def test_an_interrupt_of_one_rank_ends_all_of_them_after_saving(uninterrupted, tmp_path, case):
    said = ranks(tmp_path, case)
    assert [rank["outcome"] for rank in said] == ["KeyboardInterrupt", "KeyboardInterrupt"], said
    saved = torch.load(tmp_path / "run" / "DDPMDenoiser.ckpt", weights_only=True)
    assert saved["rust_diffusion"]["position"]["updates"] in (4, 5)
    assert {rank["outcome"] for rank in ranks(tmp_path, "plain")} == {"done"}
    assert same_run(tmp_path, uninterrupted[0])


def test_an_interrupt_in_the_validation_ends_all_ranks_and_keeps_the_epoch(tmp_path):
    said = ranks(tmp_path, "interrupt in validation")
    assert [rank["outcome"] for rank in said] == ["KeyboardInterrupt", "KeyboardInterrupt"], said
    assert torch.load(tmp_path / "run" / "DDPMDenoiser.ckpt", weights_only=True)["epoch"] == 1


def test_what_fails_on_one_rank_ends_all_of_them(tmp_path):
    first, second = ranks(tmp_path, "broken data")
    assert second == {"outcome": "LookupError", "text": "lost"}
    assert first["outcome"] == "RuntimeError" and "another process" in first["text"], first
    assert (tmp_path / "run" / "DDPMDenoiser.ckpt").exists()


def test_an_error_that_cannot_be_sent_ends_all_ranks_all_the_same(tmp_path):
    first, second = ranks(tmp_path, "callback")
    assert first == {"outcome": "Unportable", "text": "mine"}
    assert second == {"outcome": "RuntimeError", "text": "Unportable: mine"}


def test_the_ranks_wait_for_a_validation_that_takes_longer_than_gradients_may(tmp_path):
    assert {rank["outcome"] for rank in ranks(tmp_path, "slow")} == {"done"}


def test_a_disk_that_is_full_when_the_length_is_settled_ends_all_of_them_in_words(tmp_path):
    for said in ranks(tmp_path, "full disk"):
        assert said["outcome"] == "OSError" and "No space left on device" in said["text"], said
        assert "DDPMDenoiser.ckpt" in said["text"]
