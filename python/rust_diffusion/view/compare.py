"""Do two sets of images come from one distribution? Numbers and one figure, without a pretrained network."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rust_diffusion.support import checks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Random filters that stand in for a pretrained network: how many, how wide, and the reductions they see the
# image at.
_FILTERS = 16
_FILTER_SIDE = 5
_REDUCTIONS = (1, 2, 4)
# Widths of the Gaussian kernel, in medians of the distance between two images.
_BANDWIDTHS = (0.5, 1.0, 2.0)
_PERMUTATIONS = 500
# A sample counts as a copy if its nearest training image is this much nearer than the second nearest (Yoon et
# al. 2023),
_COPY_RATIO = 1 / 3
# MS-SSIM of Wang, Simoncelli and Bovik (2003): weights of the scales, the finest first, and the side of its
# window.
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MS_SSIM_WINDOW = 7
_MS_SSIM_PAIRS = 200


@dataclass(frozen=True)
class Discrepancy:
    """A squared maximum mean discrepancy and how surprising it is."""

    #: Unbiased estimate (Gretton et al. 2012, lemma 6): about 0 for equal distributions, below 0 at times.
    mmd2: float
    #: Share of random divisions of the pooled images with an estimate at least as large: small if the sets
    #: differ.
    p_value: float


@dataclass(frozen=True)
class SetComparison:
    """What `compare_sets` found. `print` it, or draw it with `figure`."""

    #: Of the images as they are.
    raw: Discrepancy
    #: Of the responses to random filters at three scales: texture and structure.
    patches: Discrepancy
    #: Mean MS-SSIM of pairs within `a`, within `b` and across; the lower, the more varied. None without
    #: torchmetrics and for images too small for it.
    ms_ssim_a: float | None
    ms_ssim_b: float | None
    ms_ssim_across: float | None
    #: Root-mean-square distance of each image of `a` to the nearest of `b`, in image units; shape (len(a),).
    nearest: Tensor
    #: The same of each image of `b` to the nearest *other* one of `b`: what is usual within the set.
    nearest_within_b: Tensor
    #: For each image of `a`, which of `b` is the nearest.
    nearest_index: Tensor
    #: Share of `a` that is a near copy of an image of `b`: three times nearer to it than to the second
    #: nearest.
    copied: float
    #: The images compared, for the figure.
    a: Tensor
    b: Tensor

    def __str__(self) -> str:
        def similarities() -> str:
            values = (self.ms_ssim_a, self.ms_ssim_b, self.ms_ssim_across)
            if None not in values:
                return ", ".join(f"{value:.3f}" for value in values)
            if find_spec("torchmetrics") is None:
                return "not computed; it needs pip install 'rust-diffusion[evaluate]'"
            return f"not computed; the images must be larger than {_MS_SSIM_WINDOW} x {_MS_SSIM_WINDOW}"

        return "\n".join(
            [
                f"{len(self.a)} against {len(self.b)} images",
                f"MMD^2, images:   {self.raw.mmd2:+.5f}  (p = {self.raw.p_value:.3f})",
                f"MMD^2, patches:  {self.patches.mmd2:+.5f}  (p = {self.patches.p_value:.3f})",
                f"MS-SSIM within a, within b, across: {similarities()}",
                f"distance to the nearest of b, median: {self.nearest.median():.4f} "
                f"(within b: {self.nearest_within_b.median():.4f})",
                f"near copies: {self.copied:.1%}",
            ]
        )

    def figure(self) -> Figure:
        """Draw the images of `a` that are nearest to `b` above their neighbours, and the distances below."""
        import matplotlib.pyplot as plt

        columns = min(6, len(self.a))
        fig, axes = plt.subplot_mosaic(
            [[f"a{k}" for k in range(columns)], [f"b{k}" for k in range(columns)], ["hist"] * columns],
            figsize=(1.8 * columns + 0.6, 6.4),
        )
        for k, index in enumerate(self.nearest.argsort()[:columns].tolist()):
            neighbour = int(self.nearest_index[index])
            _picture(axes[f"a{k}"], self.a[index], f"a[{index}]")
            _picture(axes[f"b{k}"], self.b[neighbour], f"b[{neighbour}]: {self.nearest[index]:.3f}")
        axes["hist"].hist(
            [self.nearest.numpy(), self.nearest_within_b.numpy()],
            bins=30,
            density=True,
            label=["a to b", "within b"],
        )
        axes["hist"].set_xlabel("distance to the nearest image (RMS)")
        axes["hist"].set_yticks([])
        axes["hist"].legend()
        fig.suptitle(
            f"MMD² of images {self.raw.mmd2:+.4f} (p = {self.raw.p_value:.3f}),\n"
            f"of patches {self.patches.mmd2:+.4f} (p = {self.patches.p_value:.3f});\n"
            f"near copies {self.copied:.1%}",
            fontsize="medium",
        )
        fig.tight_layout()
        return fig


def compare_sets(a: Any, b: Any, *, max_images: int = 1000, seed: int = 0) -> SetComparison:
    """Compare two sets of images, such as samples with the slices that the model was trained on.

    Parameters
    ----------
    a, b : Tensor or array
        Each (N, C, H, W) with N >= 3, values in [-1, 1] or uint8; `b` is the reference (the training set).
    max_images : int
        Larger sets are thinned at random to this many for the discrepancies and MS-SSIM. The search for
        copies looks at all of `b`.
    seed : int
        Of the thinning, the filters, the pairs and the permutations: the same sets give the same numbers.

    Returns
    -------
    SetComparison

    Raises
    ------
    ValueError, TypeError
        If a set has fewer than three images, the shapes do not agree, or a value is not finite.
    """
    max_images = checks.integer("max_images", max_images, 3)
    generator = torch.Generator().manual_seed(checks.integer("seed", seed, 0, 2**63 - 1))
    a, everything_b = _images("a", a), _images("b", b)
    if a.shape[1:] != everything_b.shape[1:]:
        raise ValueError(
            "a and b must hold images of one shape, "
            f"got {tuple(a.shape[1:])} and {tuple(everything_b.shape[1:])}"
        )
    a = _thin(a, max_images, generator)
    b = _thin(everything_b, max_images, generator)
    distances, indices = _two_nearest(a, everything_b)
    within, _ = _two_nearest(b, everything_b)
    return SetComparison(
        raw=_discrepancy(a.flatten(1), b.flatten(1), generator),
        patches=_discrepancy(*_patch_features(a, b, generator), generator),
        ms_ssim_a=_ms_ssim(a, a, generator),
        ms_ssim_b=_ms_ssim(b, b, generator),
        ms_ssim_across=_ms_ssim(a, b, generator),
        nearest=distances[:, 0],
        # The nearest of all is the image itself.
        nearest_within_b=within[:, 1],
        nearest_index=indices[:, 0],
        copied=(distances[:, 0] <= _COPY_RATIO * distances[:, 1]).float().mean().item(),
        a=a,
        b=everything_b,
    )


def _images(name: str, value: Any) -> Tensor:
    try:
        images = checks.tensor(name, value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be a tensor or an array, got {type(value).__name__}") from error
    if images.ndim != 4 or len(images) < 3 or images[0].numel() == 0:
        raise ValueError(f"{name} must be (N, C, H, W) with N >= 3, got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 127.5 - 1
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating or uint8, got {images.dtype}")
    if not torch.isfinite(images).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return images.float()


def _thin(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(images) <= most:
        return images
    return images[torch.randperm(len(images), generator=generator)[:most].sort().values]


def _two_nearest(of: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the two nearest images and their places, (N, 2) each."""
    # In double precision, or the distance of an image to its own copy would drown in rounding.
    among = among.flatten(1).double()
    rows = [torch.cdist(part.flatten(1).double(), among).topk(2, largest=False) for part in of.split(256)]
    distances = torch.cat([row.values for row in rows]).float() / of[0].numel() ** 0.5
    return distances, torch.cat([row.indices for row in rows])


def _discrepancy(a: Tensor, b: Tensor, generator: torch.Generator) -> Discrepancy:
    """MMD with a mixture of Gaussian kernels, and its permutation test (Gretton et al. 2012)."""
    squared = torch.cdist(pooled := torch.cat([a, b]).double(), pooled).square()
    median = squared[~torch.eye(len(squared), dtype=torch.bool)].median().clamp(min=1e-12)
    kernels = [torch.exp(-squared / (2 * width**2 * median)) for width in _BANDWIDTHS]
    kernel = torch.stack(kernels).mean(0)
    kernel.fill_diagonal_(0)

    # Each column tells for one division of the images which of them are in the first set; the true one is the
    # first.
    member = torch.zeros(len(squared), _PERMUTATIONS + 1, dtype=torch.float64)
    member[: len(a), 0] = 1
    for column in range(1, _PERMUTATIONS + 1):
        member[torch.randperm(len(squared), generator=generator)[: len(a)], column] = 1
    n, m = len(a), len(b)
    within_a = (member * (kernel @ member)).sum(0)
    across = ((1 - member) * (kernel @ member)).sum(0)
    within_b = kernel.sum() - within_a - 2 * across
    estimates = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
    # Equal up to rounding counts as equal: two sets of identical images differ in nothing.
    as_large = estimates >= estimates[0] - 1e-12
    return Discrepancy(mmd2=estimates[0].item(), p_value=as_large.double().mean().item())


def _patch_features(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How strongly each image answers to random filters, by scale and quarter; (N, features) each."""
    channels = a.shape[1]
    filters = torch.randn(_FILTERS, channels, _FILTER_SIDE, _FILTER_SIDE, generator=generator)
    # Without a mean a filter sees structure, not brightness.
    filters = filters - filters.mean((2, 3), keepdim=True)
    filters = filters / filters.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    pooled = torch.cat([a, b])
    features = []
    for reduction in _REDUCTIONS:
        if min(pooled.shape[2:]) // reduction < 2 * _FILTER_SIDE:
            break
        small = F.avg_pool2d(pooled, reduction)
        answers = torch.cat([F.conv2d(part, filters).abs() for part in small.split(64)])
        features += [F.adaptive_avg_pool2d(answers, 2).flatten(1), answers.std((2, 3))]
    if not features:
        features = [pooled.flatten(1)]
    table = torch.cat(features, dim=1)
    table = (table - table.mean(0)) / table.std(0).clamp(min=1e-6)
    return table[: len(a)], table[len(a) :]


def _ms_ssim(a: Tensor, b: Tensor, generator: torch.Generator) -> float | None:
    """Mean over random pairs of different images."""
    try:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim
    except ImportError:
        return None
    # Each scale halves the image; the window must still fit into the coarsest.
    scales = sum(min(a.shape[2:]) // 2**k > _MS_SSIM_WINDOW for k in range(len(_MS_SSIM_WEIGHTS)))
    if scales == 0:
        return None
    weights = torch.tensor(_MS_SSIM_WEIGHTS[:scales])
    first = torch.randint(len(a), (_MS_SSIM_PAIRS,), generator=generator)
    second = torch.randint(len(b), (_MS_SSIM_PAIRS,), generator=generator)
    if a is b:
        different = first != second
        first, second = first[different], second[different]
    value = ms_ssim(
        a[first],
        b[second],
        gaussian_kernel=False,
        kernel_size=_MS_SSIM_WINDOW,
        data_range=(-1.0, 1.0),
        betas=tuple((weights / weights.sum()).tolist()),
        normalize="relu",
    )
    return float(value)


def _picture(axis: Any, image: Tensor, title: str) -> None:
    picture = ((image + 1) / 2).clamp(0, 1)
    axis.imshow(picture[0] if len(picture) != 3 else picture.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=8)
    axis.axis("off")
