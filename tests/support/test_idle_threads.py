"""torch's idle threads leave the cores alone while the engine works, and only then."""

import os
import sys

import pytest

from tools import run_python

IDLING = """
import time
import rust_diffusion as rd
import torch

model = rd.DiffusionUNet(base_ch=16, attn_levels=()).eval().requires_grad_(False)
x, t, large = torch.randn(8, 1, 64, 64), torch.zeros(8, dtype=torch.long), torch.randn(1000, 1000)

def idled():
    begin = time.process_time()
    large + large  # on all of torch's threads
    time.sleep(0.03)
    return time.process_time() - begin

def after_the_engine():
    model(x, t)
    time.sleep(0.005)  # what turned until now has gone to sleep
    model(x, t)
    return idled()

torch.set_num_threads(2)
idled()
during = min(after_the_engine() for _ in range(8))
time.sleep(0.3)
after = min(idled() for _ in range(8))
print(during, after)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's OpenMP, which torch brings on Linux")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one core OpenMP's threads never turn idly")
def test_threads_of_torch_do_not_turn_idly_while_the_engine_works_and_do_again_afterwards():
    done = run_python("-c", IDLING, OMP_WAIT_POLICY="active", GOMP_SPINCOUNT="300000")
    assert done.returncode == 0, done.report
    during, after = map(float, done.stdout.split())
    assert during < 0.5 * after, f"seconds of the processors: {during} and {after}"
