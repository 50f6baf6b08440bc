"""show_batch: all images, apart from each other, in the range asked for."""

import matplotlib
import numpy as np
import pytest
import torch

from tools import slices

matplotlib.use("Agg")


@pytest.fixture
def show(rd):
    import matplotlib.pyplot as plt

    yield rd.show_batch
    plt.close("all")


def shown(figure):
    return [axis.images[0].get_array() for axis in figure.axes if axis.images]


def boxes(figure):
    """Where each image and each caption lies, in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        for part in (*axis.images, axis.title):
            box = part.get_window_extent(renderer)
            if box.width > 0:
                yield box


@pytest.mark.parametrize(
    "n, options",
    [
        (12, dict(title="Two rows")),
        (7, dict(ncols=3, title="Slices")),
        (8, dict(ncols=4, captions="abcdefgh")),
    ],
)
def test_nothing_touches_or_hides_anything_else(show, n, options):
    found = list(boxes(show(slices(n, size=16), **options)))
    assert len(found) == n * (2 if "captions" in options else 1)
    for k, box in enumerate(found):
        for other in found[:k]:
            assert not box.padded(3.0).overlaps(other), f"{box} and {other}"


def test_every_image_is_shown_in_order_with_its_levels(show):
    images = slices(5, size=16)
    for got, image in zip(shown(show(images, ncols=2)), images, strict=True):
        assert np.array_equal(got, ((image[0] + 1) * 127.5).round().numpy())


def test_what_is_shown_black_and_white_can_be_chosen(show):
    images = torch.tensor([-1.0, -0.75, -0.5, 0.0]).reshape(1, 1, 2, 2)
    (levels,) = shown(show(images, vmin=-1, vmax=-0.5))
    assert levels.tolist() == [[0, 128], [255, 255]]
    (colour,) = shown(show(images.expand(1, 3, 2, 2), vmin=-0.75, vmax=0))
    assert colour[..., 2].tolist() == [[0, 0], [85, 255]]


def test_arrays_single_images_and_stacks_without_channels_are_taken(show):
    images = slices(3, size=16)
    assert len(shown(show(images[:, 0]))) == 3
    assert len(shown(show(images[0, 0].numpy()))) == 1
    assert len(shown(show(images.requires_grad_()))) == 3


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_one_picture_with_its_channels_last_is_one_image(show, channels):
    levels = np.random.default_rng(0).integers(0, 256, (9, 12, channels), dtype=np.uint8)
    (image,) = shown(show(levels))
    assert np.array_equal(image, levels[..., 0] if channels == 1 else levels[..., :3])


@pytest.mark.parametrize(
    "batch, options, error, message",
    [
        (torch.rand(0, 1, 8, 8), {}, ValueError, "batch must be"),
        (torch.rand(2, 2, 8, 8), {}, ValueError, "batch must be"),
        (torch.rand(8), {}, ValueError, "batch must be"),
        ("images", {}, TypeError, "batch"),
        (torch.rand(2, 1, 8, 8), dict(ncols=0), ValueError, "ncols"),
        (torch.rand(2, 1, 8, 8), dict(captions=["one"]), ValueError, "captions must be one for each image"),
        (torch.rand(2, 1, 8, 8), dict(vmin=1, vmax=0), ValueError, "vmin must be below vmax"),
        (torch.rand(2, 1, 8, 8), dict(vmax="bright"), TypeError, "vmax"),
    ],
)
def test_arguments_are_checked(show, batch, options, error, message):
    with pytest.raises(error, match=message):
        show(batch, **options)
