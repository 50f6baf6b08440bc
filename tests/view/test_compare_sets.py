"""compare_sets, on sets that are known to be equal and known to differ."""

import pytest
import torch

from tools import slices


@pytest.fixture
def compare(rd):
    def run(a, b, **options):
        return rd.compare_sets(a, b, **options)

    return run


def test_equal_distributions_are_not_told_apart(compare):
    """Of p-values under equality one in twenty is below 0.05; of ten, four would be a miracle."""
    low = 0
    for seed in range(10):
        result = compare(slices(40, seed=2 * seed), slices(40, seed=2 * seed + 1), seed=seed)
        low += result.raw.p_value < 0.05
        assert abs(result.raw.mmd2) < 0.05
    assert low < 4


@pytest.mark.parametrize(
    "change",
    [lambda x: x * 0.5, lambda x: x + 0.3, lambda x: x.flip(-1).cumsum(-1) / 8 - 0.5],
    ids=["flat", "bright", "other"],
)
def test_other_distributions_are_told_apart(compare, change):
    result = compare(change(slices(40, seed=1)), slices(40, seed=2))
    assert result.raw.p_value < 0.01 and result.raw.mmd2 > 0


@pytest.mark.parametrize("change", [lambda x: (x + 1) / 2, lambda x: (x + 1) * 127.5])
def test_images_in_another_range_are_warned_of(compare, change):
    with pytest.warns(UserWarning, match=r"^a has values from .*made for images in \[-1, 1\]"):
        compare(change(slices(8, seed=1)), slices(8, seed=2))


def test_texture_is_seen_in_the_patches(compare):
    a = slices(60, size=32, seed=1)
    noisy = a + 0.05 * torch.randn(a.shape)
    result = compare(noisy, slices(60, size=32, seed=2))
    assert result.patches.p_value < 0.01 and result.patches.mmd2 > 10 * abs(result.raw.mmd2)


def test_the_estimate_is_unbiased():
    """The mean over many draws is 0 for equal distributions, where the biased estimate is above 0."""
    from rust_diffusion.view.measures import discrepancy

    generator = torch.Generator().manual_seed(0)
    values = [discrepancy(torch.randn(8, 3), torch.randn(8, 3), generator).mmd2 for _ in range(200)]
    mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / len(values) ** 0.5
    assert abs(mean) < 4 * error


def test_copies_are_found_and_new_images_are_not_accused(compare):
    training = slices(50, seed=1)
    half = torch.cat([training[:10], slices(10, seed=2)])
    result = compare(half, training)
    assert result.copied == 0.5
    assert result.nearest[:10].max() < 1e-5 < result.nearest[10:].min()
    assert result.nearest_index[:10].tolist() == list(range(10))
    brightened = (training[:10] + 0.01).clamp(-1, 1)
    assert compare(brightened, training).copied == 1.0


def test_ms_ssim_tells_variety(compare):
    pytest.importorskip("torchmetrics")
    one = slices(1, size=32).repeat(20, 1, 1, 1) + 0.01 * torch.randn(20, 1, 32, 32)
    result = compare(one, slices(20, size=32, seed=3))
    assert result.ms_ssim_a > 0.95 > 0.7 > result.ms_ssim_b
    assert compare(one[..., :6, :6], one[..., :6, :6]).ms_ssim_a is None, "too small for its window"


def test_the_same_seed_gives_the_same_numbers_and_arrays_are_taken(compare):
    a, b = slices(30, seed=1), slices(30, seed=2)
    first, again = compare(a, b, max_images=20), compare(a.numpy(), b.numpy(), max_images=20)
    assert str(first) == str(again) and len(first.a) == 20
    levels = ((a + 1) * 127.5).round().to(torch.uint8)
    assert compare(levels, a).nearest.max() < 0.01


def test_the_report_is_one_figure_in_which_nothing_hides_anything(compare, tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    figure = compare(slices(8, seed=1), slices(9, seed=2), names=("samples", "training slices")).figure(
        vmax=0
    )
    assert len(figure.axes) == 13
    figure.savefig(tmp_path / "report.png")
    renderer = figure.canvas.get_renderer()
    texts = [axis.title for axis in figure.axes if axis.title.get_text()]
    boxes = [part.get_window_extent(renderer) for part in (*texts, figure._suptitle)]
    boxes += [axis.images[0].get_window_extent(renderer) for axis in figure.axes if axis.images]
    for k, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y1 <= figure.bbox.y1, f"{box} is cut off"
        for other in boxes[:k]:
            assert not box.overlaps(other), f"{box} and {other}"


def test_the_sets_have_names_and_the_numbers_a_meaning(compare):
    a, b = slices(40, seed=1), slices(40, seed=2)
    same = compare(a, b, names=("samples", "training"))
    assert "samples (40 images) against training (40)" in str(same) and "within training" in str(same)
    assert same.verdict == "samples cannot be told from training, with 40 and 40 images."
    different = compare(a * 0.5, b, names=("samples", "training"))
    assert different.verdict.startswith("samples can be told from training: ")
    assert f"{different.raw.mmd2 / different.raw.by_chance:.1f} times what chance gives" in different.verdict
    assert "45% of a are near copies of b" in compare(torch.cat([b[:18], a[:22]]), b).verdict
    assert all(found.verdict in str(found) for found in (same, different))


def test_what_chance_gives_is_the_limit_of_the_test(compare):
    """The p-value is below 0.05 just where the estimate is above what 95 of 100 divisions stay below."""
    for seed in range(6):
        found = compare(slices(20, seed=seed) + 0.05 * seed, slices(20, seed=seed + 50), seed=seed)
        for one in (found.raw, found.patches):
            assert (one.mmd2 > one.by_chance) == (one.p_value < 0.05) or abs(one.p_value - 0.05) < 0.003


def test_its_repr_has_the_numbers_and_no_images(compare):
    text = repr(compare(slices(4), slices(5, seed=1)))
    assert "tensor" not in text and "p_value" in text and len(text) < 600


@pytest.mark.parametrize("names", ["ab", ("a",), ("a", 1), None])
def test_names_are_two_strings(compare, names):
    with pytest.raises(TypeError, match="names must be two strings"):
        compare(slices(4), slices(5, seed=1), names=names)


@pytest.mark.parametrize(
    "a, error, message",
    [
        (torch.zeros(2, 1, 8, 8), ValueError, "a must be"),
        (torch.zeros(5, 8, 8), ValueError, "a must be"),
        (torch.zeros(5, 1, 9, 8), ValueError, "one shape"),
        (torch.full((5, 1, 8, 8), float("nan")), ValueError, "a must be finite"),
        (torch.zeros(5, 1, 8, 8, dtype=torch.int64), TypeError, "a must be"),
        ("images", TypeError, "a must be"),
    ],
)
def test_arguments_are_checked(compare, a, error, message):
    with pytest.raises(error, match=message):
        compare(a, torch.zeros(5, 1, 8, 8))
