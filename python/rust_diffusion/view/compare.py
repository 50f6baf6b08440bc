"""Do two sets of images come from one distribution? Numbers, words and one figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rust_diffusion.support import checks
from rust_diffusion.support.images import as_images, as_values
from rust_diffusion.support.values import warn_of_values
from rust_diffusion.view import measures
from rust_diffusion.view.measures import LEVEL, MS_SSIM_WINDOW, Discrepancy
from rust_diffusion.view.pictures import BLACK, WHITE, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A sample counts as a copy if its nearest training image is this much nearer than the second nearest (Yoon et
# al. 2023).
_COPY_RATIO = 1 / 3
#: Images that a set must have.
FEWEST = 3
# Pairs of neighbours in the figure, at most.
_PAIRS = 6


@dataclass(frozen=True)
class SetComparison:
    """What `compare_sets` found. `print` it, or draw it with `figure`."""

    #: What the sets are called.
    names: tuple[str, str]
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
    nearest: Tensor = field(repr=False)
    #: The same of each image of `b` to the nearest *other* one of `b`: what is usual within the set.
    nearest_within_b: Tensor = field(repr=False)
    #: For each image of `a`, which of `b` is the nearest.
    nearest_index: Tensor = field(repr=False)
    #: Share of `a` that is a near copy of an image of `b`: three times nearer to it than to the second
    #: nearest.
    copied: float
    #: The images compared, for the figure.
    a: Tensor = field(repr=False)
    b: Tensor = field(repr=False)

    @property
    def verdict(self) -> str:
        """What the numbers mean, in a sentence or two."""
        a, b = self.names
        seen = [
            f"{what} (MMD^2 is {found.mmd2 / max(found.by_chance, 1e-12):.1f} times what chance gives)"
            for what, found in (("as images", self.raw), ("by their texture", self.patches))
            if found.p_value < LEVEL
        ]
        if seen:
            words = f"{a} can be told from {b}: {' and '.join(seen)}."
        else:
            words = f"{a} cannot be told from {b}, with {len(self.a)} and {len(self.b)} images."
        if self.copied > LEVEL:
            words += f" {self.copied:.0%} of {a} are near copies of {b}."
        return words

    def __str__(self) -> str:
        a, b = self.names
        return "\n".join(
            [
                f"{a} ({len(self.a)} images) against {b} ({len(self.b)})",
                f"MMD^2, images:   {_in_words(self.raw)}",
                f"MMD^2, patches:  {_in_words(self.patches)}",
                f"MS-SSIM within {a}, within {b}, across: {self._similarities()}",
                f"distance to the nearest of {b}, median: {self.nearest.median():.4f} "
                f"(within {b}: {self.nearest_within_b.median():.4f})",
                f"near copies: {self.copied:.1%}",
                self.verdict,
            ]
        )

    def _similarities(self) -> str:
        values = (self.ms_ssim_a, self.ms_ssim_b, self.ms_ssim_across)
        if None not in values:
            return ", ".join(f"{value:.3f}" for value in values)
        if find_spec("torchmetrics") is None:
            return "not computed; it needs pip install torchmetrics"
        return f"not computed; the images must be larger than {MS_SSIM_WINDOW} x {MS_SSIM_WINDOW}"

    def figure(self, *, vmin: float = BLACK, vmax: float = WHITE) -> Figure:
        """Draw the images of `a` that are nearest to `b` above their neighbours, and the distances below.

        Parameters
        ----------
        vmin, vmax : float
            The values shown black and white.
        """
        import matplotlib.pyplot as plt

        a, b = self.names
        columns = min(_PAIRS, len(self.a))
        fig, axes = plt.subplot_mosaic(
            [[f"a{k}" for k in range(columns)], [f"b{k}" for k in range(columns)], ["hist"] * columns],
            figsize=(max(1.8 * columns + 0.6, 6), 7),
            layout="constrained",
        )
        for k, index in enumerate(self.nearest.argsort()[:columns].tolist()):
            neighbour = int(self.nearest_index[index])
            draw(axes[f"a{k}"], self.a[index], f"{a}[{index}]", vmin, vmax)
            draw(
                axes[f"b{k}"],
                self.b[neighbour],
                f"{b}[{neighbour}]\nat {self.nearest[index]:.3f}",
                vmin,
                vmax,
            )
        self._draw_distances(axes["hist"])
        fig.suptitle(
            f"{self.verdict}\nMMD² of images {_in_words(self.raw)}\nof patches {_in_words(self.patches)}",
            fontsize="medium",
            wrap=True,
        )
        return fig

    def _draw_distances(self, axis: Any) -> None:
        a, b = self.names
        distances = [self.nearest.numpy(), self.nearest_within_b.numpy()]
        axis.hist(distances, bins=30, density=True, label=[f"from {a} to {b}", f"within {b}"])
        axis.set_xlabel("distance to the nearest image (RMS)")
        axis.set_yticks([])
        axis.legend()


def _in_words(found: Discrepancy) -> str:
    return f"{found.mmd2:+.5f}  (p = {found.p_value:.3f}; by chance up to {found.by_chance:+.5f})"


def compare_sets(
    a: Any, b: Any, *, names: tuple[str, str] = ("a", "b"), max_images: int = 1000, seed: int = 0
) -> SetComparison:
    """Compare two sets of images, such as samples with the slices that the model was trained on.

    Parameters
    ----------
    a, b : Tensor, array or list of images
        Each (N, C, H, W) with N >= 3, values in [-1, 1] or uint8, or a list of images, PIL's too; `b` is the
        reference (the training set).
    names : (str, str)
        What the report calls them.
    max_images : int
        Larger sets are thinned at random to this many for the discrepancies and MS-SSIM. The search for
        copies looks at all of `b`.
    seed : int
        Of the thinning, the filters, the pairs and the permutations: the same sets give the same numbers.

    Returns
    -------
    SetComparison

    Notes
    -----
    That the sets can be told apart is judged by permutations of the images, which takes each for an independent draw.
    Many slices of one patient in a set are not, and such sets differ although both show the same kind of person: take
    one slice of each, or few. `phantoms` shows one person for 16 images in a row (``phantoms(...)[::17]`` shows each
    once).

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
    distances, indices = measures.two_nearest(a, everything_b)
    within, _ = measures.two_nearest(b, everything_b)
    return SetComparison(
        names=_names(names),
        raw=measures.discrepancy(a.flatten(1), b.flatten(1), generator),
        patches=measures.discrepancy(*measures.patch_features(a, b, generator), generator),
        ms_ssim_a=measures.ms_ssim(a, a, generator),
        ms_ssim_b=measures.ms_ssim(b, b, generator),
        ms_ssim_across=measures.ms_ssim(a, b, generator),
        nearest=distances[:, 0],
        # The nearest of all is the image itself.
        nearest_within_b=within[:, 1],
        nearest_index=indices[:, 0],
        copied=(distances[:, 0] <= _COPY_RATIO * distances[:, 1]).float().mean().item(),
        a=a,
        b=everything_b,
    )


def _names(names: Any) -> tuple[str, str]:
    if not isinstance(names, (tuple, list)) or len(names) != 2 or not all(isinstance(n, str) for n in names):
        raise TypeError(f"names must be two strings, got {names!r}")
    return names[0], names[1]


def _images(name: str, value: Any) -> Tensor:
    images = as_images(value, name).detach().cpu()
    if len(images) < FEWEST or images[0].numel() == 0:
        raise ValueError(f"{name} must be (N, C, H, W) with N >= {FEWEST}, got {tuple(images.shape)}")
    warn_of_values(name, images)
    return checks.finite(name, as_values(images))


def _thin(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    if len(images) <= most:
        return images
    return images[torch.randperm(len(images), generator=generator)[:most].sort().values]
