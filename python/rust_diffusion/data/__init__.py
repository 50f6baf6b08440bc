"""Images to learn from: folders of slices, and phantoms."""

from rust_diffusion.data.images import ImageSet, load_images
from rust_diffusion.data.phantoms import phantoms, shepp_logan

__all__ = [
    "ImageSet",
    "load_images",
    "phantoms",
    "shepp_logan",
]
