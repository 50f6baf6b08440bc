"""The command line."""

from rust_diffusion.cli import demo, evaluate, info, reconstruct, sample, train
from rust_diffusion.cli.main import cli, main

__all__ = [
    "cli",
    "demo",
    "evaluate",
    "info",
    "main",
    "reconstruct",
    "sample",
    "train",
]
