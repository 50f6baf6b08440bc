"""What an earlier run left in the folder: found, compared with what is asked for now, and taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion.files import checkpoint
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.sampling.arguments import MAX_INITIAL_SHARE
from rust_diffusion.support.warning import warn
from rust_diffusion.training.keeping import Files
from rust_diffusion.training.run import Run
from rust_diffusion.training.settings import TIME_SAMPLINGS, Settings

#: What a well-chosen average leaves of the weights it began with.
_GOOD_SHARE = 0.01
#: Schedules that differ by less are the same, computed on another machine.
_SAME_BETAS = 1e-6


class Weights(dict[str, Any]):
    """A state dict of averaged weights found without a checkpoint."""


def find(files: Files, model: nn.Module, betas: Tensor, settings: Settings) -> dict[str, Any] | None:
    """What an earlier run left, checked: a checkpoint, else weights, else None.

    Raises
    ------
    ValueError
        If it is unreadable, of another architecture or for another task.
    """
    if files.folder is None or settings.force_restart:
        return None
    path = files.path(".ckpt")
    if path.exists():
        saved = checkpoint.read(path)
        checkpoint.check(saved, model, path)
        own = saved.get(checkpoint.OWN, {})
        _compare_tasks(saved.get("config") or {}, own, betas, settings, path)
        _compare_heads(own, model, path)
        _compare_numbers(saved.get("config") or {}, settings, path)
        return dict(saved)
    path = files.path(".pth")
    if path.exists():
        weights = checkpoint.read(path)
        checkpoint.check_state(weights, model, path, "the file")
        return Weights(weights)
    return None


def _compare_tasks(
    config: dict[str, Any], own: dict[str, Any], betas: Tensor, settings: Settings, path: Path
) -> None:
    """Another schedule or another objective is another task, which the weights do not know."""
    steps = config.get("num_diffusion_steps", len(betas))
    if steps != len(betas):
        raise ValueError(f"betas has {len(betas)} steps, but {path} was trained with {steps}")
    theirs = own.get("betas")
    if isinstance(theirs, Tensor):
        difference = (theirs - betas.detach().to("cpu", torch.float32)).abs()
        if float(difference.max()) > _SAME_BETAS:
            step = int(difference.argmax())
            raise ValueError(
                f"betas is another schedule than {path} was trained with: betas[{step}] is {betas[step]:g}, it "
                f"had {theirs[step]:g}. Take that schedule, another name= or weights_dir=, or force_restart=True"
            )
    objective = own.get("objective", "eps")
    if objective != settings.objective:
        raise ValueError(f"objective is {settings.objective!r}, but {path} was trained for {objective!r}")
    times = own.get("time_sampling", TIME_SAMPLINGS[0])
    if times != settings.time_sampling:
        raise ValueError(
            f"time_sampling is {settings.time_sampling!r}, but {path} was trained with {times!r}"
        )


def _compare_heads(own: dict[str, Any], model: nn.Module, path: Path) -> None:
    """The one part of our architecture that leaves no trace in the shapes of the weights."""
    theirs = own.get("model")
    if not isinstance(model, DiffusionUNet) or not isinstance(theirs, dict):
        return
    ours = model.config["num_heads"]
    if theirs.get("num_heads", ours) != ours:
        raise ValueError(
            f"model has num_heads={ours}, but {path} was trained with num_heads={theirs['num_heads']}"
        )


def _compare_numbers(config: dict[str, Any], settings: Settings, path: Path) -> None:
    """Another number is the user's right, and worth a warning."""
    for key in ("learning_rate", "weight_decay", "ema_decay", "grad_clip"):
        value = getattr(settings, key)
        if key in config and config[key] != value:
            warn(f"the run in {path} had {key}={config[key]}; it goes on with {value}")


def begin(run: Run, found: dict[str, Any] | None) -> bool:
    """Take over what was found, and say so; return whether anything is left to train."""
    state, files = run.state, run.files
    if isinstance(found, Weights):
        state.model.load_state_dict(found)
        state.ema.shadow.load_state_dict(found)
        state.ema.initial_share = None
        run.say(f"Found weights and no checkpoint: {files.path('.pth')} is loaded, nothing is trained.")
        return False
    if found is not None:
        state.load(found)
        run.resume(found.get(checkpoint.OWN))
    if state.is_finished:
        run.say(
            f"Nothing to train: {files.path('.ckpt')} has its {len(state.history)} epochs. More epochs= go on from "
            f"there; another name=, another weights_dir= or force_restart=True begins anew."
        )
        return False
    if found is not None:
        epoch, batch = state.position["epoch"], state.position["batch"]
        run.say(f"Resuming from epoch {epoch + 1}" + (f", batch {batch + 1}." if batch else "."))
    _warn_of_average(run)
    run.say(f"Training in {state.settings.precision} on {run.device}.")
    return True


def _warn_of_average(run: Run) -> None:
    """Say before the first update that there are too few of them for the averaged weights."""
    state, batches = run.state, run.batches.count()
    if batches is None or run.group.rank > 0 or state.settings.ema_warmup:
        return
    updates, decay = state.updates_left(batches), state.settings.ema_decay
    share = state.position["initial_share"] * decay**updates
    if share > MAX_INITIAL_SHARE:
        enough = _GOOD_SHARE ** (1 / max(updates, 1))
        warn(
            f"after the {updates} updates of this run {100 * share:.0f} % of the averaged weights (EMA) will still be "
            f"the ones that training began with, at ema_decay={decay:g}: take ema_warmup=True, "
            f"ema_decay={enough:.3g} or less, or more epochs"
        )
