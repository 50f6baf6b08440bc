"""Images to learn from: folders of slices, and phantoms."""

from rust_diffusion.data.image_set import ImageSet
from rust_diffusion.data.images import load_images
from rust_diffusion.data.phantoms import phantoms, shepp_logan
from rust_diffusion.data.split import split_by_folder
from rust_diffusion.support.images import as_images

__all__ = [
    "ImageSet",
    "as_images",
    "load_images",
    "phantoms",
    "shepp_logan",
    "split_by_folder",
]
