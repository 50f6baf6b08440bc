"""Networks, where the course's library has them."""

from rust_diffusion.nn import diffusion

__all__ = ["diffusion"]
