"""From what `train` is given to a run that only has to go: arguments first, then files, then memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.data.files import is_paths
from rust_diffusion.data.images import load_images
from rust_diffusion.files import checkpoint, lock
from rust_diffusion.model.card import FLOW, VALUE_RANGE, ModelCard, card_of
from rust_diffusion.model.ema import EMA
from rust_diffusion.model.network import Network
from rust_diffusion.support import checks, graphs, guards, versions
from rust_diffusion.support.warning import warn
from rust_diffusion.training import distributed
from rust_diffusion.training.batches import Batches, InMemory, as_batches
from rust_diffusion.training.distributed import Group
from rust_diffusion.training.keeping import Files
from rust_diffusion.training.network import (
    channels_of,
    check_images,
    check_model,
    check_state,
    runs_in_engine,
)
from rust_diffusion.training.plan import Budget
from rust_diffusion.training.result import EpochInfo
from rust_diffusion.training.resume import find
from rust_diffusion.training.run import Run, Surroundings
from rust_diffusion.training.settings import FALLING_BY_EPOCHS, Settings
from rust_diffusion.training.state import State
from rust_diffusion.training.watch import Looks, SampleSheets

#: What a schedule may leave of the signal at its end: the linear one has 0.02 after 400 steps.
_SIGNAL_LEFT = 0.05


@dataclass
class Given:
    """What `train` is given beside plain values."""

    model: Any
    data: Any
    betas: Any
    weights_dir: str | os.PathLike[str] | None
    device: str | torch.device | None
    callback: Callable[[EpochInfo], Any] | None
    val_data: Any
    log_dir: str | os.PathLike[str] | None


def prepare(
    given: Given, settings: Settings, stack: contextlib.ExitStack
) -> tuple[Run, dict[str, Any] | None]:
    """Check and make everything that a run needs; `stack` undoes at its end what must be undone.

    Returns
    -------
    tuple
        The run, and what an earlier one left: see `resume.find`.
    """
    budget = None if settings.minutes is None else Budget(settings.minutes)
    if settings.deterministic:
        guards.prepare_cublas()  # before anything here asks CUDA for the device
    model = check_model(given.model)
    betas = _check_betas(given.betas, settings.objective)
    if given.weights_dir is not None:
        check_state(model)
    if given.callback is not None and not callable(given.callback):
        raise TypeError(f"callback must be callable, got {type(given.callback).__name__}")
    device = given.device or next(model.parameters()).device
    device = distributed.own_device(checks.device("device", device))
    settings.pick_precision(device)

    group = stack.enter_context(distributed.group(device))
    files = Files(group.share(lambda: _weights_folder(given.weights_dir)), settings.name)
    if settings.seed is not None:
        torch.manual_seed(settings.seed)
    group.same_random_state(device)
    batches = _batches("data", given.data, model, settings, settings.seed)
    val_batches = None
    if given.val_data is not None:
        size = batches.images.shape[-2:] if isinstance(batches, InMemory) else None
        val_batches = _batches("val_data", given.val_data, model, settings, 0, held_out=True, size=size)
    sheets = _sheets(files, settings, batches, model)
    if files.folder is not None and group.rank == 0:
        stack.enter_context(lock.exclusive(files.path(".lock")))
        checkpoint.clear_leftovers(files.folder, files.name)
    found = group.share(lambda: find(files, model, betas, settings, batches))

    stack.enter_context(guards.deterministic(settings.deterministic, device))
    stack.enter_context(guards.own_modes(device))
    with guards.enough_memory(lambda: "weights, averages and moments do not fit; take a smaller base_ch"):
        state = _state(model, settings, betas, device, group, _updates(settings, batches))
    if isinstance(batches, InMemory):
        state.note_images(batches.images)
        state.note_all_seen()
        batches.move_to(device)
    log_dir = None if given.log_dir is None else Path(given.log_dir)
    looks = Looks(val_batches, sheets, betas, settings.objective)
    around = Surroundings(batches, betas, files, group, looks, given.callback, log_dir, budget)
    return Run(state, around), found


def _check_betas(betas: Any, objective: str) -> Tensor:
    """A schedule: (T,), floating point, between 0 and 1, and rising as noise does."""
    if not hasattr(betas, "shape"):
        raise TypeError(f"betas must be a torch.Tensor or a NumPy array, got {type(betas).__name__}")
    tensor = checks.tensor("betas", betas)
    _native.check_betas(tensor)
    first, last = float(tensor[0]), float(tensor[-1])
    if last < first:
        warn(
            f"betas fall from {first:g} to {last:g}, where noise schedules rise. If they are turned round, take "
            f"betas.flip(0); if they are alphas, 1 - alphas; alpha_bars are cumprod(1 - betas), not betas"
        )
    left = float(torch.cumprod(1 - tensor.double(), 0)[-1])
    if left > _SIGNAL_LEFT and objective != FLOW:
        warn(
            f"at the last of the {len(tensor)} timesteps alpha_bar is still {left:.2g}, but samplers begin there with "
            f"nothing but noise: greys will be wrong. cosine_beta_schedule ends in noise whatever the number of steps"
        )
    return tensor


def _weights_folder(folder: Any) -> Path | None:
    """A folder to write to, made if need be."""
    if folder is None:
        return None
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"weights_dir must be a path, got {type(folder).__name__}")
    if not os.fspath(folder) or "\0" in os.fsdecode(folder):
        raise ValueError(f"weights_dir must be the path of a folder, got {folder!r}")
    path = Path(folder)
    checkpoint.check_folder(path)
    return path


def _batches(
    name: str,
    data: Any,
    model: nn.Module,
    settings: Settings,
    seed: int | None,
    held_out: bool = False,
    size: tuple[int, ...] | None = None,
) -> Batches:
    """`data` in whatever form, or the images of files, as batches that fit the model; `size` is that of other data."""
    if is_paths(data):
        options = {} if size is None else {"size": tuple(size)}
        data = _read(name, data, channels=channels_of(model) or 1, progress=settings.progress, **options)
    # held-out images are read after every epoch, and once more than that; nobody knows how often in minutes
    epochs = None if held_out or settings.minutes is not None else settings.epochs
    batches = as_batches(name, data, settings.batch_size, seed, epochs, shuffle=not held_out)
    batches.name, batches.key = name, settings.key
    if settings.key is not None and not held_out and isinstance(batches, InMemory):
        warn(f"key={settings.key!r} says where dicts have their images, but {name} gives no dicts")
    check_images(name, batches, model)
    if size is not None and isinstance(batches, InMemory) and batches.images.shape[-2:] != size:
        height, width = batches.images.shape[-2:]
        warn(f"{name} has images of {height} x {width}, and data of {size[0]} x {size[1]}")
    return batches


def _read(name: str, path: Any, **options: Any) -> Tensor:
    """The images of files; errors name the argument of `train`, not that of `load_images`."""
    try:
        return load_images(path, **options)
    except (OSError, ValueError) as error:
        raise type(error)(f"{name}{str(error).removeprefix('path')}") from error


def _sheets(files: Files, settings: Settings, batches: Batches, model: nn.Module) -> SampleSheets | None:
    """Where samples go, if they are asked for."""
    if settings.sample_every is None:
        return None
    if settings.minutes is None and settings.sample_every > settings.epochs:
        warn(
            f"sample_every={settings.sample_every} leaves no samples, as there are only epochs={settings.epochs}"
        )
    if files.folder is None:
        raise ValueError(f"sample_every={settings.sample_every} needs a weights_dir to write to")
    channels = batches.images.shape[1] if isinstance(batches, InMemory) else channels_of(model)
    if channels not in (None, 1, 3):
        raise ValueError(
            f"sample_every={settings.sample_every} draws pictures, of 1 or 3 channels, but the images have {channels}: "
            f"leave it out, and draw in callback= what can be shown of them"
        )
    return SampleSheets(files.path("_samples"), settings.sample_every)


def _updates(settings: Settings, batches: Batches) -> int | None:
    """All updates of the run, if the rate follows them; of a run in minutes nobody knows yet."""
    count = batches.count()
    if settings.minutes is not None:
        if count is None and settings.lr_schedule in FALLING_BY_EPOCHS:
            raise ValueError(
                f"lr_schedule={settings.lr_schedule!r} falls until the last epoch, but minutes= settles updates, and "
                f"data does not say how many batches an epoch has: take lr_schedule='smooth_cosine', or epochs="
            )
        return None
    if settings.lr_schedule != "smooth_cosine":
        return None
    limits = [] if count is None else [settings.epochs * settings.updates_in(count)]
    limits += [] if settings.max_steps is None else [settings.max_steps]
    if not limits:
        raise ValueError(
            "lr_schedule='smooth_cosine' falls until the last update, but data does not say how many batches it "
            "has: give max_steps or minutes"
        )
    return min(limits)


def _state(
    model: nn.Module,
    settings: Settings,
    betas: Tensor,
    device: torch.device,
    group: Group,
    updates: int | None,
) -> State:
    """Weights, averages and moments on the device, the same on every process."""
    # Rows in memory: weights with channels last can be trained on the CPU only, and slowly.
    model.to(device, memory_format=torch.contiguous_format).train()  # type: ignore[call-overload]
    for parameter in model.parameters():
        if not parameter.is_contiguous():
            parameter.data = parameter.data.contiguous()
    card = ModelCard(
        objective=settings.objective,
        betas=betas.detach().to("cpu", torch.float32),
        value_range=VALUE_RANGE,
        trained_with=versions.here(),
    )
    if not hasattr(model, "card") or card_of(model) is not None:
        model.card = card  # type: ignore[assignment] # whatever its class
    group.same_tensors([tensor.detach() for tensor in (*model.parameters(), *model.buffers())])
    options = settings.for_engine(
        # another network draws, or does not, by itself; processes must then draw apart
        dropout=model._dropout_rate() if isinstance(model, Network) and runs_in_engine(model) else 1.0,
        processes=group.processes,
        rank=group.rank,
        queued=graphs.queues(device),
        updates=updates,
        open=settings.minutes is not None,
    )
    return State(model, EMA(model, settings.ema_decay), settings, options, card)
