"""What test files share: measures of error, small networks and data, a Python process of one's own."""

import os
import subprocess
import sys
from pathlib import Path

import torch

#: The repository.
ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "programs"

# A network small enough that a training step takes milliseconds, with every kind of layer in it. Its norms
# have two and three channels per group: with one, a norm takes away all that the time embedding adds.
TINY = dict(
    in_ch=1, base_ch=36, channel_mults=(1, 2), time_dim=32, dropout=0.0, attn_levels=(1,), num_heads=4
)
TINY_SHAPE = (1, 16, 16)

#: As small a one of diffusers' family.
TINY_UNET2D = dict(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=8,
)
#: What the course's network has not: asymmetric zeros, another eps, scale and shift, one head.
UNLIKE_THE_COURSE = {
    **TINY_UNET2D,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": None,
}


def max_error(got, expected):
    """Largest difference, as a fraction of the largest expected value."""
    assert got.shape == expected.shape
    scale = expected.detach().abs().max().clamp(min=1e-30)
    return ((got.detach().double() - expected.detach().double()).abs().max() / scale).item()


def relative_l2(got, expected):
    assert got.shape == expected.shape
    difference = (got.detach().double() - expected.detach().double()).norm()
    return (difference / expected.detach().double().norm().clamp(min=1e-30)).item()


def flat(tensors):
    """All the tensors of an iterable as one float64 vector."""
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])


def same_state(a, b):
    """Whether two state dicts have the same keys in the same order and the same bits."""
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def slices(n, size=8, seed=0):
    """`n` smooth grey images in [-1, 1], made without the package under test."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 1, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").contiguous()


class GaussianDenoiser:
    """The exact noise prediction for data drawn from N(0, sigma^2 I)."""

    def __init__(self, alpha_bars, sigma=0.5):
        self.alpha_bars, self.sigma = alpha_bars, sigma
        self.calls = []

    def __call__(self, x_t, t):
        self.calls.append(t.clone())
        abar = self.alpha_bars[t].reshape(-1, 1, 1, 1)
        return x_t * (1 - abar).sqrt() / (abar * self.sigma**2 + 1 - abar)

    @property
    def timesteps(self):
        return [int(t[0]) for t in self.calls]


class Liar:
    """Says that it is a tensor, which isinstance believes, and torch.as_tensor too, to its end."""

    shape, dtype, device = torch.Size((4,)), torch.float32, torch.device("cpu")

    @property
    def __class__(self):
        return torch.Tensor


def child_environment(**extra):
    """The environment of a child process: two threads, and what helps the tests importable."""
    path = os.pathsep.join(filter(None, [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2", "PYTHONFAULTHANDLER": "1", **extra}


def run_python(*arguments, timeout=120, prefix=(), **extra_environment):
    """Run Python in a process of its own; fails if it died of a signal or let a Rust panic through."""
    done = subprocess.run(
        [*prefix, sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=child_environment(**extra_environment),
    )
    report = f"exit status {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert done.returncode >= 0, f"the process died of signal {-done.returncode}: {report}"
    assert "panicked at" not in done.stderr and "PanicException" not in done.stderr, report
    done.report = report
    return done
