"""What an earlier run left in the folder: found, compared with what is asked for now, and taken over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.files import checkpoint, weights
from rust_diffusion.model.card import ModelCard
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support.warning import warn
from rust_diffusion.training.batches import Batches, InMemory
from rust_diffusion.training.keeping import Files
from rust_diffusion.training.run import Run
from rust_diffusion.training.settings import KEPT, RISING_AT_FIRST, TIME_SAMPLINGS, Settings
from rust_diffusion.training.state import State
from rust_diffusion.training.watch import warn_of_what_is_short

#: Schedules that differ by less are the same, computed on another machine.
_SAME_BETAS = 1e-6
#: A learning rate that goes on at less than so many times its last value does not rise.
_RISE = 1.01


class Weights(dict[str, Any]):
    """A state dict of averaged weights found without a checkpoint, and what their file says of them."""

    def __init__(self, state: dict[str, Any], card: ModelCard | None) -> None:
        super().__init__(state)
        self.card = card


def find(
    files: Files, model: nn.Module, betas: Tensor, settings: Settings, batches: Batches
) -> dict[str, Any] | None:
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
        _compare_tasks(saved, betas, settings, path)
        _compare_traceless(saved, model, path)
        _compare_size(saved, batches, path)
        _compare_plans(saved.get(checkpoint.OWN, {}), settings, path)
        _compare_numbers(saved, settings, path, batches.sized_here)
        return dict(saved)
    path = files.path(".pth")
    if path.exists():
        state = checkpoint.read(path)
        checkpoint.check_state(state, model, path, "the file", checkpoint.way_out("architecture", {}))
        return Weights(state, _card_of_weights(state, model, betas, settings, path))
    return None


def _card_of_weights(
    state: Any, model: nn.Module, betas: Tensor, settings: Settings, path: Path
) -> ModelCard | None:
    """What bare weights say of themselves, compared with what is asked for; None if they say nothing."""
    said = weights.said_with(state)
    if said is None:
        return None
    try:
        card = ModelCard.from_dict(said)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: {error}") from None
    stated = {name: value for name, value in card.to_dict().items() if card.certainty(name) == "stated"}
    # what it does not state is taken to be as asked for
    own = {"objective": settings.objective, "time_sampling": settings.time_sampling, **stated}
    _compare_tasks({checkpoint.OWN: own}, betas, settings, path)
    _compare_traceless({checkpoint.OWN: said}, model, path)
    return card


def _compare_tasks(saved: dict[str, Any], betas: Tensor, settings: Settings, path: Path) -> None:
    """Another schedule or another objective is another task, which the weights do not know."""
    own = saved.get(checkpoint.OWN, {})
    another_schedule = checkpoint.way_out("schedule", saved)
    theirs = own.get("betas")
    known = len(theirs if isinstance(theirs, Tensor) else betas)
    steps = (saved.get("config") or {}).get("num_diffusion_steps", known)
    if steps != len(betas):
        raise ValueError(
            f"betas has {len(betas)} steps, but {path} was trained with {steps}{another_schedule}"
        )
    if isinstance(theirs, Tensor):
        difference = (theirs - betas.detach().to("cpu", torch.float32)).abs()
        if float(difference.max()) > _SAME_BETAS:
            step = int(difference.argmax())
            raise ValueError(
                f"betas is another schedule than {path} was trained with: betas[{step}] is {betas[step]:g}, it "
                f"had {theirs[step]:g}{another_schedule}"
            )
    objective = own.get("objective", "eps")
    if objective != settings.objective:
        raise ValueError(
            f"objective is {settings.objective!r}, but {path} was trained for {objective!r}"
            f"{checkpoint.way_out('objective', saved)}"
        )
    # losses of another weighting or of other times cannot be compared, and the best one decides which weights are kept
    weighting = own.get("min_snr_gamma", settings.min_snr_gamma)
    for name, theirs in [
        ("time_sampling", own.get("time_sampling", TIME_SAMPLINGS[0])),
        ("min_snr_gamma", weighting),
    ]:
        if theirs != getattr(settings, name):
            raise ValueError(
                f"{name} is {getattr(settings, name)!r}, but {path} was trained with {theirs!r}"
                f"{checkpoint.way_out(name, saved)}"
            )


def _compare_traceless(saved: dict[str, Any], model: nn.Module, path: Path) -> None:
    """The parts of our architecture that leave no trace in the shapes of the weights."""
    theirs = saved.get(checkpoint.OWN, {}).get("model")
    if not isinstance(model, DiffusionUNet) or not isinstance(theirs, dict):
        return
    ours = model.config["num_heads"]
    if theirs.get("num_heads", ours) != ours:
        raise ValueError(
            f"model has num_heads={ours}, but {path} was trained with num_heads={theirs['num_heads']}"
            f"{checkpoint.way_out('num_heads', saved)}"
        )
    rate = model.config["dropout"]
    if _differ(theirs.get("dropout", rate), rate):
        warn(f"the run in {path} had dropout={theirs['dropout']!r}; it goes on with dropout={rate!r}")


def _compare_size(saved: dict[str, Any], batches: Batches, path: Path) -> None:
    """Images of another size are other images."""
    theirs = saved.get(checkpoint.OWN, {}).get("image_size")
    if theirs is None or not isinstance(batches, InMemory):
        return
    ours = tuple(batches.images.shape[-2:])
    if tuple(theirs) != ours:
        warn(
            f"the run in {path} had images of {theirs[0]} x {theirs[1]}; it goes on with {ours[0]} x {ours[1]}"
        )


def _compare_numbers(saved: dict[str, Any], settings: Settings, path: Path, sized_here: bool) -> None:
    """Another number is the user's right, and worth a warning."""
    own = saved.get(checkpoint.OWN, {})
    theirs = {**(saved.get("config") or {}), **own.get("settings", {})}
    compared = {"learning_rate", "weight_decay", "ema_decay", "grad_clip", *KEPT} - {"seed"}
    if not sized_here:
        compared -= {"batch_size"}
    if settings.lr_schedule not in RISING_AT_FIRST:
        compared -= {"warmup_steps"}
    for key in sorted(compared & theirs.keys()):
        value = getattr(settings, key)
        if _differ(theirs[key], value):
            warn(f"the run in {path} had {key}={theirs[key]!r}; it goes on with {key}={value!r}")
    if settings.seed is not None and _differ(theirs.get("seed", settings.seed), settings.seed):
        began = "no seed" if theirs["seed"] is None else f"seed={theirs['seed']}"
        warn(
            f"the run in {path} began with {began}; it goes on with that run's random numbers, and "
            f"seed={settings.seed} changes nothing"
        )


def _differ(theirs: Any, ours: Any) -> bool:
    """Whether what a checkpoint has, which may be anything, is another value."""
    return not isinstance(theirs, (int, float, str, type(None))) or theirs != ours


def _compare_plans(own: dict[str, Any], settings: Settings, path: Path) -> None:
    """A run in minutes settles its length at its beginning, and keeps to it."""
    if settings.minutes is None:
        return
    plan = own.get("plan")
    if plan is None:
        raise ValueError(
            f"minutes={settings.minutes:g} is for a run that begins, but {path} is that of one with epochs: go on with "
            f"epochs=, take another name= or weights_dir=, or force_restart=True"
        )
    if "updates" in plan and plan["minutes"] != settings.minutes:
        warn(
            f"the run in {path} was settled at {plan['updates']} updates, for minutes={plan['minutes']:g}; it goes on "
            f"to those, not for minutes={settings.minutes:g}"
        )


def begin(run: Run, found: dict[str, Any] | None) -> bool:
    """Take over what was found, and say so; return whether anything is left to train."""
    state, files = run.state, run.files
    if isinstance(found, Weights):
        state.model.load_state_dict(found)
        state.ema.shadow.load_state_dict(found)
        state.note_card(found.card)
        state.ema.initial_share = None if found.card is None else found.card.initial_share
        run.say(f"Found weights and no checkpoint: {files.path('.pth')} is loaded, nothing is trained.")
        return False
    if found is not None:
        state.load(found)
        state.replan(found, run.batches.count())
        run.resume(found.get(checkpoint.OWN))
    if state.is_finished:
        run.say(
            f"Nothing to train: {files.path('.ckpt')} has its {_length(state)}. To go on from there say "
            f"{_more(state)}; another name=, another weights_dir= or force_restart=True begins anew."
        )
        return False
    if found is not None:
        epoch, batch = state.position["epoch"], state.position["batch"]
        run.say(f"Resuming from epoch {epoch + 1}" + (f", batch {batch + 1}." if batch else "."))
    if run.group.rank == 0 and not state.is_open:
        if found is not None:
            _warn_of_rate(state, found)
        warn_of_what_is_short(state, run.batches.count())
    run.say(f"Training in {state.settings.precision} on {run.device}.")
    return True


def _length(state: State) -> str:
    """What a finished run has made: epochs, or the updates that ended it inside one."""
    inside = state.position["batch"] > 0
    return f"{state.position['updates']} updates" if inside else f"{len(state.history)} epochs"


def _more(state: State) -> str:
    """What makes a finished run longer."""
    if state.settings.minutes is not None:
        return f"epochs= above {state.position['epoch']} instead of minutes="
    return f"a larger {'epochs' if state.position['epoch'] >= state.settings.epochs else 'max_steps'}="


def _warn_of_rate(state: State, found: dict[str, Any]) -> None:
    """Warn where a rate that had come to its end rises again, since the run is to be longer than it was planned."""
    epoch, updates = state.position["epoch"], state.position["updates"]
    own = found.get(checkpoint.OWN, {})
    by_epochs = (found.get("config") or {}).get("target_epochs") == epoch
    by_updates = updates in ((own.get("plan") or {}).get("updates"), own.get("planned_updates"))
    if not (by_epochs or by_updates) or state.settings.lr_schedule == "constant":
        return
    # of the last update, as that run had planned it: its epochs, and its updates where the rate follows them
    then = {**state.options, "epochs": epoch, "updates": updates}
    before = _native.learning_rate(then, epoch - 1, updates - 1)
    now = _native.learning_rate(state.options, epoch, updates)
    if now <= before * _RISE:
        return
    planned, total = f"{epoch} epochs", state.settings.epochs
    if not by_epochs:
        planned, total = f"{updates} updates", state.options["updates"]
    warn(
        f"the learning rate had come to its end, {before:.2g}, after the {planned} planned; it goes on at "
        f"{now:.2g}, as if {total} had been planned from the beginning"
    )
