"""A training run: one call, from the images to the files."""

from rust_diffusion.training.plan import Recipe, recipe
from rust_diffusion.training.result import EpochInfo, TrainResult
from rust_diffusion.training.train import train

__all__ = [
    "EpochInfo",
    "Recipe",
    "TrainResult",
    "recipe",
    "train",
]
