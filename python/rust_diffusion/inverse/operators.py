"""The operators of the course and of the field, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.inverse.kernels import gaussian_blur, motion_kernel
from rust_diffusion.inverse.operator import Derived, Operator, UnitRange, check_adjoint, grey, shapes_of
from rust_diffusion.support import checks

#: Kernels that are made by rule.
KERNEL_TYPES = ("gaussian", "motion")


class Identity(Operator):
    """K x = x: denoising.

    Parameters
    ----------
    img_shape : (int, int)
        Height and width.
    """

    def __init__(self, img_shape: Any) -> None:
        super().__init__()
        self._hold(_native.LinearOperator.identity(checks.integers("img_shape", img_shape, 1)))


class Blurring(Operator):
    """Correlation with a kernel: y[i, j] = sum of kernel[u, v] x[i + u - k//2, j + v - l//2].

    Parameters
    ----------
    img_shape : (int, int)
        Height and width.
    kernel : Tensor or array, optional
        (k, l). Default: made from the arguments that follow.
    kernel_type : {"gaussian", "motion"}, optional
        Gaussian if not given.
    kernel_size : int
        k = l.
    kernel_variance : float
        Of the Gaussian, exp(-(i^2 + j^2) / (2 variance)), normalised.
    motion_angle : float
        In degrees, see `motion_kernel`.
    boundary : {"zero", "circular", "reflect", "valid"}
        What lies beyond the edges: zeros, the opposite side, the picture mirrored in its outermost pixels; or nothing
        is needed, because y is smaller ("valid").

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.

    Notes
    -----
    Images in [-1, 1] with "zero" stand in a grey frame; `on_unit_range` makes it black.
    """

    def __init__(
        self,
        img_shape: Any,
        kernel: Any = None,
        kernel_type: str | None = None,
        kernel_size: int = 3,
        kernel_variance: float = 1.0,
        motion_angle: float = 0.0,
        boundary: str = "zero",
    ) -> None:
        super().__init__()
        plane = checks.pair("img_shape", img_shape)
        checks.choice("boundary", boundary, _native.BOUNDARIES)
        if kernel is not None:
            self.kernel = self._own("kernel", _kernel(kernel))
        else:
            chosen = checks.choice("kernel_type", kernel_type or KERNEL_TYPES[0], KERNEL_TYPES)
            size = checks.integer("kernel_size", kernel_size, 1)
            if chosen == "motion":
                self.kernel = motion_kernel(size, checks.number("motion_angle", motion_angle))
            else:
                variance = checks.number("kernel_variance", kernel_variance)
                self.kernel = gaussian_blur(size, variance, "kernel_variance")
        self.boundary = boundary
        self._hold(_native.LinearOperator.blurring(self.kernel, boundary, plane))


def _kernel(kernel: Any) -> Tensor:
    """A kernel as (k, l), whatever single dimensions it comes with."""
    kernel = checks.real("kernel", kernel)
    if kernel.ndim < 2 or any(size != 1 for size in kernel.shape[:-2]):
        raise ValueError(f"kernel must have shape (k, l), got {tuple(kernel.shape)}")
    return kernel.reshape(kernel.shape[-2:])


class DownScaling(Operator):
    """Fewer pixels.

    Parameters
    ----------
    img_shape : (int, int)
        Height and width, both multiples of `downscale_factor`.
    downscale_factor : int
        f.
    mode : {"avg", "naive"}
        The mean of f x f pixels, or the first of them.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """

    def __init__(self, img_shape: Any, downscale_factor: int, mode: str = "avg") -> None:
        super().__init__()
        plane = checks.pair("img_shape", img_shape)
        self.downscale_factor = checks.integer("downscale_factor", downscale_factor, 1)
        self.mode = checks.choice("mode", mode, _native.DOWNSCALE_MODES)
        self._hold(_native.LinearOperator.downscaling(plane, self.downscale_factor, mode))


class Inpainting(Operator):
    """Some pixels are known, the others are measured as 0.

    Parameters
    ----------
    img_shape : (int, int)
        Height and width.
    mask : Tensor or array, optional
        1 or True where a pixel is known, (H, W) or (C, H, W).
    keep : float, optional
        Instead of `mask`: the share of pixels that are known, at random.
    seed : int
        For `keep`.
    box : (int, int, int, int), optional
        Instead of `mask`: top, left, height and width of a hole.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit, or no pixel is known.
    """

    def __init__(
        self,
        img_shape: Any,
        mask: Any = None,
        keep: float | None = None,
        seed: int = 0,
        box: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        plane = checks.pair("img_shape", img_shape)
        if sum(given is not None for given in (mask, keep, box)) != 1:
            raise ValueError("give one of mask, keep and box: what is known of the image")
        if mask is not None:
            self.mask = self._own("mask", _mask(mask, plane))
        elif keep is not None:
            self.mask = _random_mask(
                checks.number("keep", keep, 0.0, 1.0),
                plane,
                checks.integer("seed", seed, -(2**63), 2**63 - 1),
            )
        else:
            self.mask = _hole(checks.integers("box", box, 0), plane)
        self._hold(_native.LinearOperator.inpainting(self.mask.float()))


def _mask(mask: Any, plane: tuple[int, int]) -> Tensor:
    mask = checks.real("mask", mask)
    if mask.ndim == 4 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim == 3 and mask.shape[0] == 1:
        mask = mask[0]
    if mask.ndim not in (2, 3) or tuple(mask.shape[-2:]) != plane:
        raise ValueError(
            f"mask must have shape {plane} or (C, {plane[0]}, {plane[1]}), got {tuple(mask.shape)}"
        )
    return mask


def _random_mask(keep: float, plane: tuple[int, int], seed: int) -> Tensor:
    """Exactly the share `keep` of the pixels."""
    count = plane[0] * plane[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(count)
    mask[order[: round(keep * count)]] = 1.0
    return mask.view(plane)


def _hole(box: list[int], plane: tuple[int, int]) -> Tensor:
    if len(box) != 4:
        raise ValueError(f"box must be (top, left, height, width), got {box}")
    top, left, height, width = box
    if top + height > plane[0] or left + width > plane[1]:
        raise ValueError(f"box must lie within the image {plane}, got {box}")
    mask = torch.ones(plane)
    mask[top : top + height, left : left + width] = 0.0
    return mask


class Gradient(Operator):
    """Forward differences, 0 in the last row or column: (N, 1, H, W) -> (N, 2, H, W), along rows in channel 0.

    Parameters
    ----------
    img_shape : (int, int)
        Height and width.
    """

    def __init__(self, img_shape: Any) -> None:
        super().__init__()
        self._hold(_native.LinearOperator.gradient(checks.pair("img_shape", img_shape)))


class MatrixOperator(Operator):
    """y = A x, for the pixels of x in reading order.

    Parameters
    ----------
    A : Tensor or array
        (m, n).
    img_shape : sequence of int, optional
        (H, W) with H W = n, or (C, H, W) with C H W = n. Default: a square if n is one, else (1, n).
    out_shape : sequence of int, optional
        As `img_shape`, for m. Default: that of the images if m = n, else (1, m).

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """

    def __init__(self, A: Any, img_shape: Any = None, out_shape: Any = None) -> None:
        super().__init__()
        A = checks.real("A", A)
        if A.ndim != 2:
            raise ValueError(f"A must have shape (m, n), got {tuple(A.shape)}")
        self.A = self._own("A", A)
        m, n = A.shape
        side = round(n**0.5)
        default = (side, side) if side * side == n else (1, n)
        image = checks.integers("img_shape", default if img_shape is None else img_shape, 1)
        if out_shape is None:
            out_shape = image if m == n else [*([1] if len(image) == 3 else []), 1, m]
        self._hold(_native.LinearOperator.matrix(self.A, image, checks.integers("out_shape", out_shape, 1)))


class FunctionOperator(Operator):
    """An operator given as a linear function of batches.

    Parameters
    ----------
    forward : callable
        (N, C, H, W) -> (N, C, mx, my), linear.
    adjoint : callable, optional
        The way back. Default: by autograd through `forward`.
    img_shape : sequence of int
        (H, W), or (C, H, W) where the number of channels matters.

    Raises
    ------
    ValueError
        If `adjoint` is none: it is tried once, and refused if `adjoint_error` is above 1e-3.
    TypeError
        If a function cannot be called.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor] | None = None,
        img_shape: Any = None,
    ) -> None:
        super().__init__()
        if img_shape is None:
            raise TypeError("FunctionOperator needs img_shape, (H, W) or (C, H, W)")
        for name, function in (("forward", forward), ("adjoint", adjoint or forward)):
            if not callable(function):
                raise TypeError(f"{name} must be callable, got {type(function).__name__}")
        image = list(checks.pair("img_shape", img_shape)) if _is_plane(img_shape) else _volume(img_shape)
        image, out = shapes_of(image, forward, "forward must give (N, C, H, W) for N images")
        back = adjoint if adjoint is not None else _by_autograd(forward, image)
        self._hold(_native.LinearOperator.callback(forward, back, image, out))
        check_adjoint(
            self, "adjoint is not the adjoint of forward" if adjoint is not None else "forward is not linear"
        )


def _is_plane(img_shape: Any) -> bool:
    return isinstance(img_shape, int) or len(img_shape) == 2


def _volume(img_shape: Any) -> list[int]:
    return checks.integers("img_shape", img_shape, 1)


def _by_autograd(forward: Callable[[Tensor], Tensor], image: list[int]) -> Callable[[Tensor], Tensor]:
    """The adjoint of a linear function: its vector-Jacobian product, the same everywhere."""

    def adjoint(y: Tensor) -> Tensor:
        channels = [y.shape[1]] if len(image) == 2 else []
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.zeros(len(y), *channels, *image, dtype=y.dtype, device=y.device, requires_grad=True)
            made = forward(x)
            if not made.requires_grad:
                raise TypeError(
                    "forward must consist of operations that torch's autograd follows; for one that does not, give "
                    "adjoint= too"
                )
            (gradient,) = torch.autograd.grad(made, x, y.detach().clone())
        return gradient

    return adjoint


class Stack(Derived):
    """Several measurements of one image, one below the other.

    As rows where all are equally wide (scans at more angles), as one row of numbers otherwise.

    Parameters
    ----------
    operators : sequence of Operator
        At least one, all for images of the same size.

    Raises
    ------
    ValueError, TypeError
        If they do not fit, or only some are `on_unit_range`.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        parts = list(operators)
        for i, part in enumerate(parts):
            if not isinstance(part, Operator):
                raise TypeError(f"operators[{i}] must be an Operator, got {type(part).__name__}")
        affine = [part for part in parts if isinstance(part, UnitRange)]
        if len(affine) < len(parts) and any(part._shift is not None for part in parts):
            raise ValueError(
                "operators must be for images of one range, got some that are on_unit_range() and some that are not: "
                "stack them as they are, then take on_unit_range() of the Stack"
            )
        core = _native.LinearOperator.stack([part._core for part in parts])
        if not affine:
            super().__init__(core)
            return
        whole = Stack([part._of for part in affine])
        super().__init__(core, lambda like: whole(grey(self, like)))
