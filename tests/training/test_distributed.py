"""Several processes over gloo: DistributedDataParallel around the denoiser, and `train` under torchrun."""

import json
import subprocess
import sys
import time

import pytest
import torch

from tools import PROGRAMS, TINY, child_environment, flat, relative_l2, run_python

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


def spawn(program, *arguments):
    return subprocess.Popen(
        [sys.executable, PROGRAMS / program, *map(str, arguments)],
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
    assert done.stderr.count("4/4:   0%") == 1, "rank 0 alone shows progress"

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
