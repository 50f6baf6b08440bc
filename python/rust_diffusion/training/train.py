"""The whole training run as one call: arguments are checked here, the loop is the engine's."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rust_diffusion.data.images import load_images
from rust_diffusion.files import checkpoint, lock
from rust_diffusion.model.card import OBJECTIVES, VALUE_RANGE, ModelCard
from rust_diffusion.model.ema import EMA
from rust_diffusion.model.unet import DiffusionUNet
from rust_diffusion.support import checks, graphs, guards, versions
from rust_diffusion.training import distributed, settings
from rust_diffusion.training.batches import Batches, InMemory, as_batches
from rust_diffusion.training.result import EpochInfo, TrainResult
from rust_diffusion.training.run import Files, Run, Surroundings
from rust_diffusion.training.state import State


def train(
    model: Any,
    data: Any,
    *,
    betas: Any,
    epochs: int = 60,
    batch_size: int = 32,
    learning_rate: float = 2e-4,
    weight_decay: float = 1e-4,
    ema_decay: float = 0.9995,
    grad_clip: float = 1.0,
    precision: str = "auto",
    seed: int | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    name: str = "DDPMDenoiser",
    force_restart: bool = False,
    device: str | torch.device | None = None,
    progress: bool = True,
    callback: Callable[[EpochInfo], Any] | None = None,
    lr_schedule: str = "cosine",
    warmup_steps: int = 500,
    accumulate: int = 1,
    ema_warmup: bool = False,
    horizontal_flip: bool = False,
    objective: str = "eps",
    min_snr_gamma: float | None = None,
    val_data: Any = None,
    max_steps: int | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    deterministic: bool = False,
) -> TrainResult:
    """Train `model` in place to predict noise (Ho et al. 2020, algorithm 1); go on where a run was stopped.

    One step draws t and eps for each image, forms x_t, takes the mean squared error of the model's answer,
    clips the gradient's norm, and makes one update of AdamW and one of the averaged weights. Draws from
    torch's generator come in this order: mirrorings (if wanted), t, eps, dropout. With the same seed, the
    same batches and float32 on the CPU the losses are those of the course's loop.

    The loop runs in Rust without the GIL. Ctrl-C, or Stop in Jupyter, ends it within one step with
    `KeyboardInterrupt`, after saving; the same call then goes on at that very batch. The model is left in
    training mode, as by the course's loop.

    Parameters
    ----------
    model : DiffusionUNet
        Float32 weights; changed in place.
    data : Tensor, array, Dataset, DataLoader, batches, or path
        (N, C, H, W) in [-1, 1], or uint8 grey levels, which become (x / 255 - 0.5) / 0.5 on the device. A
        tensor or array is shuffled in each epoch by a generator of its own, seeded from `seed` (or torch's
        generator) and the epoch; a Dataset is put into a shuffling DataLoader; a DataLoader decides its own
        batches. A list of batches is gone through once per epoch, a function is called once per epoch and
        returns an iterator over batches. A path is read by `load_images`, at its size. Of a batch that is a
        tuple, the first part is taken. The last batch of an epoch may be short.
    betas : Tensor
        The schedule, (T,).
    epochs : int
        The target: a resumed run does what is left of it.
    batch_size : int
        For data that are not batched yet.
    learning_rate : float
        At the beginning; it follows a cosine over the epochs, stepped once per epoch.
    weight_decay : float
        Of AdamW.
    ema_decay : float
        Of the averaged weights, between 0 and 1.
    grad_clip : float
        Largest norm of the gradient; ``inf`` leaves it as it is.
    precision : {"auto", "fp32", "bf16", "fp16"}
        What convolutions and matrix products are computed in; weights, group statistics and loss stay
        float32. "auto" is fp32 on the CPU, and on a GPU bf16 if it has it, else fp16. fp16 works with a loss
        scaler, and leaves out updates whose gradient is not finite.
    seed : int, optional
        `torch.manual_seed(seed)` at the beginning.
    weights_dir : path, optional
        Where to keep the files: ``{name}.ckpt`` after each epoch and at an interrupt, ``{name}.pth``
        (averaged weights) and ``{name}_raw.pth`` whenever the loss is the best so far. Nothing is written
        without it. If there is a checkpoint, the run goes on from it; if there are only weights, they are
        loaded and nothing is trained.
    name : str
        First part of the files' names.
    force_restart : bool
        Ignore, and replace, files that are there.
    device : str or torch.device, optional
        Where to train; the model is moved there. Default: where the model is.
    progress : bool
        Show a bar and messages.
    callback : callable, optional
        Called with an `EpochInfo` after each epoch's files are written; returning False ends the run there.
    lr_schedule : {"cosine", "constant", "warmup_cosine"}
        "warmup_cosine" rises in a straight line over the first `warmup_steps` updates.
    warmup_steps : int
        See `lr_schedule`.
    accumulate : int
        Batches per update; their gradients are averaged, image by image.
    ema_warmup : bool
        Average with min(ema_decay, (1 + n) / (10 + n)) at update n, which forgets the initial weights sooner.
    horizontal_flip : bool
        Mirror each image left to right with probability 1/2.
    objective : {"eps", "x0", "v"}
        What the network predicts: the noise, the clean image, or sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans
        and Ho 2022). The samplers read it from the model.
    min_snr_gamma : float, optional
        Weight the loss by min(SNR, gamma) (Hang et al. 2023; they use 5).
    val_data : Tensor, array, Dataset, DataLoader, or batches, optional
        Images held out: their mean squared error after each epoch, with the same timesteps and noise each
        time, goes to `EpochInfo.val_loss` and `TrainResult.val_history`.
    max_steps : int, optional
        End the run after this many updates, counted from its very beginning.
    log_dir : path, optional
        Write the numbers of each epoch to ``{name}.csv`` there, and for TensorBoard if that is installed.
    deterministic : bool
        Let torch compute the same bits each time on a GPU too, at some cost in speed: switches on
        `torch.use_deterministic_algorithms` during the run. On the CPU the bits are the same without it. cuBLAS
        must not have been used before without ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` in the environment.

    Notes
    -----
    Under ``torchrun`` the batches are shared out among the processes (so that `batch_size` stays that of the
    whole), gradients travel as one flat buffer, and rank 0 alone writes files and shows progress.

    Returns
    -------
    TrainResult
        Losses, averaged weights and files; it can `plot()` itself.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used, or a checkpoint is unreadable, foreign, or of another architecture;
        raised before any work, and nothing is overwritten.
    OSError
        If files cannot be written.
    RuntimeError
        If the loss is not finite (the message names epoch and step), another run is writing the same
        files, the GPU failed, or `deterministic` was asked for after CUDA had been used.
    MemoryError
        If a batch does not fit; the message says which size to try.
    KeyboardInterrupt
        After Ctrl-C, once the checkpoint is written.
    """
    if checks.flag("deterministic", deterministic):
        guards.prepare_cublas()  # before anything here asks CUDA for the device
    model = settings.check_model(model)
    options: dict[str, Any] = {
        "epochs": checks.integer("epochs", epochs, 1),
        "learning_rate": checks.number("learning_rate", learning_rate, 0.0),
        "lr_schedule": checks.choice("lr_schedule", lr_schedule, settings.LR_SCHEDULES),
        "warmup_steps": checks.integer("warmup_steps", warmup_steps, 0),
        "weight_decay": checks.number("weight_decay", weight_decay, 0.0),
        "grad_clip": settings.norm_limit("grad_clip", grad_clip),
        "ema_decay": checks.number("ema_decay", ema_decay, 0.0, 1.0),
        "ema_warmup": checks.flag("ema_warmup", ema_warmup),
        "objective": checks.choice("objective", objective, OBJECTIVES),
        "min_snr_gamma": (
            None if min_snr_gamma is None else settings.positive("min_snr_gamma", min_snr_gamma)
        ),
        "accumulate": checks.integer("accumulate", accumulate, 1),
        "horizontal_flip": checks.flag("horizontal_flip", horizontal_flip),
        "max_steps": None if max_steps is None else checks.integer("max_steps", max_steps, 1),
    }
    batch_size = checks.integer("batch_size", batch_size, 1)
    betas = settings.check_betas(betas)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable, got {type(callback).__name__}")
    target = distributed.own_device(checks.device("device", device or next(model.parameters()).device))
    options["precision"] = settings.pick_precision(
        checks.choice("precision", precision, settings.PRECISIONS), target
    )
    if seed is not None:
        seed = checks.integer("seed", seed, -(2**63), 2**64 - 1)
    name = settings.check_name(name)
    force_restart = checks.flag("force_restart", force_restart)
    progress = checks.flag("progress", progress)

    with contextlib.ExitStack() as stack:
        group = stack.enter_context(distributed.group(target))
        options["processes"], options["rank"] = group.processes, group.rank
        options["queued"] = graphs.queues(target)
        folder = group.share(lambda: settings.weights_folder(weights_dir))
        files = Files(folder if group.rank == 0 else None, name)
        if seed is not None:
            torch.manual_seed(seed)
        group.same_random_state(target)
        data, val_data = (_loaded(images, model, progress) for images in (data, val_data))
        batches = as_batches("data", data, batch_size, seed, options["epochs"])
        settings.check_images("data", batches, model)
        val_batches = _validation(val_data, batch_size, model)
        if files.folder is not None:
            stack.enter_context(lock.exclusive(files.path(".lock")))
            checkpoint.clear_leftovers(files.folder, files.name)
        found = group.share(lambda: None if force_restart else _find(files, model, len(betas), options))
        stack.enter_context(guards.deterministic(deterministic, target))
        stack.enter_context(guards.own_modes(target))
        with guards.enough_memory(lambda: "weights, averages and moments do not fit; take a smaller base_ch"):
            # Rows in memory: weights with channels last can be trained on the CPU only, and slowly.
            model.to(target, memory_format=torch.contiguous_format).train()
            options["dropout"] = model._dropout_rate()
            model.card = ModelCard(
                objective=options["objective"],
                betas=betas.detach().to("cpu", torch.float32),
                value_range=VALUE_RANGE,
                trained_with=versions.here(),
            )
            group.same_tensors([parameter.detach() for parameter in model.parameters()])
            state = State(model, EMA(model, options["ema_decay"]), options, len(betas))
        if isinstance(batches, InMemory):
            state.note_images(batches.images)
            state.note_all_seen()
            batches.move_to(target)
        around = Surroundings(
            batches,
            betas,
            files,
            group,
            progress,
            callback,
            val_batches,
            None if log_dir is None else Path(log_dir),
        )
        run = Run(state, around)
        _begin(run, found)
        if not (isinstance(found, _Weights) or _finished(state)):
            with (
                guards.device_errors(lambda: files.paths().get("checkpoint")),
                guards.enough_memory(run.advice),
            ):
                run.go()
            if files.folder is not None and not files.path(".pth").exists():
                run.save_weights()
    return _result(run)


def _loaded(data: Any, model: DiffusionUNet, progress: bool) -> Any:
    """The images of a folder, if `data` names one."""
    if isinstance(data, (str, os.PathLike)):
        return load_images(data, channels=model.config["in_ch"], progress=progress)
    return data


def _validation(val_data: Any, batch_size: int, model: DiffusionUNet) -> Batches | None:
    if val_data is None:
        return None
    batches = as_batches("val_data", val_data, batch_size, seed=0, epochs=2, shuffle=False)
    settings.check_images("val_data", batches, model)
    return batches


class _Weights(dict[str, Any]):
    """A state dict of averaged weights found without a checkpoint."""


def _find(
    files: Files, model: DiffusionUNet, timesteps: int, options: dict[str, Any]
) -> dict[str, Any] | None:
    """What an earlier run left, checked: a checkpoint, else weights, else None."""
    if files.folder is None:
        return None
    path = files.path(".ckpt")
    if path.exists():
        saved = checkpoint.read(path)
        checkpoint.check(saved, model, path)
        _compare(saved, timesteps, options, path)
        _compare_heads(saved, model, path)
        return dict(saved)
    path = files.path(".pth")
    if path.exists():
        weights = checkpoint.read(path)
        checkpoint.check_state(weights, model, path, "the file")
        return _Weights(weights)
    return None


def _compare(saved: dict[str, Any], timesteps: int, options: dict[str, Any], path: Path) -> None:
    """Settings against those of the checkpoint: another task is an error, another number a warning."""
    config = saved.get("config") or {}
    theirs = config.get("num_diffusion_steps", timesteps)
    if theirs != timesteps:
        raise ValueError(f"betas has {timesteps} steps, but {path} was trained with {theirs}")
    objective = saved.get(checkpoint.OWN, {}).get("objective", "eps")
    if objective != options["objective"]:
        raise ValueError(f"objective is {options['objective']!r}, but {path} was trained for {objective!r}")
    for key in ("learning_rate", "weight_decay", "ema_decay", "grad_clip"):
        if key in config and config[key] != options[key]:
            text = f"the run in {path} had {key}={config[key]}; it goes on with {options[key]}"
            warnings.warn(text, stacklevel=5)


def _compare_heads(saved: dict[str, Any], model: DiffusionUNet, path: Path) -> None:
    """The one part of an architecture that leaves no trace in the shapes of the weights."""
    theirs = saved.get(checkpoint.OWN, {}).get("model")
    ours = model.config["num_heads"]
    if isinstance(theirs, dict) and theirs.get("num_heads", ours) != ours:
        raise ValueError(
            f"model has num_heads={ours}, but {path} was trained with num_heads={theirs['num_heads']}"
        )


def _begin(run: Run, found: dict[str, Any] | None) -> None:
    """Take over what was found, and say so."""
    state = run.state
    if isinstance(found, _Weights):
        state.model.load_state_dict(found)
        state.ema.shadow.load_state_dict(found)
        state.ema.initial_share = None
        run.say(f"Found weights and no checkpoint: {run.files.path('.pth')} is loaded, nothing is trained.")
        return
    if found is not None:
        state.load(found)
        run.resume(found.get(checkpoint.OWN))
    if _finished(state):
        run.say(
            f"Nothing to train: {run.files.path('.ckpt')} has its {len(state.history)} epochs. More epochs= go on from "
            f"there; another name=, another weights_dir= or force_restart=True begins anew."
        )
        return
    if found is not None:
        epoch, batch = state.position["epoch"], state.position["batch"]
        run.say(f"Resuming from epoch {epoch + 1}" + (f", batch {batch + 1}." if batch else "."))
    run.say(f"Training in {state.options['precision']} on {run.device}.")


def _finished(state: State) -> bool:
    most, position = state.options["max_steps"], state.position
    return position["epoch"] >= state.options["epochs"] or (most is not None and position["updates"] >= most)


def _result(run: Run) -> TrainResult:
    state = run.state
    return TrainResult(
        history=state.history,
        best_loss=state.best_loss,
        ema=state.ema,
        epochs_run=run.epochs_run,
        precision=state.options["precision"],
        val_history=state.val_history,
        skipped_steps=state.position["skipped"],
        images_per_second=run.images / run.seconds if run.seconds else 0.0,
        paths=run.files.paths(),
    )
