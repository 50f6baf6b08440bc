"""The whole training run as one call: settings, preparation, run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from rust_diffusion.support import guards, interrupts
from rust_diffusion.training.prepare import Given, prepare
from rust_diffusion.training.result import EpochInfo, TrainResult
from rust_diffusion.training.resume import begin
from rust_diffusion.training.run import Run
from rust_diffusion.training.settings import EPOCHS, Settings


def train(
    model: Any,
    data: Any,
    *,
    betas: Any,
    epochs: int = EPOCHS,
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
    time_sampling: str = "uniform",
    min_snr_gamma: float | None = None,
    val_data: Any = None,
    max_steps: int | None = None,
    minutes: float | None = None,
    sample_every: int | None = None,
    key: str | None = None,
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
    model : DiffusionUNet or torch.nn.Module
        Float32 weights; changed in place. Another module than ours is called as ``model(x_t, t)``, gives a tensor of
        the shape of x_t (or, as in diffusers, something with that as its `.sample`), and trains through torch's
        autograd; parameters that do not require gradients stay as they are.
    data : Tensor, array, list of images, Dataset, DataLoader, batches, or path
        (N, C, H, W) in [-1, 1], or uint8 grey levels, which become (x / 255 - 0.5) / 0.5 on the device. A tensor or
        array is shuffled in each epoch by a generator of its own, seeded from `seed` (or torch's generator) and the
        epoch; a Dataset is put into a shuffling DataLoader, and may give what lists hold, PIL images too, as may a
        list of (image, label); a DataLoader decides its own batches. A list of batches is gone through once per
        epoch, a function is called once per epoch and returns an iterator over batches. A path, or a list of files,
        is read by `load_images`, at its size. Of a batch that is a tuple, the first part is taken, of a dict what it
        has at `key`. The last batch of an epoch may be short.
    betas : Tensor
        The schedule, (T,).
    epochs : int
        The target: a resumed run does what is left of it. Or see `minutes`.
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
        (averaged weights) and ``{name}_raw.pth`` whenever the loss is the best so far: that on `val_data`, if there
        are any. Nothing is written
        without it. If there is a checkpoint, the run goes on from it; if there are only weights, they are
        loaded and nothing is trained.
    name : str
        First part of the files' names.
    force_restart : bool
        Ignore, and replace, files that are there.
    device : str or torch.device, optional
        Where to train; the model is moved there. Default: where the model is.
    progress : bool
        Show a bar and messages; without it the messages go to the logger "rust_diffusion", at level INFO.
    callback : callable, optional
        Called with an `EpochInfo` after each epoch's files are written; returning False ends the run there.
    lr_schedule : {"cosine", "constant", "warmup_cosine", "smooth_cosine"}
        "warmup_cosine" rises in a straight line over the first `warmup_steps` updates. "smooth_cosine" does too, and
        then falls with every update instead of every epoch, to 0 at the last one: for runs of few epochs.
    warmup_steps : int
        See `lr_schedule`.
    accumulate : int
        Batches per update; their gradients are averaged, image by image.
    ema_warmup : bool
        Average with min(ema_decay, (1 + n) / (10 + n)) at update n, which forgets the initial weights sooner.
    horizontal_flip : bool
        Mirror each image left to right with probability 1/2.
    objective : {"eps", "x0", "v", "flow"}
        What the network predicts: the noise, the clean image, sqrt(abar) eps - sqrt(1 - abar) x0 (Salimans and Ho
        2022), or eps - x0 on straight paths (Lipman et al. 2023). The samplers read it from the model.
    time_sampling : {"uniform", "logit_normal", "log_normal"}
        How times are drawn: evenly, more of the middle, or more of little noise. s, the time of "flow", then is the
        logistic function of a normal number: of a standard one (Esser et al. 2024, section 3.1), or of one with mean
        -1.2 and standard deviation 1.2, so that the ratio of noise to signal is log-normal (Karras et al. 2022,
        table 1). For the other objectives, the timestep is that whose share of noise,
        sqrt(1 - abar) / (sqrt(abar) + sqrt(1 - abar)), is nearest to s.
    min_snr_gamma : float, optional
        Weight the loss by min(SNR, gamma) (Hang et al. 2023; they use 5).
    val_data : Tensor, array, list of images, Dataset, DataLoader, batches, or path, optional
        Images held out: their mean squared error after each epoch, with the same timesteps and noise each
        time, goes to `EpochInfo.val_loss` and `TrainResult.val_history`.
    max_steps : int, optional
        End the run after this many updates, counted from its very beginning.
    minutes : float, optional
        Instead of `epochs`: as many updates as fit into this time, data, files, validation and samples included, and
        `callback` if an epoch ends while that is measured; no more than `max_steps`. The first updates (some 3 % of the
        time) are measured, at the full learning rate; then the number is settled, said, and kept in the checkpoint, and
        the run is one of so many updates: resumed, it does what is left of them. Data that do not say how many batches
        an epoch has need a rate that does not follow epochs, "smooth_cosine" or "constant".
    sample_every : int, optional
        Draw 16 images of the averaged weights after every so many epochs, always from the same noise, and write them
        to ``{name}_samples/`` in `weights_dir`.
    key : str, optional
        Which entry holds the images, where data (and `val_data`) give dicts.
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
    keywords = locals()
    settings = Settings.among(keywords)
    given = Given(**{known.name: keywords[known.name] for known in fields(Given)})
    with contextlib.ExitStack() as stack:
        run, found = prepare(given, settings, stack)
        if begin(run, found):
            with (
                guards.device_errors(lambda: run.files.paths().get("checkpoint")),
                guards.enough_memory(run.advice),
            ):
                try:
                    run.go()
                except KeyboardInterrupt:
                    raise interrupts.told(run.keeper.place()) from None
        return _result(run)


def _result(run: Run) -> TrainResult:
    """The same on every process."""
    state = run.state
    return TrainResult(
        history=state.history,
        best_loss=state.best_loss,
        ema=state.ema,
        epochs_run=run.epochs_run,
        precision=state.settings.precision,
        val_history=state.val_history,
        updates=state.position["updates"],
        skipped_steps=state.position["skipped"],
        images_per_second=run.images / run.seconds if run.seconds else 0.0,
        paths=run.group.share(run.files.paths),
    )
