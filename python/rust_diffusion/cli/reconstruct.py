"""`rust-diffusion reconstruct`: images from measurements, with a trained denoiser for a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rust_diffusion.cli import outputs
from rust_diffusion.cli.inputs import about_files, about_weights, load_model
from rust_diffusion.cli.main import command
from rust_diffusion.cli.options import DEVICE, PATH, Sides
from rust_diffusion.cli.restoring.baselines import by_back_projection, by_total_variation, weighs
from rust_diffusion.cli.restoring.drawing import write_arrays, write_pictures
from rust_diffusion.cli.restoring.imaging import about_operator, operator_of
from rust_diffusion.cli.restoring.measurements import Measurements, about_measurement, read_measurements
from rust_diffusion.cli.restoring.methods import BASELINES, Reconstruction, about_methods, drawn
from rust_diffusion.cli.restoring.report import Row, rows_of, table_of, write_results
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.model.card import COURSE_SIZE
from rust_diffusion.model.network import Network

#: A chi^2 that no method comes to from noise and guessing alone.
FAR = 25.0


@command("""
    rust-diffusion reconstruct --weights weights --operator blur --kernel motion --kernel-size 9 \\
        --input slice.png --simulate --out restored
    rust-diffusion reconstruct --weights weights --operator ct --angles 20 --input slices/ --simulate --out ct
    rust-diffusion reconstruct --weights weights --operator ct --angles 60 --angle-range 120 --input sinogram.npy \\
        --sigma 0.4 --unit-range --out limited
    rust-diffusion reconstruct --method tv --operator inpaint --mask known.png --input holes.png --sigma 0.05 \\
        --size 64 --out filled
""")
@click.option("--weights", type=PATH, help="The prior, as sample takes it. tv and fbp need none.")
@about_operator
@about_measurement
@click.option("--out", required=True, type=PATH, help="Folder for pictures, arrays and the table.")
@about_methods
@click.option("--keep-samples", is_flag=True, help="Also write every draw, samples.npy.")
@about_files
@click.option(
    "--size",
    type=Sides(),
    help="Height and width, 48,64, or a side, without weights.  [default: what the denoiser was trained on]",
)
@about_weights
@DEVICE
@click.pass_context
def reconstruct(context: click.Context, /, weights: Path | None, out: Path, method: str, **_: Any) -> None:
    """Reconstruct images from measurements, and say how sure it is.

    Everything is in units of images between -1 and 1. --out gets the mean and the standard deviation of the draws, all
    beside each other (beside.png), and a table with PSNR and SSIM (where the truth is known), chi^2 = |K x - y|^2 /
    (m sigma^2), which is about 1 where a measurement is explained, the share of pixels that lie between the 5 % and the
    95 % quantile of the draws beside what it should be (nominal: 0.9, of fewer than 19 draws less), predictions of the
    network (calls; dps, pigdm and mmps go back through it besides, mmps several times) and seconds; with total
    variation, and for ct filtered back projection, to compare. results.json holds the same with all settings.
    """
    model = _prior(context)
    shape = _shape(context, model)
    if method == "fbp" and context.params["operator"] != "ct":
        raise click.UsageError("--method fbp is for --operator ct")
    operator = operator_of(context, shape)
    measured = read_measurements(context, operator, 1 if model is None else model.in_channels)
    outputs.check_folder(out)
    found = _reconstructions(context, model, operator, measured)
    rows = [row for one in found for row in rows_of(one, operator, measured)]
    click.echo(table_of(rows))
    out.mkdir(exist_ok=True)
    write_arrays(out, measured, found)
    write_pictures(out, measured, found, context.params["unit_range"])
    write_results(out, rows, _settings(context, measured))
    click.echo(f"Wrote {out}/ (beside.png shows it)")
    _tell_of_misfit(method, rows)


def _tell_of_misfit(method: str, rows: list[Row]) -> None:
    """Say it where the images are far from explaining what was measured: the units are wrong, as a rule."""
    chi2 = [row["chi2"] for row in rows if row["method"].startswith(method) and row["chi2"] is not None]
    if chi2 and max(chi2) > FAR:
        click.echo(
            f"chi^2 of {method} is up to {max(chi2):.3g}; about 1 would explain the measurement. Was it made by this "
            "operator, is --sigma its noise, and is it of images in [-1, 1]? For images in [0, 1] take --unit-range.",
            err=True,
        )


def _prior(context: click.Context) -> Network | None:
    """Load the network, where the method needs one."""
    if context.params["weights"] is not None:
        return load_model(context)
    if context.params["method"] not in BASELINES:
        raise click.UsageError(f"--method {context.params['method']} needs --weights")
    return None


def _shape(context: click.Context, model: Network | None) -> tuple[int, int]:
    """Height and width of the images."""
    size = context.params["size"]
    if model is None or model.image_size is None:
        chosen: tuple[int, int] = size or (COURSE_SIZE, COURSE_SIZE)
        return chosen
    height, width = model.image_size
    if size is not None and size != (height, width):
        raise click.UsageError(f"--size: the denoiser was trained on {height} x {width}")
    return height, width


def _reconstructions(
    context: click.Context, model: Network | None, operator: Operator, measured: Measurements
) -> list[Reconstruction]:
    """Run what was asked for first, then what it is compared with."""
    method, found = context.params["method"], []
    if method not in BASELINES:
        assert model is not None
        found.append(drawn(context, model, operator, measured))
    if method == "fbp" or context.params["operator"] == "ct":
        found.append(by_back_projection(operator, measured))
    if method == "tv" or (method != "fbp" and weighs(context, measured)):
        found.append(by_total_variation(context, operator, measured))
    return sorted(found, key=lambda one: one.name != method)


def _settings(context: click.Context, measured: Measurements) -> dict[str, Any]:
    """What the images were made by, for the record: the options, the usual ones too, and each measurement's noise."""
    known = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in context.params.items()
        if value is not None
    }
    if "held_out" in known:
        del known["r2"]  # the usual one, which what was measured takes the place of
    return known if measured.sigma is None else {**known, "sigma": measured.sigma.tolist()}
