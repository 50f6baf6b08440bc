"""Sizes, proportions and windows of the images that files become."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import images as pictures

SHAPES = [(512, 512), (100, 300), (33, 47), (20, 200), (200, 20), (7, 5), (3, 90)]
BILINEAR = Image.Resampling.BILINEAR
#: What Pillow makes of an image for the same words; its sizes are (width, height).
PILLOW = {
    "stretch": lambda image, width, height: image.resize((width, height), BILINEAR),
    "crop": lambda image, width, height: ImageOps.fit(image, (width, height), BILINEAR),
    "pad": lambda image, width, height: ImageOps.pad(image, (width, height), BILINEAR),
}


@pytest.mark.parametrize("size", [(64, 64), (24, 40), (61, 17)])
@pytest.mark.parametrize("fit", PILLOW)
def test_every_way_of_fitting_gives_the_grey_levels_of_pillow(rd, tmp_path, fit, size):
    files = []
    for height, width in SHAPES:
        files.append(tmp_path / f"{height}x{width}.png")
        pictures.colour(height, width).save(files[-1])
    for channels, mode in ((1, "L"), (3, "RGB")):
        got = rd.load_images(files, size, channels=channels, fit=fit, dtype=torch.uint8, sort=False)
        assert got.shape == (len(files), channels, *size)
        for file, image in zip(files, got, strict=True):
            expected = np.asarray(PILLOW[fit](Image.open(file).convert(mode), size[1], size[0]))
            expected = torch.from_numpy(expected.reshape(*size, channels).copy()).permute(2, 0, 1)
            difference = (image.int() - expected.int()).abs().max().item()
            assert difference <= 1, f"{file.name} at {size}: {difference} levels"


def test_an_integer_is_the_side_of_a_square_whatever_its_type(rd, folder):
    expected = rd.load_images(folder, (16, 16))
    for size in (16, np.int64(16), torch.tensor(16), [16, 16], np.array([16, 16])):
        assert torch.equal(rd.load_images(folder, size), expected)
    assert rd.ImageSet(folder, (8, 24)).images.shape == (8, 1, 8, 24)


@pytest.fixture
def twelve_bits(tmp_path):
    """A file as scanners' software writes it: 12-bit values in 16 bits."""
    ramp = np.linspace(0, 4095, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "ct.png")
    return tmp_path / "ct.png", ramp


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_files_are_shown_through_a_window(rd, tmp_path, twelve_bits, suffix):
    _, ramp = twelve_bits
    Image.fromarray(ramp).save(tmp_path / f"deep{suffix}")
    images = rd.load_images(tmp_path / f"deep{suffix}", 64, window=(1000, 800))
    expected = ((ramp.astype(np.float64) - 600) / 800).clip(0, 1) * 2 - 1
    assert np.abs(images[0, 0].numpy() - expected).max() < 2 / 65535
    assert images.window == (1000.0, 800.0)
    for window, shade in (((-3000, 1500), "white"), ((60000, 100), "black")):
        with pytest.warns(UserWarning, match=f"^the images are {shade} all over through window="):
            rd.load_images(tmp_path / f"deep{suffix}", 64, window=window)


def test_eight_bit_files_are_not(rd, folder):
    with pytest.warns(
        UserWarning, match=r"^window=\(1000\.0, 800\.0\) changes nothing: .* 16 bits"
    ) as caught:
        images = rd.load_images(folder, 8, window=(1000, 800))
    assert len(caught) == 1 and torch.equal(images, rd.load_images(folder, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.float16])
def test_twelve_bits_in_sixteen_are_noticed_and_the_remedy_is_one(rd, twelve_bits, dtype):
    file, _ = twelve_bits
    with pytest.warns(UserWarning, match=r"the lowest 4096 of 65536.*window=\(2048, 4096\)"):
        dark = rd.load_images(file, 64, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bright = rd.load_images(file, 64, dtype=dtype, window=(2048, 4096))
    assert dark.max() < (-0.8 if dtype.is_floating_point else 20)
    assert bright.max() > (0.999 if dtype.is_floating_point else 254)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_window_that_is_proposed_shows_what_reducing_made_darker(rd, tmp_path, suffix):
    """Levels up to 3000, which the mean of some pixels does not reach."""
    levels = np.full((64, 64), 1000, np.uint16)
    levels[::4, ::4] = 3000
    for k in range(40):
        Image.fromarray(levels).save(tmp_path / f"{k}{suffix}")
    with pytest.warns(UserWarning, match=r"the lowest 4096 of 65536.*window=\(2048, 4096\)"):
        dark = rd.load_images(tmp_path, 8)
    assert (dark.max() + 1) * 32767.5 < 2048
