"""Fixtures of the whole suite.

`rd` is the package under test. `pytest --subject=oracle` puts the oracle in its place, which tests the
tests: whatever the oracle offers must then pass.
"""

import importlib
import os
import random
import signal
import sys
from types import SimpleNamespace

# Before torch is loaded: its threads give the cores back while they wait, which matters on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch

import oracle as course
from tools import TINY

# What is started in the background of a script ignores Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--subject", choices=["rust_diffusion", "oracle"], default="rust_diffusion")


def pytest_collection_modifyitems(config, items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter):
    fuzz = sys.modules.get("test_fuzz")
    if fuzz is not None and fuzz.RAN["cases"]:
        terminalreporter.write_line(
            f"Fuzzed: {fuzz.RAN['cases']} cases, {fuzz.RAN['calls']} calls of public functions"
        )


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Every test starts from the same random state and leaves torch's global switches as it found them."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the legacy generator is what a loader's workers use
    torch.manual_seed(0)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def rd(request):
    return importlib.import_module(request.config.getoption("--subject"))


@pytest.fixture(scope="session")
def oracle():
    return course


@pytest.fixture
def schedule():
    """(betas, alphas, alpha_bars) of a short cosine schedule, T = 12."""
    betas = course.cosine_beta_schedule(12)
    alphas = 1 - betas
    return betas, alphas, torch.cumprod(alphas, dim=0)


@pytest.fixture(scope="module")
def world(rd, oracle):
    """Everything a call needs, all of it right: a case spoils one thing."""
    betas = oracle.cosine_beta_schedule(12)
    torch.manual_seed(0)
    return SimpleNamespace(
        rd=rd,
        betas=betas,
        alphas=1 - betas,
        alpha_bars=torch.cumprod(1 - betas, 0),
        model=rd.DiffusionUNet(**TINY).eval(),
        x=torch.randn(2, 1, 16, 16),
        t=torch.tensor([0, 11]),
    )
