"""What `reconstruct` starts from: measurements as they are, or made from clean images."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from PIL import Image
from torch import Tensor

from rust_diffusion.cli.inputs import VALUES, read_images, read_values
from rust_diffusion.cli.options import option_of, together
from rust_diffusion.cli.restoring.imaging import known_of, read_array
from rust_diffusion.data.files import list_files
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.inverse.posterior import posterior
from rust_diffusion.support import checks
from rust_diffusion.support.images import as_values
from rust_diffusion.support.values import check_values

#: Share of the measurement's norm that simulated noise has, if nothing is said.
NOISE_LEVEL = 0.01
#: Measurements' noise has streams of its own: with those of the samplers it would be their starting noise again.
_STREAM = 2**40

about_measurement = together(
    click.option(
        "--input",
        "data",
        required=True,
        help="What was measured: a .npy file, or pictures (a file, a folder, a glob in quotes) where the operator "
        "makes pictures. With --simulate clean images: also phantoms[:N[:SEED]].",
    ),
    click.option("--simulate", is_flag=True, help="Make the measurement: --input is clean images."),
    click.option(
        *("--sigma", "--sigma-y", "sigma"),
        type=float,
        help="Standard deviation of the measurements' noise, in their own units (of images in [-1, 1]).",
    ),
    click.option(
        "--noise-level",
        type=float,
        help=f"With --simulate, instead: the noise as a share of the measurement.  [default: {NOISE_LEVEL}]",
    ),
    option_of(posterior, "seed", "Of the simulated noise and of all draws."),
)


@dataclass(frozen=True)
class Measurements:
    """What is to be reconstructed."""

    #: (N, C, mx, my).
    y: Tensor
    #: Standard deviation of the noise, (N,), float64; None if nobody knows.
    sigma: Tensor | None
    #: The clean images, (N, C, H, W) in [-1, 1], if they are known.
    truth: Tensor | None
    names: list[str]

    @property
    def noisy(self) -> bool:
        """Whether there is noise, and it is known how much."""
        return self.sigma is not None and bool((self.sigma > 0).all())


def read_measurements(context: click.Context, operator: Operator, channels: int) -> Measurements:
    """Read or make what the options ask for."""
    options = context.params
    sigma, level = options["sigma"], options["noise_level"]
    if sigma is not None:
        checks.number("--sigma", sigma, 0.0)
    if options["simulate"]:
        if sigma is not None and level is not None:
            raise click.UsageError("give either --sigma or --noise-level")
        level = NOISE_LEVEL if level is None else checks.number("--noise-level", level, 0.0)
        clean, names = _clean_images(context, operator, channels)
        return _simulated(operator, clean, names, sigma, level, options["seed"])
    if level is not None:
        raise click.UsageError(
            "--noise-level: only with --simulate; say --sigma, what the noise of the input is"
        )
    y, names = _as_measured(context, operator, channels)
    return Measurements(y, None if sigma is None else torch.full((len(y),), sigma).double(), None, names)


def _clean_images(context: click.Context, operator: Operator, channels: int) -> tuple[Tensor, list[str]]:
    data, shape = context.params["data"], (operator.nx, operator.ny)
    if Path(data).suffix not in VALUES:
        images = read_images(context, "--input", data, shape, channels=channels)
        return images, _names(data, len(images))
    images = read_values("--input", Path(data)).float()
    if tuple(images.shape[1:]) != (channels, *shape):
        raise ValueError(
            f"--input {data}: images must be {(channels, *shape)}, got {tuple(images.shape[1:])}"
        )
    check_values(f"--input {data}", images)
    return images, _numbered(len(images))


def _simulated(
    operator: Operator, clean: Tensor, names: list[str], sigma: float | None, level: float, seed: int
) -> Measurements:
    """K x and noise, each image with a stream of its own; nothing is added where nothing is measured."""
    y = operator(clean)
    known = known_of(operator, y)
    if sigma is None:
        power = (y * known).double().flatten(1).square().sum(1) / known.double().flatten(1).sum(1)
        sigmas = level * power.sqrt()
    else:
        sigmas = torch.full((len(y),), sigma, dtype=torch.float64)
    seed = checks.integer("--seed", seed, -(2**63), 2**63 - 1 - _STREAM - len(y))
    streams = (torch.Generator().manual_seed(_STREAM + seed + k) for k in range(len(y)))
    noise = torch.stack([torch.randn(y.shape[1:], generator=stream) for stream in streams])
    return Measurements(y + sigmas.float().view(-1, 1, 1, 1) * noise * known, sigmas, clean, names)


def _as_measured(context: click.Context, operator: Operator, channels: int) -> tuple[Tensor, list[str]]:
    """Measurements that are given; nothing is resized."""
    data = context.params["data"]
    if Path(data).suffix == ".npy":
        y = _values(context, read_array("--input", Path(data)))
        y = y[None, None] if y.ndim == 2 else y[:, None] if y.ndim == 3 else y
        names = _numbered(len(y))
    else:
        y, names = _pictures(context, operator, channels)
    wanted = (channels, operator.mx, operator.my)
    if y.ndim != 4 or tuple(y.shape[1:]) != wanted or not len(y):
        raise ValueError(
            f"--input {data} must hold measurements of the operator, {wanted} each, got {tuple(y.shape)}"
        )
    checks.finite(f"--input {data}", y)
    if context.params["operator"] != "ct" and not context.params["unit_range"]:
        check_values(f"--input {data}", y)
    return y, names


def _pictures(context: click.Context, operator: Operator, channels: int) -> tuple[Tensor, list[str]]:
    data, shape = context.params["data"], (operator.mx, operator.my)
    if context.params["operator"] == "ct":
        raise click.UsageError(
            f"--input {data}: a sinogram is a .npy file, {shape} for these angles; of clean images --simulate makes it"
        )
    for file in _files(data):
        size = _size_of(file)
        if size not in (None, shape):
            raise ValueError(
                f"--input {file} has {size[0]} x {size[1]} pixels: measurements are taken as they are, here "
                f"{shape[0]} x {shape[1]}. Clean images are fitted to the model, with --simulate"
            )
    images = read_images(context, "--input", data, shape, channels=channels)
    return _pictured(context, images), _names(data, len(images))


def _values(context: click.Context, numbers: Tensor) -> Tensor:
    """Measurements as float32: as they are, but for grey levels of pictures."""
    if numbers.dtype == torch.uint8 and context.params["operator"] != "ct":
        return _pictured(context, as_values(numbers))
    return numbers.float()


def _pictured(context: click.Context, images: Tensor) -> Tensor:
    """Pictures, read between -1 and 1, in the range that measurements are in."""
    return (images + 1) / 2 if context.params["unit_range"] else images


def _size_of(file: Path) -> tuple[int, int] | None:
    """Height and width, of what Pillow can open."""
    try:
        with Image.open(file) as picture:
            return picture.height, picture.width
    except OSError:
        return None


def _files(data: str) -> list[Path]:
    try:
        return list_files(data)
    except (OSError, ValueError) as error:
        raise type(error)(f"--input {data}: {error}") from error


def _names(data: str, count: int) -> list[str]:
    """The files' names, where each made an image."""
    with contextlib.suppress(OSError, ValueError):
        files = list_files(data)
        if len(files) == count:
            return [Path(file).name for file in files]
    return _numbered(count)


def _numbered(count: int) -> list[str]:
    return [str(k) for k in range(count)]
