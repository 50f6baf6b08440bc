"""What has been measured so far, over all runs of the benchmark: one file of raw numbers, one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.quality.measure import LEVELS

HEAD = [
    *(
        "data",
        "minutes",
        "recipe",
        "seed",
        "seconds",
        "updates",
        "MMD² of images",
        "p",
        "of patches",
        "p",
        "copies",
        "to the nearest training image",
    ),
    *(
        "network calls",
        "sampling, s",
        "error of the noise at " + ", ".join(f"{level:g} T" for level in LEVELS),
    ),
]


class Records:
    """``quality.jsonl`` and ``quality.md`` in a folder; a row measured again takes the place of the old one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._raw, self._table = folder / "quality.jsonl", folder / "quality.md"

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row and write the table anew."""
        rows = {_key(old): old for old in self.rows()} | {_key(row): row}
        self._raw.write_text("".join(json.dumps(r) + "\n" for r in rows.values()), encoding="utf-8")
        self._table.write_text(table(self.rows()), encoding="utf-8")

    def rows(self) -> list[dict[str, Any]]:
        """All of them, by data and budget."""
        if not self._raw.exists():
            return []
        rows = [json.loads(line) for line in self._raw.read_text(encoding="utf-8").splitlines()]
        return sorted(rows, key=lambda row: (row["data"], row["minutes"]))


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["data"], row["minutes"], row["recipe"], row["seed"]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown.

    After each discrepancy stands, in brackets, what chance gives in 95 of 100 cases; after the median distance of the
    samples to the nearest training image, that of the training images to the nearest other one: what is learnt by
    heart is nearer.
    """
    lines = [rows[0]["machine"], ""] if rows else []
    lines += ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for row in rows:
        cells = [
            row["data"],
            f"{row['minutes']:g}",
            row["recipe"],
            str(row["seed"]),
            f"{row['seconds']:.0f}",
            str(row["updates"]),
            f"{row['mmd2']:+.4f} ({row['by_chance']:.4f})",
            f"{row['p']:.3f}",
            f"{row['patch_mmd2']:+.4f} ({row['patch_by_chance']:.4f})",
            f"{row['patch_p']:.3f}",
            f"{row['copied']:.0%}",
            f"{row['nearest']:.3f} ({row['nearest_within']:.3f})",
            str(row["network_calls"]),
            f"{row['sampling_seconds']:.0f}",
            ", ".join(f"{error:.4f}" for error in row["noise_errors"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])
