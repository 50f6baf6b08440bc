"""`rust-diffusion sample`: images drawn with a trained denoiser."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch

from rust_diffusion import _native
from rust_diffusion.cli import outputs
from rust_diffusion.cli.inputs import about_weights, load_model
from rust_diffusion.cli.main import command, on_terminal
from rust_diffusion.cli.options import (
    DEVICE,
    PATH,
    NumberList,
    Sides,
    arguments_of,
    flag_of,
    given,
    option_of,
    together,
)
from rust_diffusion.model.network import Network
from rust_diffusion.sampling.arguments import PRECISIONS
from rust_diffusion.sampling.sampler import SAMPLERS
from rust_diffusion.sampling.samplers import ddim_sample
from rust_diffusion.sampling.solvers import dpmpp_sample, euler_sample, heun_sample
from rust_diffusion.sampling.straight import flow_sample
from rust_diffusion.view.pictures import Frames

#: Arguments of the samplers; not each of them takes each.
_OF_SAMPLERS = (
    *(
        "sample_steps",
        "timesteps",
        "spacing",
        "precision",
        "clip",
        "cuda_graphs",
        "eta",
        "order",
        "solver",
        "sde",
    ),
    *("lower_order_final", "churn", "ancestral", "shift"),
)
#: What only matters where images are drawn.
DRAWING = (*_OF_SAMPLERS, "seed", "batch_size", "sampler", "num_samples")

about_drawing = together(
    option_of(Network.sample, "sampler", "How to draw.", choices=tuple(SAMPLERS)),
    option_of(Network.sample, "seed", "Image k is drawn with seed + k, whatever the batch size.", type=int),
    option_of(Network.sample, "batch_size", "Images drawn at a time.  [default: all]", type=int),
    click.option(
        *("--sample-steps", "--steps", "sample_steps"),
        type=int,
        help="Steps, between 1 and T; ddpm takes all.  [default: as many as the sampler usually takes]",
    ),
    option_of(ddim_sample, "eta", "ddim: 0 draws no noise after the start, 1 has the variance of DDPM."),
    option_of(
        ddim_sample,
        "timesteps",
        "A strictly decreasing list out of 0..T-1, to use instead of --steps.",
        type=NumberList(int),
    ),
    option_of(ddim_sample, "spacing", "How the steps are spread over 0..T-1.", choices=_native.SPACINGS),
    option_of(
        ddim_sample,
        "precision",
        "What convolutions and matrix products are computed in; fp16 is for GPUs.",
        choices=PRECISIONS,
    ),
    option_of(ddim_sample, "clip", "Clamp each estimate of the clean image, and the result, to [-1, 1]."),
    option_of(
        ddim_sample,
        "cuda_graphs",
        "Capture the network's pass on a GPU and replay it.  [default: yes, unless RUST_DIFFUSION_CUDA_GRAPHS=0]",
        type=bool,
    ),
    option_of(dpmpp_sample, "order", "dpmpp, unipc: 1 to 3."),
    click.option(
        "--solver",
        type=click.Choice(sorted({*_native.SOLVERS, *_native.FLOW_SOLVERS})),
        help="dpmpp: midpoint or heun; flow: euler or heun.  [default: the first of them]",
    ),
    option_of(dpmpp_sample, "sde", "dpmpp: solve the stochastic equation."),
    option_of(dpmpp_sample, "lower_order_final", "dpmpp: let short runs end in lower orders."),
    option_of(heun_sample, "churn", "heun: raise the noise before each step, by as much over the run."),
    option_of(euler_sample, "ancestral", "euler: draw fresh noise in each step."),
    option_of(flow_sample, "shift", "flow: above 1, more of the steps are spent on much noise."),
    click.option(
        "--size", type=Sides(), help="Height and width, 48,64, or a side.  [default: what it was trained on]"
    ),
)


@command("""
    rust-diffusion sample --weights weights/DDPMDenoiser.pth --out grid.png
    rust-diffusion sample --weights weights --sampler ddim --steps 25 --eta 0.5 --seed 0 --out a.png --out a.gif
    rust-diffusion sample --weights weights --sampler ddpm --num-samples 100 --batch-size 20 --out slices/
""")
@click.option(
    "--weights",
    required=True,
    type=PATH,
    help="A .pth, a .ckpt, their folder, a folder of diffusers, or a name on the Hub.",
)
@click.option(
    "--out",
    required=True,
    multiple=True,
    type=PATH,
    help="grid.png, a folder/ of single PNGs, values.npy, values.pt or trajectory.gif; may be repeated.",
)
@click.option("--num-samples", type=int, default=8, show_default=True, help="How many images.")
@about_drawing
@about_weights
@DEVICE
@click.pass_context
def sample(context: click.Context, /, out: Sequence[Path], num_samples: int, sampler: str, **_: Any) -> None:
    """Draw images with a trained denoiser.

    With --seed, image k is the same whatever --num-samples and --batch-size are.
    """
    targets = [outputs.check_target(path) for path in out]
    frames = Frames() if any(path.suffix == ".gif" for path in targets) else None
    start = time.perf_counter()
    images = draw(context, load_model(context), frames)
    click.echo(f"{num_samples} images with {sampler.upper()} in {time.perf_counter() - start:.1f} s")
    for path in targets:
        outputs.write(path, images, list(frames or ()))
        click.echo(f"Wrote {path}")


def draw(context: click.Context, model: Network, frames: Frames | None = None) -> torch.Tensor:
    """Draw the images that the options of `sample` and `evaluate` ask for."""
    sampler, options = context.params["sampler"], given(context, _OF_SAMPLERS)
    for name in options.keys() - arguments_of(SAMPLERS[sampler]):
        others = [other for other, function in SAMPLERS.items() if name in arguments_of(function)]
        raise click.UsageError(
            f"{flag_of(name)} is not for --sampler {sampler}, only for {', '.join(others)}"
        )
    return model.sample(
        context.params["num_samples"],
        sampler,
        **given(context, ("seed", "batch_size")),
        image_size=context.params["size"],
        progress=on_terminal(),
        callback=frames,
        **options,
    )
