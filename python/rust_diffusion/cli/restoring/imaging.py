"""What measured the images: the operators by name, with their options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.cli.options import PATH, NumberList, default_of, flag_of, given, option_of, together
from rust_diffusion.inverse.ct import CTProjector
from rust_diffusion.inverse.operator import Operator, UnitRange
from rust_diffusion.inverse.operators import KERNEL_TYPES, Blurring, DownScaling, Inpainting

#: What says nothing beside `--kernel-file`, and what nothing of parallel rays.
OF_A_NAMED_KERNEL = ("kernel_type", "kernel_size", "kernel_variance", "motion_angle")
OF_A_FAN = ("source_origin", "origin_det")
#: Every operator, with the options that are its own.
OPTIONS = {
    "blur": (*OF_A_NAMED_KERNEL, "kernel_file", "boundary"),
    "ct": ("angles", "angle_range", "det_size", "geometry", *OF_A_FAN),
    "inpaint": ("keep", "mask_seed", "box", "mask"),
    "downscale": ("factor", "downscale_mode"),
}
#: What `--angles` are spread over where nothing else is said: half a turn, in degrees.
HALF_TURN = (0.0, 180.0)
#: Projections, if the user names no number.
ANGLES = 60

about_operator = together(
    click.option(
        "--operator", required=True, type=click.Choice(list(OPTIONS)), help="What measured the images."
    ),
    click.option(
        *("--kernel-type", "--kernel", "kernel_type"),
        type=click.Choice(KERNEL_TYPES),
        default=KERNEL_TYPES[0],
        show_default=True,
        help="blur: its kernel.",
    ),
    option_of(Blurring, "kernel_size", "blur: height and width of the kernel."),
    option_of(Blurring, "kernel_variance", "blur: variance of the Gaussian, in pixels squared."),
    option_of(Blurring, "motion_angle", "blur: direction of the motion, in degrees."),
    click.option("--kernel-file", type=PATH, help="blur: any kernel, a .npy file, (k, l)."),
    option_of(Blurring, "boundary", "blur: what lies beyond the edges.", choices=_native.BOUNDARIES),
    click.option("--angles", type=int, default=ANGLES, show_default=True, help="ct: how many projections."),
    click.option(
        "--angle-range",
        type=NumberList(float),
        default=",".join(f"{end:g}" for end in HALF_TURN),
        show_default=True,
        help="ct: what the angles are spread over, in degrees; the end is left out. 120 is 0,120.",
    ),
    option_of(
        CTProjector, "det_size", "ct: bins of the detector.  [default: the image's diagonal]", type=int
    ),
    option_of(CTProjector, "geometry", "ct: parallel rays, or a fan.", choices=_native.CT_GEOMETRIES),
    option_of(CTProjector, "source_origin", "ct: from the source of a fan to the centre, in pixels."),
    option_of(CTProjector, "origin_det", "ct: from the centre to the detector of a fan, in pixels."),
    click.option("--keep", type=float, help="inpaint: the share of pixels that are known, at random."),
    click.option(
        "--mask-seed",
        type=int,
        default=default_of(Inpainting, "seed"),
        show_default=True,
        help="inpaint: seed of --keep.",
    ),
    click.option(
        "--box", type=NumberList(int), help="inpaint: a hole instead, as top,left,height,width in pixels."
    ),
    click.option(
        "--mask", type=PATH, help="inpaint: or a picture, white where pixels are known; or a .npy file."
    ),
    click.option("--factor", type=int, default=4, show_default=True, help="downscale: by how much."),
    click.option(
        "--downscale-mode",
        type=click.Choice(_native.DOWNSCALE_MODES),
        default=default_of(DownScaling, "mode"),
        show_default=True,
        help="downscale: the mean of the pixels, or the first of them.",
    ),
    click.option(
        "--unit-range/--no-unit-range",
        default=False,
        help="Measurements are of images in [0, 1], not [-1, 1]: sinograms of a scanner are.",
    ),
)


def operator_of(context: click.Context, shape: tuple[int, int]) -> Operator:
    """Make the operator that the options name, for images of `shape`."""
    name, options = context.params["operator"], context.params
    for other, own in OPTIONS.items():
        if other != name:
            _refuse(context, own, f"only for --operator {other}, not {name}")
    if options["kernel_file"] is not None:
        _refuse(context, OF_A_NAMED_KERNEL, "not beside --kernel-file, which holds the kernel")
    if options["geometry"] == "parallel":
        _refuse(context, OF_A_FAN, "only for --geometry fanflat")
    operator = _MAKERS[name](options, shape)
    return operator.on_unit_range() if options["unit_range"] else operator


def _refuse(context: click.Context, names: tuple[str, ...], why: str) -> None:
    """Say which of some options were written for nothing."""
    if wrong := given(context, names):
        raise click.UsageError(f"{', '.join(map(flag_of, wrong))}: {why}")


def _blur(options: dict[str, Any], shape: tuple[int, int]) -> Operator:
    names = (*OF_A_NAMED_KERNEL, "boundary")
    path = options["kernel_file"]
    kernel = None if path is None else read_array("--kernel-file", path)
    return Blurring(shape, kernel, **{name: options[name] for name in names})


def _ct(options: dict[str, Any], shape: tuple[int, int]) -> Operator:
    ends = options["angle_range"]
    if len(ends) not in (1, 2):
        raise click.BadParameter(f"must be the end, or start,end, got {ends}", param_hint="--angle-range")
    start, end = ends if len(ends) == 2 else (0.0, ends[0])
    if options["angles"] < 1:
        raise click.BadParameter(f"must be at least 1, got {options['angles']}", param_hint="--angles")
    angles = np.radians(np.linspace(start, end, options["angles"], endpoint=False))
    names = ("det_size", "geometry", *OF_A_FAN)
    return CTProjector(shape, angles, **{name: options[name] for name in names})


def _inpaint(options: dict[str, Any], shape: tuple[int, int]) -> Operator:
    path = options["mask"]
    mask = None if path is None else _read_mask(path)
    if sum(options[name] is not None for name in ("mask", "keep", "box")) != 1:
        raise click.UsageError(
            "--operator inpaint needs one of --keep, --box and --mask: what is known of the image"
        )
    return Inpainting(shape, mask, options["keep"], options["mask_seed"], options["box"])


def _downscale(options: dict[str, Any], shape: tuple[int, int]) -> Operator:
    return DownScaling(shape, options["factor"], options["downscale_mode"])


_MAKERS = {"blur": _blur, "ct": _ct, "inpaint": _inpaint, "downscale": _downscale}


def _read_mask(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return read_array("--mask", path)
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.asarray(picture.convert("L")) > 127)
    except FileNotFoundError:
        raise FileNotFoundError(f"--mask {path}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"--mask {path} cannot be read: {error}") from error


def read_array(option: str, path: Path) -> Tensor:
    """Read numbers from a .npy file, as they are."""
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise FileNotFoundError(f"{option} {path}: there is no such file") from None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{option} {path} cannot be read: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise ValueError(
            f"{option} {path} must hold one array of real numbers, got {getattr(values, 'dtype', 'several')}"
        )
    return torch.from_numpy(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("=")))


def known_of(operator: Operator, y: Tensor) -> Tensor:
    """Give 1 where a measurement of the shape of `y` tells something, 0 where nothing is measured."""
    inner = operator._of if isinstance(operator, UnitRange) else operator
    return inner.mask.to(y).expand_as(y) if isinstance(inner, Inpainting) else torch.ones_like(y)
