"""The command line: `rust-diffusion demo | train | sample | evaluate | info`.

Options are made from the Python functions they lead to (`_options.py`). Results go to standard output;
progress is a bar on a terminal and plain lines where it is piped. Exit status: 0 done, 1 failed, 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import inspect
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch

from rust_diffusion.cli import about
from rust_diffusion.cli.demo import epoch_lines
from rust_diffusion.cli.demo import run as run_demo
from rust_diffusion.cli.options import given, options_of
from rust_diffusion.data.images import load_images
from rust_diffusion.data.phantoms import phantoms
from rust_diffusion.files import pretrained
from rust_diffusion.model.card import COURSE_SIZE, COURSE_STEPS, OBJECTIVES, SCHEDULES
from rust_diffusion.model.device import get_device
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.sampling.samplers import ddim_sample
from rust_diffusion.training.train import train as train_model
from rust_diffusion.view import pictures
from rust_diffusion.view.compare import compare_sets

INTERRUPTED = 130
#: Arguments of `train` that are objects, or options here in another form.
_IN_PYTHON_ONLY = ("weights_dir", "callback", "progress", "val_data")
#: Arguments of `load_images` that are options here.
_ABOUT_IMAGES = ("channels", "on_error", "cache", "window")


class _State:
    debug = False


def _debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.find_root().obj.debug |= value


_DEBUG = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)
#: Arguments of the samplers that are no options here, and what an option is called in short.
_NOT_OPTIONS = ("generator", "x_T", "seed", "objective", "progress", "callback")
#: What DDPM has no use for.
_DDIM_ONLY = ("sample_steps", "eta", "timesteps", "spacing")
#: What both samplers take.
_OF_BOTH = ("seed", "batch_size", "precision")
#: What only matters where images are drawn.
_DRAWING = (*_DDIM_ONLY, *_OF_BOTH, "sampler", "num_samples")
_ALIASES = {"sample_steps": "--steps"}
_SCHEDULE = click.Choice(list(SCHEDULES))
_PATH = click.Path(path_type=Path)


_about_images = options_of(
    load_images, skip=set(inspect.signature(load_images).parameters).difference(_ABOUT_IMAGES)
)


def _about_weights(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what bare weights do not."""
    for option in (
        click.option("--num-heads", type=int, help="Likewise, the heads of its attention."),
        click.option("--schedule", type=_SCHEDULE, help="Likewise, the noise schedule."),
        click.option(
            "--num-steps", type=int, help="Likewise, T of the schedule (how many steps DDIM takes: --steps)."
        ),
        click.option(
            "--objective", type=click.Choice(OBJECTIVES), help="What it predicts, if no checkpoint says."
        ),
    ):
        command = option(command)
    return command


def _command(examples: str) -> Callable[..., Any]:
    """Make a subcommand whose help ends in `examples` and which takes --debug."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        lines = "\n".join(line.strip() for line in examples.strip().splitlines())
        return cli.command(epilog=f"\b\nExamples:\n{lines}")(_DEBUG(function))

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="rust-diffusion", prog_name="rust-diffusion")
@_DEBUG
def cli() -> None:
    """DDPM and DDIM for computational imaging.

    Train a compact denoiser on slices, and draw new ones.
    """


@_command("""
    rust-diffusion demo
    rust-diffusion demo --out my-demo --seed 1
""")
@click.option("--out", type=_PATH, default="demo-output", show_default=True, help="Folder.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of data, training and sampling.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: tries the installation only.")
def demo(out: Path, seed: int, quick: bool) -> None:
    """Train a small denoiser on phantoms for some minutes and draw slices with it."""
    run_demo(out, seed=seed, quick=quick, progress=_on_terminal(), say=click.echo)


@_command("""
    rust-diffusion train --data slices/ --epochs 60 --out weights
    rust-diffusion train --data phantoms:1024 --size 32 --base-ch 32 --epochs 20 --out tiny
    rust-diffusion train --data 'scans/*/*.png' --precision bf16 --batch-size 16 --out weights
    rust-diffusion train --data dicom/ --window -600,1500 --val-data dicom-test/ --out weights
""")
@click.option("--data", required=True, help="Folder of images, a glob in quotes, or phantoms[:N].")
@click.option("--val-data", help="Likewise, images for a validation loss after each epoch.")
@click.option(
    "--out", "--weights-dir", "out", required=True, type=_PATH, help="Folder for weights and checkpoint."
)
@click.option("--size", type=int, default=COURSE_SIZE, show_default=True, help="Height and width, in pixels.")
@click.option("--num-steps", type=int, default=COURSE_STEPS, show_default=True, help="Diffusion steps T.")
@click.option("--schedule", type=_SCHEDULE, default="cosine", show_default=True, help="Of the noise.")
@options_of(DiffusionUNet, skip=("in_ch",))
@options_of(train_model, skip=(*_IN_PYTHON_ONLY, "device"))
@_about_images
@click.option("--device", default=get_device, help="cpu, cuda or mps.  [default: the best there is]")
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
    images = _read(context, "--data", data, size)
    val_images = None if val_data is None else _read(context, "--val-data", val_data, size)
    if context.params["seed"] is not None:
        torch.manual_seed(context.params["seed"])
    betas = SCHEDULES[schedule](num_steps)
    model = DiffusionUNet(in_ch=images.shape[1], **given(context, _names(DiffusionUNet)))
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    click.echo(
        f"{len(images)} images of {size} x {size}, {millions:.2f}M parameters, T = {num_steps} ({schedule}), "
        f"on {device}"
    )
    try:
        result = train_model(
            model,
            images,
            betas=betas,
            weights_dir=out,
            val_data=val_images,
            device=device,
            progress=_on_terminal(),
            callback=None if _on_terminal() else epoch_lines(context.params["epochs"], click.echo),
            **given(context, _names(train_model)),
        )
    except KeyboardInterrupt:
        click.echo(f"Stopped. The same command goes on from what is saved in {out}.", err=True)
        raise
    weights = out / f"{context.params['name']}.pth"
    if result.epochs_run == 0:
        click.echo(f"Nothing to train: {out} has its {len(result.history)} epochs (more: --epochs).")
    click.echo(f"{result.epochs_run} epochs, best loss {result.best_loss:.5f}. Weights: {weights}")
    click.echo(f"Next: rust-diffusion sample --weights {weights} --out grid.png")


@_command("""
    rust-diffusion sample --weights weights/DDPMDenoiser.pth --out grid.png
    rust-diffusion sample --weights weights --steps 25 --eta 0.5 --seed 0 --out a.png --out a.gif
    rust-diffusion sample --weights weights --sampler ddpm --num-samples 100 --batch-size 20 --out slices/
""")
@click.option("--weights", required=True, type=_PATH, help="A .pth, a .ckpt, or their folder.")
@click.option(
    "--out",
    required=True,
    multiple=True,
    type=_PATH,
    help="grid.png, a folder/ of single PNGs, values.npy, values.pt or trajectory.gif; may be repeated.",
)
@click.option("--num-samples", type=int, default=8, show_default=True, help="How many images.")
@options_of(DiffusionUNet.sample, skip=("image_size",))
@options_of(ddim_sample, skip=_NOT_OPTIONS, aliases=_ALIASES)
@click.option("--size", type=int, default=None, help="Height and width.  [default: what it was trained on]")
@_about_weights
@click.option("--device", default=get_device, help="cpu, cuda or mps.  [default: the best there is]")
@click.pass_context
def sample(context: click.Context, /, out: Sequence[Path], num_samples: int, sampler: str, **_: Any) -> None:
    """Draw images with a trained denoiser.

    With --seed, image k is the same whatever --num-samples and --batch-size are.
    """
    targets = [pictures.check_target(path) for path in out]
    frames = pictures.Frames() if any(path.suffix == ".gif" for path in targets) else None
    start = time.perf_counter()
    images = _draw(context, _load(context.params), frames)
    click.echo(f"{num_samples} images with {sampler.upper()} in {time.perf_counter() - start:.1f} s")
    for path in targets:
        pictures.write(path, images, list(frames or ()))
        click.echo(f"Wrote {path}")


@_command("""
    rust-diffusion evaluate --weights weights --data slices/ --num-samples 64 --seed 0 --out report.png
    rust-diffusion evaluate --samples drawn/ --data slices/ --size 64
""")
@click.option(
    "--data", required=True, help="What it was trained on: a folder, a glob in quotes, phantoms[:N]."
)
@click.option("--weights", type=_PATH, help="Draw the images to judge with these.")
@click.option("--samples", help="Or take images that are there: a folder, a glob in quotes, phantoms[:N].")
@click.option("--out", type=_PATH, help="Also draw the report, nearest training images included, as a .png.")
@click.option("--num-samples", type=int, default=64, show_default=True, help="How many to draw.")
@options_of(DiffusionUNet.sample, skip=("image_size",))
@options_of(ddim_sample, skip=_NOT_OPTIONS, aliases=_ALIASES)
@click.option("--size", type=int, help="Height and width.  [default: what it was trained on]")
@_about_images
@_about_weights
@click.option("--device", default=get_device, help="cpu, cuda or mps.  [default: the best there is]")
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    data: str,
    weights: Path | None,
    samples: str | None,
    out: Path | None,
    size: int | None,
    **_: Any,
) -> None:
    """Compare drawn images with the training data: how alike, how varied, whether copies."""
    if (weights is None) == (samples is None):
        raise click.UsageError("give either --weights or --samples")
    if samples is not None and (unused := given(context, _DRAWING)):
        raise click.UsageError(f"{', '.join(unused)}: only with --weights; --samples are drawn already")
    if out is not None:
        if out.suffix != ".png":
            raise click.BadParameter(f"must end in .png, got {out}", param_hint="--out")
        pictures.check_target(out)
    if samples is not None:
        images = _read(context, "--samples", samples, size or COURSE_SIZE)
    else:
        images = _draw(context, _load(context.params))
    comparison = compare_sets(images.cpu(), _read(context, "--data", data, images.shape[-1]))
    click.echo(str(comparison))
    if out is not None:
        comparison.figure().savefig(out)
        click.echo(f"Wrote {out}")


@_command("""
    rust-diffusion info
""")
def info() -> None:
    """Show versions, devices, threads and what the extension was linked with."""
    for name, value in about.about().items():
        click.echo(f"{name:<24}{value}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    state = _State()
    try:
        status = cli.main(args=arguments, prog_name="rust-diffusion", standalone_mode=False, obj=state)
    except click.ClickException as error:
        about = getattr(getattr(error, "ctx", None), "command_path", "rust-diffusion")
        click.echo(f"Error: {error.format_message()} ({about} --help shows how)", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nInterrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader left, as `| head` does.
        sys.stderr.close()
        return 0
    except Exception as error:
        if state.debug:
            raise
        click.echo(f"Error: {' '.join(str(error).split()) or type(error).__name__}", err=True)
        return 1
    return status if isinstance(status, int) else 0


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def _names(function: Any) -> frozenset[str]:
    """List the arguments of `function` that are options."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.default is not p.empty) - {*_IN_PYTHON_ONLY, "device"}


def _read(context: click.Context, option: str, data: str, size: int) -> torch.Tensor:
    """Read the images that an option names."""
    name, _, count = data.partition(":")
    try:
        if name != "phantoms" or Path(data).exists():
            return load_images(data, size=size, progress=_on_terminal(), **given(context, _ABOUT_IMAGES))
        if not (count or "1024").isdigit():
            message = f"{data} names no number of images, as phantoms:1024 does"
            raise click.BadParameter(message, param_hint=option)
        return phantoms(int(count or 1024), size=size)
    except (OSError, ValueError) as error:
        # The words of `load_images` and `phantoms`, whose arguments are this option here.
        words = re.sub(r"^(path: |n\b)", "", str(error))
        raise type(error)(f"{option} {data}: {words}") from error


def _draw(
    context: click.Context, model: DiffusionUNet, frames: pictures.Frames | None = None
) -> torch.Tensor:
    """Draw the images that the options of `sample` and `evaluate` ask for."""
    options = given(context, _DDIM_ONLY)
    sampler = context.params["sampler"]
    if sampler == "ddpm" and options:
        raise click.UsageError(
            f"{', '.join(options)}: only for --sampler ddim; DDPM takes every step as it is"
        )
    return model.sample(
        context.params["num_samples"],
        sampler,
        **given(context, _OF_BOTH),
        image_size=context.params["size"],
        progress=_on_terminal(),
        callback=frames,
        **options,
    )


def _load(options: dict[str, Any]) -> DiffusionUNet:
    """Load `--weights`, with what the user says about them."""
    betas = None
    if options["num_steps"] is not None or options["schedule"] is not None:
        betas = SCHEDULES[options["schedule"] or "cosine"](options["num_steps"] or COURSE_STEPS)
    model = pretrained.load(
        options["weights"],
        device=options["device"],
        num_heads=options["num_heads"],
        objective=options["objective"],
    )
    if betas is not None and not torch.equal(betas, torch.as_tensor(model.betas)):
        if model.card.certainty("betas") == "stated":
            raise click.UsageError(
                f"--num-steps, --schedule: {options['weights']} brings along the schedule that it was trained "
                f"with (how many steps DDIM takes: --steps)"
            )
        model.betas = betas
    return model
