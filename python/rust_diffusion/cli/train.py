"""`rust-diffusion train`: a run of training on a folder of slices."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch

from rust_diffusion.cli.inputs import SCHEDULE_NAMES, about_images, read_images
from rust_diffusion.cli.main import command, in_options, on_terminal
from rust_diffusion.cli.options import (
    DEVICE,
    PATH,
    Decorator,
    Sides,
    arguments_of,
    given,
    option_of,
    together,
)
from rust_diffusion.cli.outputs import epoch_lines
from rust_diffusion.model.card import COURSE_SIZE, OBJECTIVES
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.training.plan import RECIPES, Recipe, recipe
from rust_diffusion.training.result import TrainResult
from rust_diffusion.training.settings import LR_SCHEDULES, PRECISIONS, TIME_SAMPLINGS
from rust_diffusion.training.train import train as train_model
from rust_diffusion.training.watch.bar import messages

#: What the recipe sets, shown in the place of Python's default.
_FROM_RECIPE = {*recipe().network, *recipe().training, "epochs"}


def _setting(function: Any, name: str, help: str, **about: Any) -> Decorator:
    """Declare an option that changes the recipe."""
    return option_of(function, name, help, instead="the recipe's" if name in _FROM_RECIPE else "", **about)


_about_network = together(
    _setting(DiffusionUNet, "base_ch", "Width of the first level."),
    _setting(DiffusionUNet, "channel_mults", "Width of each level, in widths of the first."),
    _setting(DiffusionUNet, "time_dim", "Length of the time embedding."),
    _setting(DiffusionUNet, "dropout", "Probability of dropping an activation."),
    _setting(DiffusionUNet, "attn_levels", "Levels with self-attention, from 0."),
    _setting(DiffusionUNet, "num_heads", "Heads of the attention."),
)

_about_run = together(
    _setting(train_model, "epochs", "The target: a resumed run does what is left of it. Instead of minutes."),
    _setting(train_model, "minutes", "As many updates as fit into this time. Instead of epochs.", type=float),
    _setting(train_model, "batch_size", "Images at a time."),
    _setting(train_model, "learning_rate", "At the beginning."),
    _setting(train_model, "weight_decay", "Of AdamW."),
    _setting(train_model, "ema_decay", "Of the averaged weights, between 0 and 1."),
    _setting(train_model, "grad_clip", "Largest norm of the gradient; inf leaves it as it is."),
    _setting(
        train_model,
        "precision",
        "What convolutions and matrix products are computed in; auto is fp32 on the CPU, bf16 or fp16 on a GPU.",
        choices=PRECISIONS,
    ),
    _setting(train_model, "seed", "Of the initial weights and of the whole run.", type=int),
    _setting(train_model, "name", "First part of the files' names."),
    _setting(train_model, "force_restart", "Ignore, and replace, files that are there."),
    _setting(train_model, "lr_schedule", "How the learning rate goes on.", choices=LR_SCHEDULES),
    _setting(train_model, "warmup_steps", "Updates over which warmup_cosine and smooth_cosine rise."),
    _setting(train_model, "accumulate", "Batches per update."),
    _setting(
        train_model, "ema_warmup", "Average over few updates at first: forgets the initial weights sooner."
    ),
    _setting(train_model, "horizontal_flip", "Mirror each image left to right with probability 1/2."),
    _setting(
        train_model,
        "objective",
        "What the network predicts: the noise, the clean image, a mixture of both, or a velocity.",
        choices=OBJECTIVES,
    ),
    _setting(
        train_model,
        "time_sampling",
        "How times are drawn: evenly, or more of the middle.",
        choices=TIME_SAMPLINGS,
    ),
    _setting(
        train_model, "min_snr_gamma", "Weight the loss by min(SNR, gamma); its authors take 5.", type=float
    ),
    _setting(
        train_model, "max_steps", "End after this many updates, counted from the very beginning.", type=int
    ),
    _setting(
        train_model,
        "sample_every",
        "Write a grid of samples after every so many epochs, to NAME_samples/.",
        type=int,
    ),
    _setting(
        train_model, "log_dir", "Write each epoch's numbers to NAME.csv there, and for TensorBoard.", type=str
    ),
    _setting(train_model, "deterministic", "The same bits each time on a GPU too, at some cost in speed."),
)


@command("""
    rust-diffusion train --data slices/ --minutes 30 --out weights
    rust-diffusion train --data phantoms:1024 --size 32 --base-ch 32 --epochs 20 --out tiny
    rust-diffusion train --data 'scans/*/*.png' --recipe course --precision bf16 --out weights
    rust-diffusion train --data dicom/ --window -600,1500 --val-data dicom-test/ --out weights
""")
@click.option("--data", required=True, help="Folder of images, a glob in quotes, or phantoms[:N[:SEED]].")
@click.option("--val-data", help="Likewise, images for a validation loss after each epoch.")
@click.option(
    "--out", "--weights-dir", "out", required=True, type=PATH, help="Folder for weights and checkpoint."
)
@click.option(
    "--size",
    type=Sides(),
    default=COURSE_SIZE,
    show_default=True,
    help="Height and width in pixels, 48,64; one number stands for both.",
)
@click.option(
    "--recipe",
    "recipe_name",
    type=click.Choice(tuple(RECIPES)),
    default=next(iter(RECIPES)),
    show_default=True,
    help="Network and training to begin with; what other options say is changed.",
)
@click.option("--num-steps", type=int, show_default="the recipe's", help="Diffusion steps T.")
@click.option(
    "--schedule", type=click.Choice(SCHEDULE_NAMES), show_default="the recipe's", help="Of the noise."
)
@_about_network
@_about_run
@about_images
@DEVICE
@click.pass_context
def train(
    context: click.Context,
    /,
    data: str,
    val_data: str | None,
    out: Path,
    size: tuple[int, int],
    device: str,
    **_: Any,
) -> None:
    """Train a denoiser on a folder of slices.

    A run that was interrupted or killed goes on when the same command is given again.
    """
    images = read_images(context, "--data", data, size)
    val_images = None if val_data is None else read_images(context, "--val-data", val_data, size)
    if context.params["seed"] is not None:
        torch.manual_seed(context.params["seed"])
    chosen = _recipe(context)
    model = DiffusionUNet(in_ch=images.shape[1], **chosen.network)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    height, width = size
    click.echo(
        f"{len(images)} images of {height} x {width}, {millions:.2f}M parameters, on {device}\n{chosen}"
    )
    try:
        with _echoed(messages):
            result = train_model(
                model,
                images,
                **chosen.training,
                betas=chosen.betas,
                weights_dir=out,
                val_data=val_images,
                device=device,
                progress=on_terminal(),
                callback=None if on_terminal() else epoch_lines(click.echo),
            )
    except KeyboardInterrupt:
        click.echo(f"Stopped. The same command goes on from what is saved in {out}.", err=True)
        raise
    _tell(result, out, context.params["name"])


def _recipe(context: click.Context) -> Recipe:
    """The recipe that was chosen, with what the user says of it changed."""
    options = context.params
    told = given(context, arguments_of(train_model) - {"data", "val_data", "device"})
    chosen = recipe(
        options["recipe_name"],
        size=options["size"],
        **given(context, {"minutes"} if told.get("minutes") else ()),
    )
    network = given(context, arguments_of(DiffusionUNet))
    if "channel_mults" in network and "attn_levels" not in network:
        levels = len(network["channel_mults"])
        network["attn_levels"] = tuple(k for k in chosen.network["attn_levels"] if k < levels)
    chosen.network.update(network)
    if {"epochs", "minutes"} <= told.keys():
        raise click.UsageError("give either --epochs or --minutes")
    if "epochs" in told:
        chosen.training.pop("minutes", None)
    elif "minutes" in told:
        chosen.training.pop("epochs", None)
    chosen.training.update(told)
    for name, value in given(context, ("num_steps", "schedule")).items():
        setattr(chosen, name, value)
    return chosen


class _Echo(logging.Handler):
    """Prints, in words of the command line."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(in_options(record.getMessage()))


@contextlib.contextmanager
def _echoed(logger: logging.Logger) -> Iterator[None]:
    """Print what a run says where no terminal shows a bar, and the lines beside it."""
    handler, level = _Echo(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _tell(result: TrainResult, out: Path, name: str) -> None:
    """Say what came of a run, and what to do next; that there was nothing to train, it has said itself."""
    weights = out / f"{name}.pth"
    # max_steps may end a run before its first epoch has a loss
    loss = f", best loss {result.best_loss:.5f}" if result.history else ""
    click.echo(f"{result.epochs_run} epochs, {result.updates} updates in all{loss}. Weights: {weights}")
    click.echo(f"Next: rust-diffusion sample --weights {shlex.quote(str(weights))} --out grid.png")
