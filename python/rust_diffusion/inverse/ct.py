"""Computed tomography: sinograms of images, and images from sinograms."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.support import checks

#: Steps between angles that differ by more are uneven.
UNEVEN = 1.5
#: A fan's angles over less than this share of a turn are no whole turn.
UNSEEN = 0.95
#: In the name of what the course's library takes to choose its projector, which there is one of here.
IGNORED = ("astra", "backend", "cuda", "device", "gpu", "projector")


class CTProjector(Operator):
    """Line integrals of images along the rays of a CT scanner, by Joseph's method (Joseph 1982); ASTRA's ``linear``.

    Pixels and the detector's bins are one wide. With parallel rays a point x to the right of the image's centre and y
    above it falls on bin x cos(angle) + y sin(angle) + (det_size - 1) / 2. ``T`` is the exact transpose.

    Parameters
    ----------
    img_shape : (int, int)
        Height and width.
    angles : sequence of float, Tensor or array
        (n_angles,), in radians, ascending.
    det_size : int, optional
        Bins of the detector. Default: the image's diagonal, rounded up to an even number, 92 for 64 x 64; all that
        parallel rays need. A fan throws a shadow larger by (source_origin + origin_det) / source_origin.
    geometry : {"parallel", "fanflat"}
        Parallel rays, or rays from one source to a flat detector.
    source_origin, origin_det : float
        From the centre of rotation to the source and to the detector, in pixels; of "fanflat".
    **ignored : Any
        Arguments of the course's library that choose between ASTRA's projectors or a GPU are taken and not used.

    Attributes
    ----------
    angles : Tensor
        Float64, (n_angles,).
    n_angles, det_size : int
    geometry : str

    Raises
    ------
    ValueError
        If angles are not finite, not ascending, or seem to be degrees; if a size is below 1; if the source stands
        within the image.
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from rust_diffusion import operators
    >>> K = operators.CTProjector((64, 64), np.linspace(0, np.pi, 60, endpoint=False))
    >>> K(torch.ones(1, 1, 64, 64)).shape
    torch.Size([1, 1, 60, 92])
    """

    def __init__(
        self,
        img_shape: Any,
        angles: Any,
        det_size: int | None = None,
        geometry: str = "parallel",
        source_origin: float = 1800.0,
        origin_det: float = 500.0,
        **ignored: Any,
    ) -> None:
        super().__init__()
        for name in ignored:
            if not any(word in name.lower() for word in IGNORED):
                raise TypeError(f"CTProjector() got an unexpected keyword argument {name!r}")
        plane = checks.pair("img_shape", img_shape)
        if det_size is None:
            det_size = 2 * math.ceil(math.hypot(*plane) / 2)
        self.det_size = checks.integer("det_size", det_size, 1)
        self.geometry = checks.choice("geometry", geometry, _native.CT_GEOMETRIES)
        self.source_origin = checks.number("source_origin", source_origin)
        self.origin_det = checks.number("origin_det", origin_det)
        self.angles = self._own("angles", _angles(angles))
        self.n_angles = len(self.angles)
        self._projector = _native.CtProjector(
            list(plane), self.angles.tolist(), self.det_size, geometry, self.source_origin, self.origin_det
        )
        self._hold(self._projector.operator())

    def FBP(self, y: Any, filter: str = "ram-lak", *, background: float = 0.0) -> Tensor:
        """Filtered back projection (Kak and Slaney 1988, chapter 3), linear between bins.

        Parameters
        ----------
        y : Tensor or array
            Sinograms, (N, C, n_angles, det_size), float32 or float64, at angles spread evenly over half a turn or whole
            turns; of a fan over whole turns. Over less, what is not seen is missing in the image. It warns where angles
            are uneven, and of a fan over less than a turn: `tv_reconstruct` takes both.
        filter : {"ram-lak", "shepp-logan", "cosine", "hamming", "hann"}
            What damps the ramp's high frequencies: nothing, or more and more.
        background : float
            What images have at their edges. -1 for images in [-1, 1] that are dark there: the step from there to the
            nothing around the image, which few angles cannot resolve, is then not there.

        Returns
        -------
        Tensor
            (N, C, H, W), of the dtype and device of `y`, not clamped; autograd sees the operation.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        """
        y = checks.tensor("y", y)
        checks.choice("filter", filter, _native.FBP_FILTERS)
        background = checks.number("background", background, -1e30, 1e30)
        self._warn_of_angles()
        if background == 0.0:
            return self._projector.fbp(y, filter)
        frame = self(torch.full((1, 1, self.nx, self.ny), background, dtype=y.dtype, device=y.device))
        return self._projector.fbp(y - frame, filter) + background

    def _warn_of_angles(self) -> None:
        """Say where filtered back projection, which weighs every angle alike, has no ground to."""
        if self.n_angles < 3:
            return
        steps = self.angles.diff()
        if float(steps.max()) > UNEVEN * float(steps.min()):
            warnings.warn(
                f"FBP weighs every angle alike, and the steps between angles go from {float(steps.min()):.3g} to "
                f"{float(steps.max()):.3g}: its image is poor; tv_reconstruct weighs them by what they measure",
                stacklevel=3,
            )
        elif self.geometry != "parallel" and float(steps.mean()) * self.n_angles < UNSEEN * 2 * math.pi:
            warnings.warn(
                "FBP of a fan needs angles over a whole turn; over less it counts some lines once and others twice, "
                "and its image is poor; tv_reconstruct needs no whole turn",
                stacklevel=3,
            )


def _angles(values: Any) -> Tensor:
    """Angles as float64, (n,); what they must be like is the engine's to say."""
    angles = checks.tensor("angles", values, torch.float64).detach().cpu()
    if angles.ndim != 1:
        raise ValueError(f"angles must have shape (n_angles,), got {tuple(angles.shape)}")
    return angles
