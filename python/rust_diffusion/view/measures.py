"""How far two sets of images are apart, without a pretrained network: discrepancies, neighbours, variety."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: A difference that chance brings about less often than this counts.
LEVEL = 0.05

# Random filters that stand in for a pretrained network: how many, how wide, and the reductions they see the
# image at.
_FILTERS = 16
_FILTER_SIDE = 5
_REDUCTIONS = (1, 2, 4)
# Widths of the Gaussian kernel, in medians of the distance between two images.
_BANDWIDTHS = (0.5, 1.0, 2.0)
_PERMUTATIONS = 500
# MS-SSIM of Wang, Simoncelli and Bovik (2003): weights of the scales, the finest first, and the side of its
# window.
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_WINDOW = 7
_MS_SSIM_PAIRS = 200


@dataclass(frozen=True)
class Discrepancy:
    """A squared maximum mean discrepancy and how surprising it is."""

    #: Unbiased estimate (Gretton et al. 2012, lemma 6): about 0 for equal distributions, below 0 at times.
    mmd2: float
    #: Share of random divisions of the pooled images with an estimate at least as large: small if the sets
    #: differ.
    p_value: float
    #: The estimate that 95 of 100 such divisions stay below: what chance gives with so many images.
    by_chance: float


def two_nearest(of: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the two nearest images and their places, (N, 2) each."""
    # In double precision, or the distance of an image to its own copy would drown in rounding.
    among = among.flatten(1).double()
    rows = [torch.cdist(part.flatten(1).double(), among).topk(2, largest=False) for part in of.split(256)]
    distances = torch.cat([row.values for row in rows]).float() / of[0].numel() ** 0.5
    return distances, torch.cat([row.indices for row in rows])


def discrepancy(a: Tensor, b: Tensor, generator: torch.Generator) -> Discrepancy:
    """MMD with a mixture of Gaussian kernels, and its permutation test (Gretton et al. 2012)."""
    kernel = _kernel(torch.cat([a, b]).double())
    n, m = len(a), len(b)
    # Each column tells for one division of the images which of them are in the first set; the true one is the
    # first.
    member = torch.zeros(n + m, _PERMUTATIONS + 1, dtype=torch.float64)
    member[:n, 0] = 1
    for column in range(1, _PERMUTATIONS + 1):
        member[torch.randperm(n + m, generator=generator)[:n], column] = 1
    within_a = (member * (kernel @ member)).sum(0)
    across = ((1 - member) * (kernel @ member)).sum(0)
    within_b = kernel.sum() - within_a - 2 * across
    estimates = within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
    # Equal up to rounding counts as equal: two sets of identical images differ in nothing.
    as_large = estimates >= estimates[0] - 1e-12
    return Discrepancy(
        mmd2=estimates[0].item(),
        p_value=as_large.double().mean().item(),
        by_chance=estimates[1:].quantile(1 - LEVEL).item(),
    )


def _kernel(pooled: Tensor) -> Tensor:
    """Values of the kernel between all images, 0 from each to itself."""
    squared = torch.cdist(pooled, pooled).square()
    median = squared[~torch.eye(len(squared), dtype=torch.bool)].median().clamp(min=1e-12)
    kernels = [torch.exp(-squared / (2 * width**2 * median)) for width in _BANDWIDTHS]
    return torch.stack(kernels).mean(0).fill_diagonal_(0)


def patch_features(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """How strongly each image answers to random filters, by scale and quarter; (N, features) each."""
    channels = a.shape[1]
    filters = torch.randn(
        _FILTERS, channels, _FILTER_SIDE, _FILTER_SIDE, generator=generator, dtype=torch.float32
    )
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


def ms_ssim(a: Tensor, b: Tensor, generator: torch.Generator) -> float | None:
    """Mean over random pairs of different images."""
    try:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as similarity
    except ImportError:
        return None
    # Each scale halves the image; the window must still fit into the coarsest.
    scales = sum(min(a.shape[2:]) // 2**k > MS_SSIM_WINDOW for k in range(len(_MS_SSIM_WEIGHTS)))
    if scales == 0:
        return None
    weights = torch.tensor(_MS_SSIM_WEIGHTS[:scales])
    first = torch.randint(len(a), (_MS_SSIM_PAIRS,), generator=generator)
    second = torch.randint(len(b), (_MS_SSIM_PAIRS,), generator=generator)
    if a is b:
        different = first != second
        first, second = first[different], second[different]
    value = similarity(
        a[first],
        b[second],
        gaussian_kernel=False,
        kernel_size=MS_SSIM_WINDOW,
        data_range=(-1.0, 1.0),
        betas=tuple((weights / weights.sum()).tolist()),
        normalize="relu",
    )
    return float(value)
