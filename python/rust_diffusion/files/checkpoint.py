"""The trainer's files: written whole or not at all, read without running anything that is in them."""

from __future__ import annotations

import os
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.files import atomic
from rust_diffusion.model.card import ModelCard
from rust_diffusion.support import checks, random
from rust_diffusion.support.warning import first_line

#: What a checkpoint must have to go on from; the course's own loop writes all of them.
REQUIRED = ("epoch", "model", "ema", "optimizer")
#: Our own key: what the course leaves out.
OWN = "rust_diffusion"
FORMAT = 1
_CHUNK = 2**20
#: What a recipe decides of a checkpoint's task.
_OF_RECIPES = ("architecture", "num_heads", "schedule", "objective")
#: How much of an error is quoted, in characters: a damaged file's can be as long as the file.
_QUOTED = 200


def save(value: Any, path: Path) -> None:
    """`torch.save(value, path)`, atomically.

    Raises
    ------
    OSError
        If the file cannot be written; the message names it.
    """
    with atomic.replacing(path) as file:
        torch.save(value, file)


def clear_leftovers(folder: Path, name: str) -> None:
    """Remove the unfinished files of runs that were killed while they wrote."""
    for suffix in (".ckpt", ".pth", "_raw.pth"):
        atomic.clear_leftovers(folder / f"{name}{suffix}")


def check_folder(folder: Path) -> None:
    """Make `folder` if need be, and see that files can be written there.

    Raises
    ------
    OSError
        NotADirectoryError, PermissionError and the like; the message names the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a name for each thread: two may look at once
        probe = folder / f".writable.{os.getpid()}.{threading.get_ident()}.tmp"
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
        return load(path)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Move it away, or pass force_restart=True to replace it."
        ) from None


def load(path: Path, *, lazily: bool = False) -> Any:
    """`torch.load(path)` on the CPU, weights only, of a file whose checksums hold.

    With `lazily` the tensors stay in the file until they are used, and its checksums are not compared.

    Raises
    ------
    ValueError
        If it is damaged, no torch file, or holds anything else; the message does not name the file.
    OSError
        If it cannot be read.
    """
    if not path.is_file():  # to open a pipe would wait for ever
        raise ValueError("it is not a file" if path.exists() else "it is not there")
    with open(path, "rb"):
        pass  # whether it may be read: torch words that in its own way
    damage = _damage(path, checksums=not lazily)
    if damage is not None:
        raise ValueError(f"it is damaged ({damage})")
    mapped = lazily and zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it holds something that is not a tensor or a plain value, or it is no torch file; nothing of it was run"
        ) from error
    except Exception as error:
        # Any kind comes out of a damaged file, even an OSError that speaks of the disk.
        raise ValueError(f"it is truncated, or no torch file ({first_line(error, _QUOTED)})") from None


def _damage(path: Path, checksums: bool) -> str | None:
    """What is wrong with a torch file by its own table and checksums, which torch does not look at; None if nothing."""
    try:
        if not zipfile.is_zipfile(path):
            return None  # torch's old format has none, and anything else is refused later
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch stores and never compresses: what would grow in memory is somebody's bomb
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "its parts are compressed, which torch never does"
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                return "its parts are larger than the whole"
            # torch.serialization.set_crc32_options(False) leaves the checksums all at 0
            for entry in entries if checksums else ():
                if entry.CRC != 0:
                    _read_through(archive, entry)
    except Exception as error:  # an OSError too: places outside the file
        return first_line(error, _QUOTED)
    return None


def _read_through(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Read a part to its end, where zipfile compares its checksum."""
    with archive.open(entry) as part:
        while part.read(_CHUNK):
            pass


def way_out(what: str, checkpoint: dict[str, Any]) -> str:
    """What to do about a checkpoint that is of another `what` than is asked for: how such messages end."""
    plan = checkpoint.get(OWN, {}).get("plan")
    # a recipe for other minutes has another network: who changed them sees what the run began with
    by_recipe = plan and what in _OF_RECIPES
    minutes = f" (it is of a run with minutes={plan['minutes']:g}, which recipes go by)" if by_recipe else ""
    return f". Take that {what}{minutes}, another name= or weights_dir=, or force_restart=True"


def check_state(state: Any, model: nn.Module, path: Path, part: str, advice: str) -> None:
    """Whether `state` is a state dict of this very architecture.

    Raises
    ------
    ValueError
        If a key is missing, unknown, or of another shape; the message names the file and the first such key, and ends
        in `advice`.
    """
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: {part} is not a state dict of tensors")
    wanted = model.state_dict()
    for key, value in wanted.items():
        if key not in state:
            raise ValueError(f"{path} is of another architecture: {part} has no {key!r}{advice}")
        if state[key].shape != value.shape:
            raise ValueError(
                f"{path} is of another architecture: {part}[{key!r}] has shape {tuple(state[key].shape)}, "
                f"the model's has {tuple(value.shape)}{advice}"
            )
        if value.is_floating_point():
            _check_numbers(state[key], f"{part}[{key!r}]", path)
        elif state[key].dtype != value.dtype:
            raise ValueError(f"{path}: {part}[{key!r}] is {state[key].dtype}, the model's is {value.dtype}")
    for key in state:
        if key not in wanted:
            raise ValueError(
                f"{path} is of another architecture: {part} has {key!r}, which the model does not have{advice}"
            )


def _check_numbers(tensor: Tensor, what: str, path: Path) -> None:
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"{path}: {what} is not an ordinary floating-point tensor")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{path}: {what} holds NaN or infinity")


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
    if OWN in checkpoint:
        _check_own(checkpoint[OWN], path)
    advice = way_out("architecture", checkpoint)
    check_state(checkpoint["model"], model, path, "model", advice)
    ema = checkpoint["ema"]
    if not isinstance(ema, dict) or "shadow" not in ema or not isinstance(ema.get("decay"), (int, float)):
        raise ValueError(f"{path}: ema is not a dict with 'decay' and 'shadow'")
    check_state(ema["shadow"], model, path, "ema['shadow']", advice)
    _check_optimizer(checkpoint["optimizer"], model, path)
    epoch, history = checkpoint["epoch"], checkpoint.get("history", [])
    if not isinstance(epoch, int) or epoch < -1:
        raise ValueError(f"{path}: epoch must be the last finished one, at least -1, it is {epoch!r}")
    if not isinstance(history, (list, tuple)) or not all(isinstance(loss, (int, float)) for loss in history):
        raise ValueError(f"{path}: history must be a list of losses")
    for key in ("config", "scaler"):
        if not isinstance(checkpoint.get(key) or {}, dict):
            raise ValueError(f"{path}: {key} is not a dict")
    for value, what in (
        (checkpoint.get("best_loss", 0.0), "best_loss"),
        (ema["decay"], "ema['decay']"),
        *((value, f"scaler[{key!r}]") for key, value in (checkpoint.get("scaler") or {}).items()),
    ):
        if not isinstance(value, (int, float)):
            raise ValueError(f"{path}: {what} is not a number")


def _check_own(own: Any, path: Path) -> None:
    """Our own part, as far as it is used: a run must be refused before it has changed anything."""
    if not isinstance(own, dict) or not isinstance(own.get("format", FORMAT), int):
        raise ValueError(f"{path}: {OWN} is not a dict with a format")
    if own.get("format", FORMAT) > FORMAT:
        raise ValueError(
            f"{path} was written by a newer rust_diffusion ({own.get('version')}); upgrade to read it"
        )
    try:
        position, usual = own["position"], _native.first_position()
        for key, number in usual.items():
            if isinstance(number, int):
                checks.integer(f"position[{key!r}]", position.get(key, number), 0)
            else:
                checks.number(f"position[{key!r}]", position.get(key, number))
        if own["order_seed"] is not None:
            checks.integer("order_seed", own["order_seed"])
        if not all(value is None or isinstance(value, float) for value in own["val_history"]):
            raise TypeError("val_history is not a list of losses")
        if (plan := own.get("plan")) is not None:
            checks.number("plan['minutes']", plan["minutes"], 0.0)
            for key in ("epochs", "updates") if "updates" in plan else ():
                checks.integer(f"plan[{key!r}]", plan[key], 1)
        if not isinstance(own.get("settings", {}), dict):
            raise TypeError("settings is not a dict")
        for when in ("now", "epoch_start"):
            random.check(own["random"][when])
        ModelCard.from_dict(own)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error, _QUOTED)}"
        raise ValueError(f"{path}: its part {OWN!r} cannot be used ({reason})") from None


def _check_optimizer(optimizer: Any, model: nn.Module, path: Path) -> None:
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("state"), dict):
        raise ValueError(f"{path}: optimizer is not the state dict of a torch.optim.AdamW")
    state = optimizer["state"]
    # torch counts all parameters, and has states of those that were trained
    shapes = {index: p.shape for index, p in enumerate(model.parameters()) if p.requires_grad}
    if state and set(state) != set(shapes):
        raise ValueError(
            f"{path}: optimizer has states for {len(state)} parameters, the model has {len(shapes)}"
        )
    for index, entry in state.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), (int, float, Tensor)):
            raise ValueError(f"{path}: optimizer has no step of parameter {index}")
        if isinstance(entry["step"], Tensor) and (entry["step"].numel() != 1 or entry["step"].is_complex()):
            raise ValueError(f"{path}: optimizer's step of parameter {index} is not one number")
        for key in ("exp_avg", "exp_avg_sq"):
            if not isinstance(entry.get(key), Tensor) or entry[key].shape != shapes[index]:
                raise ValueError(
                    f"{path}: optimizer's {key} of parameter {index} is missing or of another shape"
                )
            _check_numbers(entry[key], f"optimizer's {key} of parameter {index}", path)
