"""The command line."""

from rust_diffusion.cli.commands import cli, main

__all__ = [
    "cli",
    "main",
]
