"""The run's numbers, one line per epoch: a CSV file, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rust_diffusion.files import atomic

COLUMNS = ("epoch", "loss", "val_loss", "lr", "images_per_second", "updates")


class RunLog:
    """``{name}.csv`` in `folder`, and TensorBoard's events beside it if the package is there.

    Epochs are counted from 1, as everywhere that people read; `first_epoch`, where the run begins, from 0.
    """

    def __init__(self, folder: Path, name: str, first_epoch: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.csv"
        self._keep(first_epoch)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder), purge_step=first_epoch + 1)

    def _keep(self, first_epoch: int) -> None:
        """Leave the lines of the epochs before `first_epoch`: those after it are trained again."""
        rows: list[dict[str, str]] = []
        if first_epoch > 0 and self.path.exists():
            with open(self.path, newline="") as file:
                found = csv.DictReader(file)
                rows = [
                    row
                    for row in found
                    if (row.get("epoch") or "").isdecimal() and int(row["epoch"]) <= first_epoch
                ]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
        with atomic.replacing(self.path) as file:
            file.write(text.getvalue().encode())

    def write(self, row: dict[str, Any]) -> None:
        """Add the line of an epoch; the keys are `COLUMNS`."""
        with open(self.path, "a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({k: "" if v is None else v for k, v in row.items()})
        if self._board is None:
            return
        for key, value in row.items():
            if key != "epoch" and value is not None:
                self._board.add_scalar(f"train/{key}", value, row["epoch"])
        self._board.flush()

    def close(self) -> None:
        """Close the events file."""
        if self._board is not None:
            self._board.close()
