"""`rust-diffusion train`: a run of training on a folder of slices."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import torch

from rust_diffusion.cli.demo import epoch_lines
from rust_diffusion.cli.inputs import SCHEDULE_NAMES, about_images, read_images
from rust_diffusion.cli.main import command, on_terminal
from rust_diffusion.cli.options import DEVICE, PATH, arguments_of, given, option_of, together
from rust_diffusion.model.card import COURSE_SIZE, COURSE_STEPS, OBJECTIVES, SCHEDULES
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.training.result import TrainResult
from rust_diffusion.training.settings import LR_SCHEDULES, PRECISIONS, TIME_SAMPLINGS
from rust_diffusion.training.train import train as train_model

_about_network = together(
    option_of(DiffusionUNet, "base_ch", "Width of the first level."),
    option_of(DiffusionUNet, "channel_mults", "Width of each level, in widths of the first."),
    option_of(DiffusionUNet, "time_dim", "Length of the time embedding."),
    option_of(DiffusionUNet, "dropout", "Probability of dropping an activation."),
    option_of(DiffusionUNet, "attn_levels", "Levels with self-attention, from 0."),
    option_of(DiffusionUNet, "num_heads", "Heads of the attention."),
)

_about_run = together(
    option_of(train_model, "epochs", "The target: a resumed run does what is left of it."),
    option_of(train_model, "batch_size", "Images at a time."),
    option_of(train_model, "learning_rate", "At the beginning."),
    option_of(train_model, "weight_decay", "Of AdamW."),
    option_of(train_model, "ema_decay", "Of the averaged weights, between 0 and 1."),
    option_of(train_model, "grad_clip", "Largest norm of the gradient; inf leaves it as it is."),
    option_of(
        train_model,
        "precision",
        "What convolutions and matrix products are computed in; auto is fp32 on the CPU, bf16 or fp16 on a GPU.",
        choices=PRECISIONS,
    ),
    option_of(train_model, "seed", "Of the initial weights and of the whole run.", type=int),
    option_of(train_model, "name", "First part of the files' names."),
    option_of(train_model, "force_restart", "Ignore, and replace, files that are there."),
    option_of(train_model, "lr_schedule", "How the learning rate goes on.", choices=LR_SCHEDULES),
    option_of(train_model, "warmup_steps", "Updates over which warmup_cosine rises."),
    option_of(train_model, "accumulate", "Batches per update."),
    option_of(
        train_model, "ema_warmup", "Average over few updates at first: forgets the initial weights sooner."
    ),
    option_of(train_model, "horizontal_flip", "Mirror each image left to right with probability 1/2."),
    option_of(
        train_model,
        "objective",
        "What the network predicts: the noise, the clean image, a mixture of both, or a velocity.",
        choices=OBJECTIVES,
    ),
    option_of(train_model, "time_sampling", "flow: how its times are drawn.", choices=TIME_SAMPLINGS),
    option_of(
        train_model, "min_snr_gamma", "Weight the loss by min(SNR, gamma); its authors take 5.", type=float
    ),
    option_of(
        train_model, "max_steps", "End after this many updates, counted from the very beginning.", type=int
    ),
    option_of(
        train_model, "log_dir", "Write each epoch's numbers to NAME.csv there, and for TensorBoard.", type=str
    ),
    option_of(train_model, "deterministic", "The same bits each time on a GPU too, at some cost in speed."),
)


@command("""
    rust-diffusion train --data slices/ --epochs 60 --out weights
    rust-diffusion train --data phantoms:1024 --size 32 --base-ch 32 --epochs 20 --out tiny
    rust-diffusion train --data 'scans/*/*.png' --precision bf16 --batch-size 16 --out weights
    rust-diffusion train --data dicom/ --window -600,1500 --val-data dicom-test/ --out weights
""")
@click.option("--data", required=True, help="Folder of images, a glob in quotes, or phantoms[:N].")
@click.option("--val-data", help="Likewise, images for a validation loss after each epoch.")
@click.option(
    "--out", "--weights-dir", "out", required=True, type=PATH, help="Folder for weights and checkpoint."
)
@click.option("--size", type=int, default=COURSE_SIZE, show_default=True, help="Height and width, in pixels.")
@click.option("--num-steps", type=int, default=COURSE_STEPS, show_default=True, help="Diffusion steps T.")
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULE_NAMES),
    default=SCHEDULE_NAMES[0],
    show_default=True,
    help="Of the noise.",
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
    size: int,
    num_steps: int,
    schedule: str,
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
    betas = SCHEDULES[schedule](num_steps)
    model = DiffusionUNet(in_ch=images.shape[1], **given(context, arguments_of(DiffusionUNet)))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    click.echo(
        f"{len(images)} images of {size} x {size}, {millions:.2f}M parameters, T = {num_steps} ({schedule}), "
        f"on {device}"
    )
    options = given(context, arguments_of(train_model) - {"data", "val_data", "device"})
    try:
        result = train_model(
            model,
            images,
            **options,
            betas=betas,
            weights_dir=out,
            val_data=val_images,
            device=device,
            progress=on_terminal(),
            callback=None if on_terminal() else epoch_lines(context.params["epochs"], click.echo),
        )
    except KeyboardInterrupt:
        click.echo(f"Stopped. The same command goes on from what is saved in {out}.", err=True)
        raise
    _tell(result, out, context.params["name"])


def _tell(result: TrainResult, out: Path, name: str) -> None:
    """Say what came of a run, and what to do next."""
    weights = out / f"{name}.pth"
    if result.epochs_run == 0:
        click.echo(f"Nothing to train: {out} has its {len(result.history)} epochs (more: --epochs).")
    click.echo(f"{result.epochs_run} epochs, best loss {result.best_loss:.5f}. Weights: {weights}")
    click.echo(f"Next: rust-diffusion sample --weights {shlex.quote(str(weights))} --out grid.png")
