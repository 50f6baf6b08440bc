"""`rust-diffusion info`: what is installed and what it runs on, or what a file says of its model."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import click
import torch

from rust_diffusion import _native
from rust_diffusion.cli.main import command
from rust_diffusion.cli.options import PATH
from rust_diffusion.files.pretrained import describe
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support.device import get_device


@command("""
    rust-diffusion info
    rust-diffusion info --weights weights/DDPMDenoiser.pth
""")
@click.option("--weights", type=PATH, help="What the model in a .pth, a .ckpt or a folder says of itself.")
def info(weights: Path | None) -> None:
    """Show versions, devices, threads and what the extension was linked with; or a model's card."""
    rows = [(name, value, "") for name, value in about().items()] if weights is None else about_model(weights)
    for name, value, certainty in rows:
        click.echo(f"{name:<24}{value:<40}  {certainty}".rstrip())


def about() -> dict[str, str]:
    """Collect versions, device, threads and what the extension was linked with, as text by name."""
    facts = {
        "rust-diffusion": version("rust-diffusion"),
        "linked with torch": _native.LINKED_TORCH,
        "torch": torch.__version__,
        "Python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "extension": str(_native.__file__),
        "device": get_device(),
        "CPU cores": f"{os.cpu_count()}",
        "kernels": _native.kernels(),
        "torch's kernels": torch.backends.cpu.get_cpu_capability(),
        "torch threads": str(torch.get_num_threads()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
        "built for CUDA": torch.version.cuda or "no",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        facts[f"CUDA device {index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return facts


def _assumed(names: list[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} assumed" if names else ""


def about_model(weights: Path) -> list[tuple[str, str, str]]:
    """Collect what a file says of its model, weights unread: (what, value, how sure)."""
    described = describe(weights)
    model = described.plan()
    left_no_trace = [] if described.network is not DiffusionUNet else ["num_heads", "dropout"]
    assumed = [name for name in left_no_trace if name not in described.config]
    sizes = ", ".join(f"{name}={value}" for name, value in model.config.items())
    return [
        ("file", str(described.path), ""),
        ("architecture", f"{type(model).__name__}({sizes})", _assumed(assumed)),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}", ""),
        *described.card.rows(),
    ]
