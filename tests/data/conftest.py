"""Folders of slices."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    """Eight grey slices in the course's layout: two patients, four slices each."""
    for patient in ("C002", "C009"):
        (tmp_path / patient).mkdir()
        for k in range(4):
            level = 10 * k + (100 if patient == "C009" else 0)
            Image.fromarray(np.full((70, 60), level, np.uint8)).save(tmp_path / patient / f"{k}.png")
    return tmp_path
