"""Ctrl-C in the middle of a long solution: a real SIGINT, sent to a process that is solving."""

import signal
import subprocess
import sys
import time

import pytest

from tools import child_environment

# An operator so badly conditioned that conjugate gradients take all of their steps; seconds in one call.
PROGRAM = """
import sys
import torch
import rust_diffusion as rd
from rust_diffusion import operators as ops

torch.manual_seed(0)
size = (96, 96)
K = ops.Blurring(size, kernel_size=31, kernel_variance=60.0)
y = K(torch.randn(8, 1, *size, dtype=torch.float64))
bars = torch.cumprod(1 - rd.cosine_beta_schedule(10), 0)
what = sys.argv[1]
print("now", flush=True)
try:
    if what == "prox":
        while True:
            K.prox(y, y, 1e12)
    else:
        model = lambda x, t: 0.5 * x
        options = {"daps": {"r2": 1e6}, "pigdm": {"r2": 1e6}, "diffpir": {"lambda_": 1e-12}}[what]
        sample = getattr(rd, what + "_sample")
        while True:
            sample(model, y.float(), K, bars, "cpu", 1, sigma_y=1e-5, progress=False, objective="x0", **options)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("what", ["prox", "daps", "pigdm", "diffpir"])
def test_a_long_solution_ends_at_an_interrupt(what):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what], stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    try:
        assert process.stdout.readline().strip() == "now"
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.communicate(timeout=60)[0].strip() == "interrupted"
        assert time.monotonic() - start < 5
    finally:
        process.kill()
