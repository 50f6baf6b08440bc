"""Reading slices: `load_images` beside the course's Dataset and DataLoader, in one run; its cache; its memory.

`python -m benchmarks.data`; needs Pillow and torchvision, which the course's pipeline is made of.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import rust_diffusion as rd
import torch
from torch.utils.data import DataLoader

from benchmarks.harness import report
from benchmarks.harness.files import CourseDataset, course_files, generate
from benchmarks.harness.measure import Timing, alternate, peak, reset_peak

SIZE = 64
COURSE = "course, num_workers=0"


@click.command()
@click.option(
    "--path", type=click.Path(exists=True), help="Folder of slices [default: phantoms, 512 x 512 RGBA]."
)
@click.option("--images", default=200, show_default=True, help="How many to generate for the timing.")
@click.option("--rounds", default=3, show_default=True, help="Timed rounds; everybody runs once in each.")
@click.option(
    "--many", default=10_000, show_default=True, help="Files for the peak of memory; 0 leaves it out."
)
def main(path: str | None, images: int, rounds: int, many: int) -> None:
    """Time one pass over a folder, and measure what loading adds to the memory of a process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(path) if path else generate(Path(scratch) / "timing", images, 512, "RGBA")
        timings = alternate(passes(folder, Path(scratch) / "set.cache"), rounds, "cpu", "passes")
        count = len(CourseDataset(folder, SIZE))
        click.echo(table(timings, count))
        if many:
            excess = peak_above_set(generate(Path(scratch) / "many", many, 256, "L"))
            click.echo(f"Peak memory, {many} files of 256 x 256: {excess:.0f} MiB above the decoded set")


def passes(folder: Path, cache: Path) -> dict[str, Callable[[], Any]]:
    """One pass over the folder in each of the ways."""
    data = CourseDataset(folder, SIZE)

    def course(workers: int) -> Callable[[], Any]:
        return lambda: torch.cat(list(DataLoader(data, batch_size=32, num_workers=workers)))

    pattern = course_files(folder)
    return {
        COURSE: course(0),
        "course, num_workers=2": course(2),
        "load_images": lambda: rd.load_images(pattern, SIZE, progress=False),
        "load_images, from its cache": lambda: rd.load_images(pattern, SIZE, cache=cache, progress=False),
    }


def table(timings: dict[str, Timing], count: int) -> str:
    """Write medians per image, spreads, and how many times faster than the course's pipeline."""
    lines = [f"### {count} files to {SIZE} x {SIZE}: {report.machine('cpu')}", ""]
    lines += ["| | per image | spread | times faster than the course's |", "|---|---|---|---|"]
    for name, timing in timings.items():
        ratio = timings[COURSE].median / timing.median
        milliseconds = 1000 * timing.median / count
        lines.append(f"| {name} | {milliseconds:.3f} ms | {100 * timing.spread:.0f} % | {ratio:.1f} |")
    return "\n".join([*lines, ""])


_MEASURE = "import sys; from benchmarks.data import report_peak; report_peak(sys.argv[1])"


def peak_above_set(folder: Path) -> float:
    """MiB that loading needs in a fresh process, beyond the tensor that it returns."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def report_peak(folder: str) -> None:
    """Print the peak of this process while it loads `folder`, in MiB above what it held before and the result."""
    before = reset_peak()
    images = rd.load_images(folder, SIZE, progress=False)
    print(peak() - before - images.numel() * images.element_size() / 2**20)


if __name__ == "__main__":
    main()
