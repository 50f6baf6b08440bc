"""Folders of slices to a tensor: the course's pipeline is the measure."""

import os
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import images as pictures
from tools import child_environment

# Shrinking, enlarging, other proportions, and images no larger than a filter.
SHAPES = [(512, 512), (100, 300), (33, 47), (64, 64), (20, 200), (7, 5), (1, 1)]


LEVELS = [0, 10, 20, 30, 100, 110, 120, 130]


def levels(images):
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", pictures.KINDS)
def test_every_kind_of_file_gives_the_grey_levels_of_pillow_and_torchvision(rd, tmp_path, kind, channels):
    suffix, save = pictures.KINDS[kind]
    files = []
    for height, width in SHAPES:
        files.append(tmp_path / f"{height}x{width}{suffix}")
        save(files[-1], height, width)
    for size in (64, 24):
        got = rd.load_images(files, size, channels=channels, dtype=torch.uint8, sort=False)
        for file, image in zip(files, got, strict=True):
            difference = (image.int() - pictures.reference(file, size, channels).int()).abs().max().item()
            assert difference <= 1, f"{file.name} at {size}: {difference} levels"


def test_float_values_are_those_of_totensor_and_normalize(rd, folder):
    raw = rd.load_images(folder, 16, dtype=torch.uint8)
    values = rd.load_images(folder, 16)
    assert values.dtype == torch.float32 and values.shape == (8, 1, 16, 16)
    assert torch.equal(values, (raw.float() / 255 - 0.5) / 0.5)
    assert rd.load_images(folder, 16, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_keep_their_range_and_precision(rd, tmp_path, suffix):
    ramp = np.linspace(0, 65535, 96 * 80).round().astype(np.uint16).reshape(96, 80)
    file = tmp_path / f"deep{suffix}"
    Image.fromarray(ramp).save(file)
    exact = Image.fromarray(ramp.astype(np.float32)).resize((32, 32), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.asarray(exact) / 65535 * 2 - 1)
    got = rd.load_images(file, 32)[0, 0]
    assert (got - expected).abs().max() < 3 / 65535
    assert len(got.unique()) > 1000, "more than 8 bits could tell apart"
    grey = rd.load_images(file, 32, dtype=torch.uint8)[0, 0]
    assert (grey - (expected + 1) * 127.5).abs().max() <= 0.51


def test_the_order_is_that_of_sorted_glob(rd, tmp_path):
    names = ["a/10.png", "a/2.png", "a-b/1.png", "b/1.png", "B/1.png", "é/1.png"]
    for level, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 10 * level, np.uint8)).save(tmp_path / name)
    order = sorted(names)
    expected = [10 * names.index(name) for name in order]
    pattern = os.path.join(tmp_path, "*", "*.png")
    for path in (tmp_path, str(tmp_path), pattern, [tmp_path / name for name in names]):
        assert levels(rd.load_images(path, 8, dtype=torch.uint8)) == expected
    unsorted = rd.load_images([tmp_path / name for name in names], 8, dtype=torch.uint8, sort=False)
    assert levels(unsorted) == [10 * k for k in range(len(names))]


def test_images_directly_in_the_folder_count_and_other_files_do_not(rd, folder):
    Image.fromarray(np.full((8, 8), 200, np.uint8)).save(folder / "D.png")
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(folder / ".hidden.png")
    (folder / "notes.txt").write_text("read me")
    (folder / "C002" / "deeper").mkdir()
    assert levels(rd.load_images(folder, 8, dtype=torch.uint8)) == [*LEVELS, 200]
    assert levels(rd.load_images(folder / "D.png", 8, dtype=torch.uint8)) == [200]


def test_threads_do_not_change_the_result(rd, folder):
    assert torch.equal(rd.load_images(folder, threads=1), rd.load_images(folder, threads=3))


def test_dicom_through_a_window(rd, tmp_path):
    stored = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    pictures.dicom(tmp_path / "a.dcm", stored)
    pictures.dicom(tmp_path / "b.dcm", stored, photometric="MONOCHROME1")
    images = rd.load_images(tmp_path, 64, window=(40, 400))
    expected = torch.from_numpy((((stored.astype(np.float64) - 1024) - (40 - 200)) / 400).clip(0, 1) * 2 - 1)
    assert (images[0, 0] - expected).abs().max() < 2 / 65535
    assert torch.equal(images[1], -images[0]) or (images[1] + images[0]).abs().max() < 2 / 65535
    assert images.window == (40.0, 400.0), "the window travels with the result"
    assert rd.ImageSet(tmp_path, window=(40, 400)).window == (40.0, 400.0)
    with pytest.raises(ValueError, match="window"):
        rd.load_images(tmp_path)
    pictures.dicom(tmp_path / "cut.dcm", stored, cut=999)
    with pytest.raises(ValueError, match=r"cut\.dcm"):
        rd.load_images(tmp_path, window=(40, 400))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_dicom_file_that_claims_gigabytes_is_refused_without_setting_them_aside(tmp_path):
    pictures.dicom(tmp_path / "a.dcm", np.zeros((8, 8), np.uint16))
    whole = (tmp_path / "a.dcm").read_bytes()
    pixels = whole.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    names = whole.index(b"\x08\x00\x60\x00CS")
    private = b"\x09\x00\x10\x00OB\0\0" + (0xF0000000).to_bytes(4, "little")
    (tmp_path / "a.dcm").write_bytes(whole[:pixels] + b"\xf0\xff\xff\xf0" + whole[pixels + 4 :])
    (tmp_path / "b.dcm").write_bytes(whole[:names] + private + whole[names:])
    code = (
        "import sys, rust_diffusion as rd\n"
        "try:\n    rd.load_images(sys.argv[1], 8, window=(40, 400))\n"
        "except ValueError as error:\n    print(error)\n"
        "print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=child_environment())
    *message, peak = done.stdout.split("\n")[:-1]
    assert "2 of 2 files cannot be read" in message[0] and "truncated" in message[1]
    assert int(peak) < 2_000_000, f"{peak} kB"


@pytest.fixture
def broken(folder):
    """Files that are no images, each bad in its own way, among the good ones."""
    whole = (folder / "C002" / "3.png").read_bytes()
    bad = folder / "bad"
    bad.mkdir()
    (bad / "empty.png").write_bytes(b"")
    (bad / "cut.png").write_bytes(whole[: len(whole) // 2])
    (bad / "text.png").write_text("no image at all")
    pictures.colour(64, 64).save(bad / "cut.jpg")
    (bad / "cut.jpg").write_bytes((bad / "cut.jpg").read_bytes()[:-200])
    pictures.grey(64, 64).save(bad / "cut.tif")
    (bad / "cut.tif").write_bytes((bad / "cut.tif").read_bytes()[:2000])
    (bad / "loop.png").symlink_to(bad / "loop.png")
    (bad / "gone.png").symlink_to(bad / "nowhere.png")
    (bad / "loop").symlink_to(folder)
    return folder


BROKEN = ["cut.jpg", "cut.png", "cut.tif", "empty.png", "gone.png", "loop.png", "text.png"]


def test_bad_files_are_all_named_in_one_error(rd, broken):
    with pytest.raises(ValueError, match="7 of 15") as error:
        rd.load_images(broken)
    assert all(name in str(error.value) for name in BROKEN)


def test_bad_files_can_be_skipped_with_one_warning(rd, broken):
    with pytest.warns(UserWarning) as caught:
        images = rd.load_images(broken, 8, dtype=torch.uint8, on_error="skip")
    assert levels(images) == LEVELS and len(caught) == 1
    assert all(name in str(caught[0].message) for name in BROKEN)
    with pytest.warns(UserWarning):
        data = rd.ImageSet(broken, on_error="skip")
    assert [file.name for file, _ in data.skipped] == BROKEN and len(data.files) == len(data) == 8


def test_a_long_list_of_bad_files_is_cut_at_ten(rd, tmp_path):
    for k in range(14):
        (tmp_path / f"{k:02}.png").write_text("no")
    with pytest.raises(ValueError, match="and 4 more") as error:
        rd.load_images(tmp_path)
    assert "09.png" in str(error.value) and "10.png" not in str(error.value)
    with pytest.raises(ValueError, match="14 of 14"):
        rd.load_images(tmp_path, on_error="skip")


def test_what_is_not_there_is_a_file_not_found_error(rd, tmp_path, folder):
    for path in (
        tmp_path / "nowhere",
        str(tmp_path / "*.tiff"),
        [tmp_path / "gone.png"],
        tmp_path / "gone.png",
    ):
        with pytest.raises(FileNotFoundError, match=r"nowhere|tiff|gone"):
            rd.load_images(path)
    (tmp_path / "void").mkdir()
    with pytest.raises(ValueError, match="no images"):
        rd.load_images(tmp_path / "void")


def test_a_wrong_ending_does_not_matter_the_content_does(rd, tmp_path):
    pictures.grey(32, 32).save(tmp_path / "a.bmp", "PNG")
    pictures.grey(32, 32).save(tmp_path / "b.png", "JPEG")
    pictures.grey(32, 32).save(tmp_path / "c.png", "BMP")
    assert len(rd.load_images([tmp_path / "a.bmp", tmp_path / "b.png"])) == 2
    with pytest.raises(ValueError, match=r"c\.png: not a PNG"):
        rd.load_images([tmp_path / "c.png"])


def test_a_decompression_bomb_is_refused(rd, tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"bomb\.png.*20000 x 20000"):
        rd.load_images(tmp_path)
    assert time.monotonic() - started < 2
    with pytest.raises(ValueError, match="limit of 99"):
        rd.load_images(tmp_path, max_pixels=99)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(rd, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        rd.load_images([tmp_path / "pipe.png"])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(size=0), ValueError, "size"),
        (dict(size=2.5), TypeError, "size"),
        (dict(size=(16, 0)), ValueError, r"size\[1\]"),
        (dict(size=(16, 16, 16)), ValueError, "size"),
        (dict(size=True), TypeError, "size"),
        (dict(size="64"), TypeError, "size"),
        (dict(fit="squeeze"), ValueError, "fit must be one of 'stretch', 'crop', 'pad'"),
        (dict(fit=None), TypeError, "fit"),
        (dict(channels=2), ValueError, "channels"),
        (dict(dtype=torch.int64), ValueError, "dtype"),
        (dict(dtype="float32"), TypeError, "dtype"),
        (dict(on_error="ignore"), ValueError, "on_error"),
        (dict(cache=3), TypeError, "cache"),
        (dict(window=(40,)), ValueError, "window"),
        (dict(window=(40, 0)), ValueError, "window"),
        (dict(window=(40, float("nan"))), ValueError, "window"),
        (dict(max_pixels=0), ValueError, "max_pixels"),
        (dict(threads=0), ValueError, "threads"),
        (dict(path=b"folder"), TypeError, "path"),
        (dict(path=3), TypeError, "path"),
        (dict(path=[]), ValueError, "path"),
        (dict(path=[3]), TypeError, r"path\[0\]"),
        (dict(path="a\0b"), FileNotFoundError, "path"),
    ],
)
def test_arguments_are_checked(rd, folder, arguments, error, message):
    with pytest.raises(error, match=message):
        rd.load_images(**{"path": folder, **arguments})


def test_damage_never_crashes_and_never_goes_unnoticed_in_silence(rd, tmp_path):
    """Truncations and flipped bits: an error that names the file, or an image of the right shape."""
    rng = np.random.default_rng(0)
    files = []
    for kind in (
        "palette",
        "rgba",
        "interlaced-rgba",
        "jpeg-420",
        "jpeg-progressive",
        "tiff-rgb-lzw",
        "tiff-grey",
    ):
        suffix, save = pictures.KINDS[kind]
        save(tmp_path / f"whole{suffix}", 24, 18)
        whole = (tmp_path / f"whole{suffix}").read_bytes()
        for k in range(60):
            damaged = bytearray(whole)
            if k % 2:
                damaged = damaged[: rng.integers(1, len(whole) - 2)]
            for _ in range(0 if k % 2 else k // 8 + 1):
                damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            files.append(tmp_path / f"{kind}-{k}{suffix}")
            files[-1].write_bytes(damaged)
            (tmp_path / f"whole{suffix}").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match="left out"):
        data = rd.ImageSet(files, 8, on_error="skip")
    assert len(data) + len(data.skipped) == len(files) and torch.isfinite(data.images).all()
    survivors = {file.stem for file in data.files}
    for kind in ("palette", "rgba", "jpeg-420", "tiff-rgb-lzw"):
        assert not survivors & {f"{kind}-{k}" for k in range(1, 60, 2)}, (
            "a truncated file was taken for a whole one"
        )


def test_other_threads_go_on_meanwhile(rd, tmp_path):
    """The GIL is not held: a counting thread is not starved while images are decoded."""
    for k in range(40):
        pictures.with_alpha(512, 512).save(tmp_path / f"{k}.png", compress_level=1)
    counted, over = 0, False

    def count():
        nonlocal counted
        while not over:
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    started = time.monotonic()
    rd.load_images(tmp_path, threads=1)
    seconds = time.monotonic() - started
    over = True
    thread.join()
    assert counted > 20 * seconds


def test_an_interrupt_ends_the_run_soon(tmp_path):
    for k in range(20):
        pictures.with_alpha(64, 64).resize((1024, 1024)).save(tmp_path / f"{k}.png", compress_level=1)
    code = (
        "import _thread, threading, sys, time, rust_diffusion as rd\n"
        "threading.Timer(0.5, _thread.interrupt_main).start()\n"
        "started = time.monotonic()\n"
        "try: rd.load_images(sys.argv[1:] * 200)\n"
        "except KeyboardInterrupt: print('stopped', time.monotonic() - started < 5)"
    )
    files = [str(file) for file in tmp_path.glob("*.png")]
    done = subprocess.run(
        [sys.executable, "-c", code, *files],
        capture_output=True,
        text=True,
        timeout=120,
        env=child_environment(),
    )
    assert done.stdout == "stopped True\n", done.stderr


def test_a_dataset_for_a_dataloader(rd, folder):
    data = rd.ImageSet(folder, 16, dtype=torch.uint8, transform=lambda image: image.flip(-1))
    assert data.images.dtype == torch.uint8 and data[3].dtype == torch.float32
    assert torch.equal(data[3], rd.load_images(folder, 16)[3].flip(-1))
    assert [file.name for file in data.files[:4]] == ["0.png", "1.png", "2.png", "3.png"]
    batches = list(DataLoader(rd.ImageSet(folder, 16), batch_size=3, num_workers=1))
    assert torch.equal(torch.cat(batches), rd.load_images(folder, 16))
    with pytest.raises(IndexError):
        data[8]


def test_a_dataset_of_images_that_are_there_already(rd):
    images = torch.rand(5, 1, 8, 8)
    data = rd.ImageSet(images)
    assert len(data) == 5 and data[2].data_ptr() == images[2].data_ptr()
    with pytest.raises(ValueError, match="source"):
        rd.ImageSet(torch.rand(5, 8, 8))
    with pytest.raises(TypeError, match="source"):
        rd.ImageSet(torch.zeros(5, 1, 8, 8, dtype=torch.int32))
    with pytest.raises(TypeError, match="cache"):
        rd.ImageSet(images, cache=True)


def test_no_bar_for_what_is_soon_over(rd, folder, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rd.load_images(folder)
    assert capfd.readouterr() == ("", "")
