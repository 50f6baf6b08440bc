"""`rust-diffusion evaluate`: drawn images beside those that the denoiser was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rust_diffusion.cli import outputs
from rust_diffusion.cli.inputs import (
    VALUES,
    about_images,
    about_weights,
    load_model,
    read_images,
    read_values,
)
from rust_diffusion.cli.main import command
from rust_diffusion.cli.options import DEVICE, PATH, flag_of, given
from rust_diffusion.cli.sample import DRAWING, about_drawing, draw
from rust_diffusion.model.card import COURSE_SIZE
from rust_diffusion.view.compare import FEWEST, compare_sets


@command("""
    rust-diffusion evaluate --weights weights --data slices/ --num-samples 64 --seed 0 --out report.png
    rust-diffusion evaluate --samples drawn/ --data slices/ --size 64
""")
@click.option(
    "--data", required=True, help="What it was trained on: a folder, a glob in quotes, phantoms[:N[:SEED]]."
)
@click.option("--weights", type=PATH, help="Draw the images to judge with these.")
@click.option(
    "--samples",
    help="Or take images that are there: a folder, a glob in quotes, phantoms[:N[:SEED]], a .npy or .pt file.",
)
@click.option("--out", type=PATH, help="Also draw the report, nearest training images included, as a .png.")
@click.option("--num-samples", type=int, default=64, show_default=True, help="How many to draw.")
@about_drawing
@about_images
@about_weights
@DEVICE
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    data: str,
    weights: Path | None,
    samples: str | None,
    out: Path | None,
    size: tuple[int, int] | None,
    **_: Any,
) -> None:
    """Compare drawn images with the training data: how alike, how varied, whether copies."""
    _check_usage(context, weights, samples, out)
    if samples is None:
        images = draw(context, load_model(context))
    elif Path(samples).suffix in VALUES:
        images = read_values("--samples", Path(samples))
        if size is not None and tuple(images.shape[-2:]) != size:
            height, width = images.shape[-2:]
            raise click.BadParameter(
                f"{size[0]} x {size[1]} is not the size of the images in {samples}, {height} x {width}, which are "
                f"judged as they are: leave it out, and --data is read at their size",
                param_hint="--size",
            )
    else:
        images = read_images(context, "--samples", samples, size or (COURSE_SIZE, COURSE_SIZE))
    training = read_images(context, "--data", data, (images.shape[-2], images.shape[-1]))
    for option, compared in (("--samples", images), ("--data", training)):
        if len(compared) < FEWEST:
            raise click.BadParameter(
                f"{FEWEST} images at least can be compared, got {len(compared)}", param_hint=option
            )
    comparison = compare_sets(images, training, names=("samples", "training images"))
    click.echo(str(comparison))
    if out is not None:
        outputs.write_figure(out, comparison.figure())
        click.echo(f"Wrote {out}")


def _check_usage(context: click.Context, weights: Path | None, samples: str | None, out: Path | None) -> None:
    """Refuse options that contradict each other, before any work."""
    if (weights is None) == (samples is None):
        raise click.UsageError("give either --weights or --samples")
    if samples is None and context.params["num_samples"] < FEWEST:
        raise click.BadParameter(f"{FEWEST} images at least can be compared", param_hint="--num-samples")
    if samples is not None and (unused := given(context, DRAWING)):
        raise click.UsageError(
            f"{', '.join(map(flag_of, unused))}: only with --weights; --samples are drawn already"
        )
    if out is not None:
        if out.suffix != ".png":
            raise click.BadParameter(f"must end in .png, got {out}", param_hint="--out")
        outputs.check_target(out)
