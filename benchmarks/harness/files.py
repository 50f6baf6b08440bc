"""Slices as PNG files: how the course reads them, and how some are made where there are none.

Needs Pillow and torchvision, which the course's pipeline is made of.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path

import rust_diffusion as rd
import torch
from torch import Tensor
from torch.utils.data import Dataset

#: Different images among the generated files; the others are links to them.
DISTINCT = 64


def course_files(folder: Path) -> str:
    """Return the pattern of the course's layout: a folder for each patient."""
    return f"{folder}/*/*.png"


class CourseDataset(Dataset[Tensor]):
    """What the course's notebook does with a file, each time it is asked for."""

    def __init__(self, folder: Path, size: int) -> None:
        from torchvision import transforms  # type: ignore[import-untyped]

        self.files = sorted(glob.glob(course_files(folder)))
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size), antialias=True),
                transforms.ToTensor(),
                transforms.Normalize((0.5,), (0.5,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        from PIL import Image

        image: Tensor = self.transform(Image.open(self.files[index]).convert("L"))
        return image


def generate(folder: Path, count: int, side: int, mode: str) -> Path:
    """Write `count` phantoms as PNG files in the course's layout."""
    from PIL import Image

    slices = rd.phantoms(min(count, DISTINCT), side, dtype=torch.uint8)[:, 0].numpy()
    (folder / "P001").mkdir(parents=True)
    for index in range(count):
        file = folder / "P001" / f"{index:05}.png"
        if index < DISTINCT:
            Image.fromarray(slices[index]).convert(mode).save(file)
        else:
            os.link(folder / "P001" / f"{index % DISTINCT:05}.png", file)
    return folder
