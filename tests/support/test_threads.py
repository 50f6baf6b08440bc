"""The engine works with the GIL released: other Python threads go on meanwhile."""

import threading
import time

import pytest
import torch

from tools import TINY, slices

# Wide enough that a step takes some tenths of a second: to hold the GIL through one would show.
LARGE = {**TINY, "base_ch": 32}


class Ticker:
    """A thread that wants the GIL every two milliseconds and keeps the times at which it got it."""

    def __enter__(self):
        self.times, self.stop = [time.perf_counter()], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        while not self.stop.wait(0.002):
            self.times.append(time.perf_counter())

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()

    @property
    def longest_wait(self):
        return max(b - a for a, b in zip(self.times, self.times[1:], strict=False))


@pytest.fixture
def model(rd):
    return rd.DiffusionUNet(**LARGE)


def assert_went_on(work):
    """While `work` ran, the ticker never waited for a substantial part of it."""
    work()  # whatever happens only once
    with Ticker() as ticker:
        begin = time.perf_counter()
        work()
        took = time.perf_counter() - begin
    assert took > 0.2, f"{took:.3f} s is too short to tell"
    assert ticker.longest_wait < 0.5 * took, f"no tick for {ticker.longest_wait:.3f} s of {took:.3f} s"
    assert len(ticker.times) > took / 0.05


def test_other_threads_run_during_a_forward_pass(model):
    x, t = torch.randn(48, 1, 64, 64), torch.zeros(48, dtype=torch.long)
    with torch.no_grad():
        assert_went_on(lambda: model(x, t))


def test_other_threads_run_during_backward(model):
    x, t = torch.randn(16, 1, 64, 64), torch.zeros(16, dtype=torch.long)
    assert_went_on(lambda: model(x, t).square().sum().backward())


def test_other_threads_run_during_sampling(rd, oracle, model):
    alpha_bars = torch.cumprod(1 - oracle.cosine_beta_schedule(50), 0)
    assert_went_on(lambda: rd.ddim_sample(model, 8, (1, 64, 64), alpha_bars, "cpu", 6, progress=False))


def test_other_threads_run_during_training(rd, oracle, model):
    options = dict(
        betas=oracle.cosine_beta_schedule(50), epochs=2, batch_size=8, device="cpu", progress=False
    )
    images = slices(16, size=64)
    assert_went_on(lambda: rd.train(model, images, **options))


def test_torchs_thread_count_rules(model):
    """One thread gives the same numbers as two, and the caller's setting is left as it is."""
    x, t = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        torch.set_num_threads(2)
        two = model(x, t)
        torch.set_num_threads(1)
        one = model(x, t)
    assert torch.get_num_threads() == 1
    assert torch.allclose(one, two, atol=1e-5)
