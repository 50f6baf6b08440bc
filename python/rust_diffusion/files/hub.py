"""Networks by name, such as "google/ddpm-cifar10-32": looked up through huggingface_hub where that is installed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rust_diffusion.files import diffusers
from rust_diffusion.files.diffusers import CONFIG, INDEX, PICKLED, SAFETENSORS, SCHEDULER
from rust_diffusion.support.warning import first_line

_T = TypeVar("_T")

#: No name begins with a dot or a hyphen, or has two of them in a row: such a path is one on this disk.
_NAME = re.compile(r"(?!.*(?:--|\.\.))\w[\w.-]*/\w[\w.-]*")
#: What is wanted of a network: everything side by side, or as a pipeline. Its weights come last.
_FLAT = (CONFIG, SCHEDULER, SAFETENSORS)
_PIPELINE = (f"unet/{CONFIG}", f"scheduler/{SCHEDULER}", f"unet/{SAFETENSORS}")
#: The small files of both, which say whether the weights are of any use.
_SMALL = (INDEX, *_FLAT[:-1], *_PIPELINE[:-1])


def is_name(path: Path) -> bool:
    """Whether `path`, where nothing lies, could be a name on the Hub."""
    return _NAME.fullmatch(path.as_posix()) is not None


def fetch(name: str) -> Path:
    """Return the folder of a network on the Hub: from the cache on this disk, else fetched.

    Its weights are fetched last, if the network is one that is computed here.

    Raises
    ------
    FileNotFoundError
        If it is neither here nor to be had; the message says how to fetch it by hand.
    ValueError
        If it is not computed here; the message says what it is.
    """
    try:
        from huggingface_hub import list_repo_files, snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise FileNotFoundError(
            f"there is no file or folder {name}; to look it up on the Hub: pip install huggingface_hub. "
            f"{_by_hand(name, _FLAT)}"
        ) from None

    def asked(function: Callable[..., _T], wanted: Sequence[str], **how: Any) -> _T:
        try:
            return function(name, **how)
        except HFValidationError:
            raise FileNotFoundError(f"there is no file or folder {name}") from None
        except Exception as error:  # the kinds of what lies beneath change from version to version
            raise FileNotFoundError(
                f"{name} is not on this disk, and its {', '.join(wanted)} could not be fetched "
                f"({first_line(error)}). {_by_hand(name, wanted)}"
            ) from None

    def folder_with(*files: str, wanted: Sequence[str] = _FLAT, locally: bool = False) -> Path:
        patterns = [*_SMALL, *files]
        return Path(asked(snapshot_download, wanted, allow_patterns=patterns, local_files_only=locally))

    with contextlib.suppress(FileNotFoundError):
        folder = folder_with(locally=True)
        if diffusers.is_folder(folder) and diffusers.has_weights(folder):
            return folder
    folder = folder_with()
    if not diffusers.is_folder(folder):
        raise FileNotFoundError(
            f"{name} has no {CONFIG} of a network of diffusers, neither on this disk nor where it was looked for. "
            f"{_by_hand(name, _FLAT)}"
        )
    unet = diffusers.describe(folder)
    unet.plan()
    wanted = _FLAT if unet.path.parent == folder else _PIPELINE
    for file in (wanted[-1], wanted[-1].replace(SAFETENSORS, PICKLED)):
        folder = folder_with(file, wanted=wanted)
        if (folder / file).is_file():
            return folder
    raise diffusers.without_weights(f"{name} on the Hub", asked(list_repo_files, wanted))


def _by_hand(name: str, files: Sequence[str]) -> str:
    return (
        f"Where there is a network: pip install huggingface_hub, then `hf download {name} {' '.join(files)} "
        f"--local-dir FOLDER`, and rd.load('FOLDER')"
    )
