"""A set of slices as a dataset of torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rust_diffusion.data.images import Loaded, load_images, load_set
from rust_diffusion.support.images import as_images, as_values, is_list_of_images

_DEFAULTS: dict[str, Any] = dict(load_images.__kwdefaults__ or {})


class ImageSet(Dataset[Tensor]):
    """Slices as a map-style dataset for a `torch.utils.data.DataLoader`; all of them are in memory.

    Parameters
    ----------
    source : str, path, iterable of them, or images
        As for `load_images`; or images that are there already: a tensor or array (N, C, H, W), floating in
        [-1, 1] or uint8, or a list of images, PIL's too.
    size : int or (height, width)
        As for `load_images`; images that are there keep theirs.
    transform : callable, optional
        Applied to each image as it is asked for: float32 in [-1, 1], (C, H, W).
    **options
        The other arguments of `load_images`. With ``dtype=torch.uint8`` the set takes a quarter of the memory
        and is normalised image by image.

    Attributes
    ----------
    images : Tensor
        The whole set, (N, C, H, W).
    files : list of Path
        Where each image came from; empty for images that were there.
    skipped : list of (Path, str)
        Files that ``on_error="skip"`` left out, with the reasons.
    window : (level, width) or None
        The window that DICOM files were read with.
    """

    def __init__(
        self,
        source: Any,
        size: int | tuple[int, int] = 64,
        *,
        transform: Callable[[Tensor], Any] | None = None,
        **options: Any,
    ) -> None:
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be callable, got {type(transform).__name__}")
        if isinstance(source, (Tensor, np.ndarray)) or is_list_of_images(source):
            if options:
                raise TypeError(f"source is images, which take no {', '.join(sorted(options))}")
            loaded = Loaded(as_images(source, "source"), [], [], None)
        else:
            loaded = load_set(source, size, **{**_DEFAULTS, **options})
        self.images, self.files, self.skipped, self.window = loaded
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        if image.dtype == torch.uint8:
            image = as_values(image)
        return image if self.transform is None else self.transform(image)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} images of {tuple(self.images.shape[1:])}, {self.images.dtype})"
