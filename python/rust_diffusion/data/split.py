"""Parting a set by patient, so that what is held out is new."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from rust_diffusion.data.files import PathLike, list_files
from rust_diffusion.support import checks


def split_by_folder(
    path: PathLike | Iterable[PathLike], share: float = 0.1, *, seed: int = 0
) -> tuple[list[Path], list[Path]]:
    """Part files into a training set and a held-out set by the folders that they are in.

    Slices of one patient that lie next to each other are near copies: parted at random, the held-out slices
    would all but stand in the training set. Whole folders tell whether a network has learned or remembers.

    Parameters
    ----------
    path : str, path or iterable of them
        As for `load_images`: a folder with one folder for each patient, a glob pattern, or a list of files.
    share : float
        Of the files to hold out, between 0 and 1; as near as whole folders come to it, at least one.
    seed : int
        Decides which folders.

    Returns
    -------
    (list of Path, list of Path)
        Files to train on and files held out, sorted by name, as `load_images` takes them.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If an argument cannot be used, or all files are in one folder.

    Examples
    --------
    >>> import rust_diffusion as rd
    >>> files = [f"{patient}/{k}.png" for patient in "ABC" for k in range(2)]
    >>> train, held_out = rd.split_by_folder(files, share=0.3)
    >>> [file.as_posix() for file in held_out]
    ['A/0.png', 'A/1.png']
    """
    share = checks.number("share", share, 0, 1)
    seed = checks.integer("seed", seed, 0)
    folders: dict[Path, list[Path]] = {}
    for file in list_files(path):
        folders.setdefault(file.parent, []).append(file)
    if len(folders) < 2:
        raise ValueError(
            f"path must have files in two folders or more to part them, got only {next(iter(folders))}"
        )
    order = list(folders)
    random.Random(seed).shuffle(order)
    left_to_hold = share * sum(map(len, folders.values()))
    held: list[Path] = []
    for folder in order:
        # A folder is taken if that comes nearer to the share than leaving it, and one is left to train on.
        if len(folders[folder]) / 2 <= left_to_hold and len(held) < len(order) - 1:
            held.append(folder)
            left_to_hold -= len(folders[folder])
    # Where each is too large for the share, the smallest is nearest.
    held = held or [min(order, key=lambda folder: len(folders[folder]))]
    return _files_of(folders, set(order) - set(held)), _files_of(folders, held)


def _files_of(folders: dict[Path, list[Path]], chosen: Iterable[Path]) -> list[Path]:
    return sorted((file for folder in chosen for file in folders[folder]), key=str)
