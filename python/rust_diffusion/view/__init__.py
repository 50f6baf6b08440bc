"""Looking at images, and judging them."""

from rust_diffusion.view.compare import SetComparison, compare_sets
from rust_diffusion.view.explore import explore
from rust_diffusion.view.show import show_batch

__all__ = [
    "SetComparison",
    "compare_sets",
    "explore",
    "show_batch",
]
