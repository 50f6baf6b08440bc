"""The trainer's files: written whole or not at all, read without running anything that is in them."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: What a checkpoint must have to go on from; the course's own loop writes all of them.
REQUIRED = ("epoch", "model", "ema", "optimizer")
#: Our own key: what the course leaves out.
OWN = "rust_diffusion"
FORMAT = 1


def save(value: Any, path: Path) -> None:
    """`torch.save(value, path)`, atomically: whatever happens, the old file is there or the new one.

    Raises
    ------
    OSError
        If the file cannot be written; the message names it.
    """
    # Into memory first: on a full disk torch's own writer ends in an error that does not say so.
    buffer = io.BytesIO()
    torch.save(value, buffer)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            text = f"{os.strerror(error.errno or 0)}; what was saved before is still there"
            raise OSError(error.errno, text, str(path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """The new name on the disk, not only in memory."""
    with contextlib.suppress(OSError):  # not every file system knows it
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clear_leftovers(folder: Path, name: str) -> None:
    """Remove the unfinished files of runs that were killed while they wrote."""
    for suffix in (".ckpt", ".pth", "_raw.pth"):
        for path in folder.glob(f".{glob.escape(name + suffix)}.*.tmp"):
            path.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Make `folder` if need be, and see that files can be written there.

    Raises
    ------
    OSError
        NotADirectoryError, PermissionError and the like; the message names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        kind = NotADirectoryError if isinstance(error, FileExistsError) else type(error)
        text = f"weights_dir cannot be written to ({os.strerror(error.errno or 0)})"
        raise kind(error.errno, text, str(folder)) from None


def read(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU. Nothing in the file is executed.

    Raises
    ------
    ValueError
        If the file is truncated, is no torch file, or holds anything but tensors and plain values.
    OSError
        If it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it holds something that is not a tensor or a plain value, or it is no "
            f"torch file ({_first_line(error)}). Move it away, or pass force_restart=True to replace it."
        ) from None
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read: it is truncated, or no torch file ({_first_line(error)}). "
            f"Move it away, or pass force_restart=True to replace it."
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def check_state(state: Any, model: nn.Module, path: Path, part: str) -> None:
    """Whether `state` is a state dict of this very architecture.

    Raises
    ------
    ValueError
        If a key is missing, unknown, or of another shape; the message names the file and the first such key.
    """
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: {part} is not a state dict of tensors")
    wanted = model.state_dict()
    for key, value in wanted.items():
        if key not in state:
            raise ValueError(f"{path} is of another architecture: {part} has no {key!r}")
        if state[key].shape != value.shape:
            raise ValueError(
                f"{path} is of another architecture: {part}[{key!r}] has shape {tuple(state[key].shape)}, "
                f"the model's has {tuple(value.shape)}"
            )
    for key in state:
        if key not in wanted:
            raise ValueError(
                f"{path} is of another architecture: {part} has {key!r}, which the model has not"
            )


def check(checkpoint: Any, model: nn.Module, path: Path) -> None:
    """Whether a run of `model` can go on from `checkpoint`, the course's or ours.

    Raises
    ------
    ValueError
        If not; the message names the file and what is wrong with it.
    """
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in REQUIRED):
        missing = [key for key in REQUIRED if not isinstance(checkpoint, dict) or key not in checkpoint]
        raise ValueError(
            f"{path} is not a training checkpoint: it has no {', '.join(map(repr, missing))}. "
            f"Move it away, or pass force_restart=True to replace it."
        )
    check_state(checkpoint["model"], model, path, "model")
    ema = checkpoint["ema"]
    if not isinstance(ema, dict) or "shadow" not in ema or not isinstance(ema.get("decay"), (int, float)):
        raise ValueError(f"{path}: ema is not a dict with 'decay' and 'shadow'")
    check_state(ema["shadow"], model, path, "ema['shadow']")
    _check_optimizer(checkpoint["optimizer"], model, path)
    epoch, history = checkpoint["epoch"], checkpoint.get("history", [])
    if not isinstance(epoch, int) or epoch < -1:
        raise ValueError(f"{path}: epoch must be the last finished one, at least -1, it is {epoch!r}")
    if not isinstance(history, (list, tuple)) or not all(isinstance(loss, (int, float)) for loss in history):
        raise ValueError(f"{path}: history must be a list of losses")
    own = checkpoint.get(OWN, {})
    if isinstance(own, dict) and own.get("format", FORMAT) > FORMAT:
        raise ValueError(
            f"{path} was written by a newer rust_diffusion ({own.get('version')}); upgrade to read it"
        )


def _check_optimizer(optimizer: Any, model: nn.Module, path: Path) -> None:
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise ValueError(f"{path}: optimizer is not the state dict of a torch.optim.AdamW")
    state = optimizer["state"]
    shapes = [parameter.shape for parameter in model.parameters()]
    if state and sorted(state) != list(range(len(shapes))):
        raise ValueError(
            f"{path}: optimizer has states for {len(state)} parameters, the model has {len(shapes)}"
        )
    for index, entry in state.items():
        for key in ("exp_avg", "exp_avg_sq"):
            if not isinstance(entry.get(key), Tensor) or entry[key].shape != shapes[index]:
                raise ValueError(
                    f"{path}: optimizer's {key} of parameter {index} is missing or of another shape"
                )
