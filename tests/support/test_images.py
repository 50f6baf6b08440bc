"""Images in the forms in which people have them: one function, used by all that take images."""

import ast
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from tools import ROOT, TINY


@pytest.fixture
def take(rd):
    from rust_diffusion.data import as_images

    return as_images


def levels(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_tensor_or_array_comes_back_in_its_own_memory(take):
    for images in (torch.rand(3, 2, 8, 8), levels(3, 1, 8, 8), torch.rand(3, 1, 8, 8).double()):
        assert take(images).data_ptr() == images.data_ptr()
        assert take(images.numpy()).data_ptr() == images.data_ptr()
        assert take(images).dtype == images.dtype


def test_levels_with_the_channels_last_are_turned(take):
    grey, colour = levels(3, 8, 6, 1), levels(3, 8, 6, 3)
    assert torch.equal(take(grey), grey.permute(0, 3, 1, 2))
    assert torch.equal(take(colour.numpy()), colour.permute(0, 3, 1, 2))
    assert torch.equal(take(torch.cat([colour, grey], dim=-1)), colour.permute(0, 3, 1, 2)), (
        "alpha is dropped"
    )
    # With the channels first all is as it was, whatever the width; so is all that is floating.
    for images in (levels(3, 1, 8, 3), levels(3, 3, 8, 1), torch.rand(3, 8, 6, 3)):
        assert take(images) is images


def test_lists_of_single_images_are_stacked(take):
    images = levels(4, 3, 8, 6)
    assert torch.equal(take(list(images)), images)
    assert torch.equal(take([image.permute(1, 2, 0).numpy() for image in images]), images)
    assert torch.equal(take(tuple(images[:, 0])), images[:, :1])
    values = torch.rand(4, 1, 8, 6)
    assert torch.equal(take([image.numpy() for image in values]), values)


def test_images_of_pillow_keep_their_levels(take):
    colour = levels(2, 8, 6, 3)
    pictures = [Image.fromarray(image.numpy()) for image in colour]
    assert torch.equal(take(pictures), colour.permute(0, 3, 1, 2))
    assert torch.equal(take(pictures[0]), colour[:1].permute(0, 3, 1, 2))
    assert torch.equal(take([p.convert("RGBA") for p in pictures]), colour.permute(0, 3, 1, 2))
    grey = [picture.convert("L") for picture in pictures]
    assert torch.equal(take(grey)[1, 0], torch.from_numpy(np.array(grey[1])))
    assert torch.equal(take([p.convert("LA") for p in grey]), take(grey))
    assert set(take([grey[0].convert("1")]).unique().tolist()) <= {0, 255}
    assert take([grey[0].convert("P")]).shape == (1, 3, 8, 6)
    # As small as an alpha channel is deep: told by what it is, not by its shape.
    assert take([Image.fromarray(levels(3, 3, 3).numpy())]).shape == (1, 3, 3, 3)


def test_arrays_that_cannot_be_written_to_or_run_backwards_are_taken_without_a_word(take):
    array = levels(3, 1, 8, 8).numpy()
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(take(array), torch.tensor(array))
        assert torch.equal(take(array[::-1]), torch.tensor(array[::-1].copy()))


@pytest.mark.parametrize(
    "images, error, message",
    [
        ([], ValueError, "images is an empty list"),
        (
            [torch.rand(1, 8, 8), torch.rand(1, 8, 6)],
            ValueError,
            r"images\[1\] is 8 x 6 .* images\[0\] is 8 x 8",
        ),
        ([torch.rand(1, 8, 8), levels(1, 8, 8)], ValueError, r"images\[1\] is .*uint8"),
        ([torch.rand(1, 1, 8, 8)], ValueError, r"images\[0\] must be"),
        ([torch.rand(1, 8, 8), "a"], TypeError, r"images\[1\]"),
        ([Image.new("I;16", (8, 8))], ValueError, r"images\[0\] is a PIL image of mode I;16.*load_images"),
        ([Image.new("F", (8, 8))], ValueError, "mode F"),
        (torch.rand(8, 8), ValueError, r"images must be .*got shape \(8, 8\)"),
        (torch.zeros(3, 1, 8, 8, dtype=torch.int64), TypeError, "int64"),
        (np.zeros((3, 1, 8, 8), dtype=object), TypeError, "array of object"),
        ("images", TypeError, "images"),
        (None, TypeError, "images"),
    ],
)
def test_what_is_none_of_these_is_refused_by_name(take, images, error, message):
    with pytest.raises(error, match=message):
        take(images)


def test_every_form_trains_compares_and_shows_alike(rd):
    """The same pictures in five forms give the same losses, the same comparison and the same figure."""
    import matplotlib

    matplotlib.use("Agg")
    grey = levels(6, 1, 16, 16)
    forms = {
        "tensor": grey,
        "channels last": grey.permute(0, 2, 3, 1).contiguous().numpy(),
        "list": list(grey),
        "list of (H, W)": [image.numpy() for image in grey[:, 0]],
        "Pillow": [Image.fromarray(image.numpy()) for image in grey[:, 0]],
    }
    results = {}
    for name, form in forms.items():
        torch.manual_seed(0)
        model = rd.DiffusionUNet(**TINY)
        options = dict(epochs=1, batch_size=3, seed=0, device="cpu", progress=False)
        run = rd.train(model, form, betas=rd.cosine_beta_schedule(20), **options)
        shown = [axis.images[0].get_array().tolist() for axis in rd.show_batch(form).axes]
        results[name] = (run.history, str(rd.compare_sets(form, rd.phantoms(4, 16))), shown)
    assert all(result == results["tensor"] for result in results.values())


def test_grey_levels_have_the_values_of_totensor_and_normalize_to_the_last_bit(rd):
    from rust_diffusion.support.images import as_values

    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(as_values(every), (every.float() / 255 - 0.5) / 0.5)
    assert torch.equal(as_values(every.transpose(2, 3)), as_values(every).transpose(2, 3))
    assert torch.equal(rd.ImageSet(every)[0], as_values(every)[0])
    assert as_values(every[:0]).shape == (0, 1, 16, 16)
    values = torch.rand(2, 1, 4, 4)
    assert as_values(values) is values or torch.equal(as_values(values), values)


def test_grey_levels_are_normalised_in_one_place():
    """In the core; nothing else divides by 255 or 127.5 to get there."""
    normalising = re.compile(r"/ \(?255|/ 127\.5 - 1|div_scalar\(255")
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.rs")}
    sources = {path: re.sub("//.*", "", text) for path, text in sources.items()}
    for path in (ROOT / "python").rglob("*.py"):
        sources[path] = code_of(path.read_text(encoding="utf-8"))
    found = [str(path.relative_to(ROOT)) for path, text in sources.items() if normalising.search(text)]
    assert len(sources) > 100 and found == []


def code_of(text):
    """Python without comments and texts."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)
