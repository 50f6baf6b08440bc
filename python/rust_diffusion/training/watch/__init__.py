"""What a run shows of itself while it lasts."""

from rust_diffusion.training.watch.bar import Bar
from rust_diffusion.training.watch.log import RunLog
from rust_diffusion.training.watch.validation import validation_loss

__all__ = [
    "Bar",
    "RunLog",
    "validation_loss",
]
