"""Networks by name, such as "google/ddpm-cifar10-32": looked up through huggingface_hub where that is installed."""

from __future__ import annotations

import re
from pathlib import Path

from rust_diffusion.files.diffusers import CONFIG, INDEX, PICKLED, SAFETENSORS, SCHEDULER
from rust_diffusion.support.warning import first_line

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
#: All that is ever read of a network.
_WANTED = [CONFIG, INDEX, SCHEDULER, f"unet/{CONFIG}", f"scheduler/{SCHEDULER}"]
_WEIGHTS = [SAFETENSORS, f"unet/{SAFETENSORS}"]
_PICKLED = [PICKLED, f"unet/{PICKLED}"]


def is_name(path: Path) -> bool:
    """Whether `path`, where nothing lies, could be a name on the Hub."""
    return _NAME.fullmatch(path.as_posix()) is not None


def fetch(name: str) -> Path:
    """Return the folder of a network on the Hub: from the cache on this disk, else fetched.

    Raises
    ------
    FileNotFoundError
        If it is neither here nor to be had; the message says how to fetch it by hand.
    """
    by_hand = (
        f"Where there is a network: pip install huggingface_hub, then `hf download {name} {CONFIG} {SCHEDULER} "
        f"{SAFETENSORS} --local-dir FOLDER`, and rd.load('FOLDER')"
    )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise FileNotFoundError(
            f"there is no file or folder {name}; to look it up on the Hub: pip install 'rust-diffusion[hub]'. {by_hand}"
        ) from None
    try:
        return _with_weights(Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True)))
    except (LocalEntryNotFoundError, FileNotFoundError):
        pass  # not in the cache, or not with its weights
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_WANTED, *_WEIGHTS]))
        if not any((folder / file).is_file() for file in _WEIGHTS):
            folder = Path(snapshot_download(name, allow_patterns=[*_WANTED, *_PICKLED]))
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name} is not on this disk, and its {CONFIG} and {SAFETENSORS} could not be fetched "
            f"({first_line(error)}). {by_hand}"
        ) from None


def _with_weights(folder: Path) -> Path:
    """Return `folder` if it has weights beside the configuration."""
    if not any((folder / file).is_file() for file in (*_WEIGHTS, *_PICKLED)):
        raise FileNotFoundError(f"{folder} has no weights")
    return folder
