"""What a run shows of itself while it lasts."""

from rust_diffusion.training.watch.bar import Bar
from rust_diffusion.training.watch.log import RunLog
from rust_diffusion.training.watch.looks import Looks
from rust_diffusion.training.watch.samples import SampleSheets
from rust_diffusion.training.watch.short import warn_of_a_rise, warn_of_what_is_short
from rust_diffusion.training.watch.validation import validation_loss

__all__ = [
    "Bar",
    "Looks",
    "RunLog",
    "SampleSheets",
    "validation_loss",
    "warn_of_a_rise",
    "warn_of_what_is_short",
]
