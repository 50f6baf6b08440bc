"""The command line."""

from rust_diffusion.cli import demo, evaluate, info, sample, train
from rust_diffusion.cli.main import cli, main

__all__ = [
    "cli",
    "demo",
    "evaluate",
    "info",
    "main",
    "sample",
    "train",
]
