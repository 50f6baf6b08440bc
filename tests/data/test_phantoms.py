"""Slices drawn by rule: deterministic, varied, and alike enough to chests to learn from."""

import threading
import time

import pytest
import torch

from tools import run_python


def test_shape_range_and_dtype(rd):
    slices = rd.phantoms(20, 48)
    assert slices.shape == (20, 1, 48, 48) and slices.dtype == torch.float32
    assert slices.min() == -1 and 0 < slices.max() <= 1
    levels = rd.phantoms(20, 48, dtype=torch.uint8)
    assert torch.equal(slices, (levels.float() / 255 - 0.5) / 0.5)


def test_the_seed_decides_and_threads_do_not(rd):
    slices = rd.phantoms(24, 32, seed=5)
    assert torch.equal(rd.phantoms(24, 32, seed=5, threads=1), slices)
    assert torch.equal(rd.phantoms(7, 32, seed=5, threads=3), slices[:7]), (
        "a longer run begins with a shorter one"
    )
    assert not torch.equal(rd.phantoms(24, 32, seed=6), slices)
    assert len({tuple(image.flatten().tolist()) for image in slices}) == 24


def test_another_process_draws_the_same(rd):
    code = "import rust_diffusion as rd; print(rd.phantoms(16, 64, seed=3).double().sum().item())"
    assert float(run_python("-c", code).stdout) == rd.phantoms(16, 64, seed=3).double().sum().item()


@pytest.mark.parametrize("size", [16, 33, 64, 200, 512])
def test_sizes_show_the_same_anatomy(rd, size):
    """A large slice, reduced, is the small one up to noise and the sharpness of edges."""
    small = rd.phantoms(4, 16, seed=2)
    reduced = torch.nn.functional.interpolate(rd.phantoms(4, size, seed=2), (16, 16), mode="area")
    assert (reduced - small).abs().mean() < 0.03


def test_a_slice_has_the_parts_of_a_chest(rd):
    """Averaged over many slices: air in the corners, lungs darker than what lies between them."""
    mean = (rd.phantoms(320, 64).mean(0)[0] + 1) * 127.5
    assert mean[:6, :6].max() < 12, "air"
    lungs, middle = mean[28:36, 18:24].mean(), mean[34:40, 30:34].mean()
    assert 5 < lungs < 60 < middle < 130
    assert mean[42:46, 29:35].mean() > 90, "spine"


def test_anatomy_changes_smoothly_along_the_body(rd):
    """Of the sixteen slices of a person some are neighbours: these are more alike than any two slices."""
    person = rd.phantoms(16, 32, seed=1).flatten(1)
    distances = torch.cdist(person, person) + 1e9 * torch.eye(16)
    nearest = distances.min(1).values.median()
    usual = distances[distances < 1e8].median()
    assert nearest < 0.6 * usual


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(n=0), ValueError, "n must"),
        (dict(n=2.5), TypeError, "n must"),
        (dict(size=15), ValueError, "size"),
        (dict(size=513), ValueError, "size"),
        (dict(seed=-1), ValueError, "seed"),
        (dict(seed="0"), TypeError, "seed"),
        (dict(threads=0), ValueError, "threads"),
        (dict(dtype=torch.int32), ValueError, "dtype"),
    ],
)
def test_arguments_are_checked(rd, arguments, error, message):
    with pytest.raises(error, match=message):
        rd.phantoms(**{"n": 1, **arguments})


def test_shepp_logan_has_its_known_levels(rd):
    image = (rd.shepp_logan(128)[0, 0] + 1) / 2
    assert image.shape == (128, 128) and image.dtype == torch.float32

    def at(x, y):
        return image[int((1 - y) / 2 * 128), int((x + 1) / 2 * 128)].item()

    assert at(0.95, 0.95) == 0, "outside"
    assert at(0.0, 0.9) == pytest.approx(1.0, abs=1e-5), "skull"
    assert at(0.0, 0.35) == pytest.approx(0.3, abs=1e-5), "the ellipse in front"
    assert at(-0.22, 0.0) == pytest.approx(0.0, abs=1e-5), "a ventricle"
    assert image.mean().item() == pytest.approx(0.1235, abs=0.004), "the areas of the ellipses, weighted"
    with pytest.raises(ValueError, match="size"):
        rd.shepp_logan(0)


def test_the_head_phantom_is_drawn_without_the_gil(rd):
    """A counting thread is not starved meanwhile."""
    counted, over = 0, threading.Event()

    def count():
        nonlocal counted
        while not over.wait(0.001):
            counted += 1

    thread = threading.Thread(target=count)
    thread.start()
    started = time.monotonic()
    rd.shepp_logan(2500)
    seconds = time.monotonic() - started
    over.set()
    thread.join()
    assert counted > 20 * seconds


def test_an_interrupt_ends_the_drawing_of_a_head_phantom():
    code = (
        "import _thread, threading, time, rust_diffusion as rd\n"
        "threading.Timer(0.2, lambda: (times.append(time.monotonic()), _thread.interrupt_main())).start()\n"
        "times = []\n"
        "try: [rd.shepp_logan(4096) for _ in range(3)]\n"
        "except KeyboardInterrupt: print(time.monotonic() - times[0])"
    )
    assert float(run_python("-c", code).stdout) < 0.5


def test_threads_do_not_change_the_head_phantom(rd):
    assert torch.equal(rd.shepp_logan(100, threads=1), rd.shepp_logan(100, threads=3))
    with pytest.raises(ValueError, match="threads"):
        rd.shepp_logan(8, threads=0)
