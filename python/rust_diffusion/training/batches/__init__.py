"""The forms in which training data come, and the batches that are made of them."""

from rust_diffusion.training.batches.forms import as_batches
from rust_diffusion.training.batches.kinds import Batches, InMemory

__all__ = [
    "Batches",
    "InMemory",
    "as_batches",
]
