"""Drawing images with DDPM and DDIM: arguments, noise streams and progress around the engine's loops."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from tqdm.auto import tqdm

from rust_diffusion import _checks, _graphs, _guards, _native
from rust_diffusion.model import EMA, DiffusionUNet

SPACINGS = ("course", "leading", "linspace", "trailing")
#: Averaged weights that hold more than this of the initial ones draw noise rather than images.
MAX_INITIAL_SHARE = 0.1
OBJECTIVES = ("eps", "x0", "v")
PRECISIONS = ("fp32", "bf16", "fp16")


class SamplerStep(NamedTuple):
    """What a sampler's callback is told after each step."""

    #: From 0 to ``total - 1``.
    index: int  # type: ignore[assignment]
    total: int
    #: The timestep at which the model was asked.
    timestep: int
    #: The next iterate, (N, C, H, W).
    x: Tensor
    #: The clean image the model believed in at this step, clamped to [-1, 1].
    x0_hat: Tensor


def ddpm_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    betas: Tensor,
    alphas: Tensor,
    alpha_bars: Tensor,
    device: str | torch.device,
    *,
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    objective: str | None = None,
    precision: str = PRECISIONS[0],
    progress: bool = True,
    callback: Callable[[SamplerStep], Any] | None = None,
) -> Tensor:
    """Draw images by ancestral sampling (Ho et al. 2020, algorithm 2), one model call per timestep.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        Anything that maps (x_t, t) to a prediction of x_t's shape; t is int64 of shape (B,). Its mode is left as it is.
    num_samples : int
        How many images.
    image_shape : sequence of int
        (C, H, W).
    betas, alphas, alpha_bars : Tensor
        The schedule, each of shape (T,).
    device : str or torch.device
        Where to sample; the model must be there.
    generator : torch.Generator, optional
        Source of all draws; torch's global generator of the device otherwise.
    x_T : Tensor, optional
        Starting noise, (num_samples, C, H, W).
    seed : int or sequence of int, optional
        A stream of its own for each image, on the CPU: image k has seed ``seed + k`` (or ``seed[k]``) and is the same
        whatever the batch size and the device.
    objective : {"eps", "x0", "v"}, optional
        What the model predicts. Default: what it was trained for, "eps" if it does not say.
    precision : {"fp32", "bf16", "fp16"}
        What a DiffusionUNet computes its convolutions and matrix products in; the sampler's own arithmetic and the
        result stay float32. bf16 is the fastest on CPUs and GPUs that have it; fp16 is for GPUs. Under the caller's
        autocast, "fp32" gives way to its dtype.
    progress : bool
        Show a progress bar.
    callback : callable, optional
        Called with a `SamplerStep` after each step.

    Returns
    -------
    Tensor
        Images in [-1, 1], float32, (num_samples, C, H, W).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    MemoryError
        If the images do not fit; the message says how many to try.
    """
    run = _Run(model, num_samples, image_shape, device, generator, x_T, seed, objective, precision)
    bar = _Progress("DDPM", len(alpha_bars) if _sized(alpha_bars) else 0, progress, callback)
    with _guards.enough_memory(run.advice), run.modes(), bar as on_step:
        images = _native.ddpm_sample(
            run.model, run.start(), betas, alphas, alpha_bars, run.objective, run.noise, on_step
        )
    return _warned_of_nan(images)


def ddim_sample(
    model: Any,
    num_samples: int,
    image_shape: Sequence[int],
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 50,
    eta: float = 0.0,
    *,
    timesteps: Sequence[int] | None = None,
    spacing: str = "course",
    generator: torch.Generator | None = None,
    x_T: Tensor | None = None,
    seed: int | Sequence[int] | None = None,
    objective: str | None = None,
    precision: str = PRECISIONS[0],
    progress: bool = True,
    callback: Callable[[SamplerStep], Any] | None = None,
) -> Tensor:
    """Draw images with DDIM (Song, Meng and Ermon 2021, equation 12), `sample_steps` model calls in all.

    Parameters
    ----------
    model : DiffusionUNet, EMA or callable
        Called as ``model(x_t, t)`` with t of shape (B,), int64; gives eps, or what `objective` says. A
        DiffusionUNet runs without Python between the steps.
    num_samples : int
        How many images.
    image_shape : sequence of int
        (C, H, W).
    alpha_bars : Tensor
        The schedule, shape (T,).
    device : str or torch.device
        Where to sample; the model must be there.
    sample_steps : int
        Between 1 and T.
    eta : float
        0 is deterministic (no noise is drawn after the start), 1 has the variance of DDPM. At least 0.
    timesteps : sequence of int, optional
        A strictly decreasing list out of 0..T-1 to use instead of `sample_steps`.
    spacing : {"course", "leading", "linspace", "trailing"}
        How `sample_steps` timesteps are spread: "course" truncates linspace(T-1, 0, n), the others are as diffusers
        names them.
    generator, x_T, seed, objective, progress, callback : optional
        As in `ddpm_sample`.
    precision : {"fp32", "bf16", "fp16"}
        What a DiffusionUNet computes its convolutions and matrix products in; the result stays float32.

    Returns
    -------
    Tensor
        Images in [-1, 1], float32, (num_samples, C, H, W).

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    MemoryError
        If the images do not fit; the message says how many to try.
    """
    eta = _checks.number("eta", eta, 0.0)
    total = _schedule_length(alpha_bars)
    if timesteps is None:
        spacing = _checks.choice("spacing", spacing, SPACINGS)
        sample_steps = _checks.integer("sample_steps", sample_steps)
        grid = _native.timestep_grid(total, sample_steps, spacing)
    else:
        grid = _checks.integers("timesteps", timesteps)
    run = _Run(model, num_samples, image_shape, device, generator, x_T, seed, objective, precision)
    bar = _Progress("DDIM", len(grid), progress, callback)
    with _guards.enough_memory(run.advice), run.modes(), bar as on_step:
        images = _native.ddim_sample(
            run.model, run.start(), alpha_bars, grid, eta, run.objective, run.noise, on_step
        )
    return _warned_of_nan(images)


def _warned_of_nan(images: Tensor) -> Tensor:
    """The images, with a warning if some are no images at all."""
    bad = int((~torch.isfinite(images).flatten(1).all(dim=1)).sum())
    if bad:
        warnings.warn(
            f"{bad} of {len(images)} samples hold NaN or infinity: look at what the model returns "
            f"(torch.isfinite of its weights and output) and at the schedule",
            RuntimeWarning,
            stacklevel=3,
        )
    return images


def _sized(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) > 0


def _schedule_length(alpha_bars: Any) -> int:
    shape = getattr(alpha_bars, "shape", None)
    if shape is None:
        raise TypeError(
            f"alpha_bars must be a torch.Tensor or a NumPy array, got {type(alpha_bars).__name__}"
        )
    if len(shape) != 1 or shape[0] < 1:
        raise ValueError(f"alpha_bars must have shape (T,) with T >= 1, got {tuple(shape)}")
    return int(shape[0])


class _Run:
    """The checked arguments that both samplers share."""

    def __init__(
        self,
        model: Any,
        num_samples: Any,
        image_shape: Any,
        device: Any,
        generator: Any,
        x_T: Any,
        seed: Any,
        objective: str | None,
        precision: Any,
    ) -> None:
        self.device = _checks.device("device", device)
        count = _checks.integer("num_samples", num_samples, 1)
        shape = _checks.integers("image_shape", image_shape, 1)
        if len(shape) != 3:
            raise ValueError(f"image_shape must be (C, H, W), got {tuple(shape)}")
        self.shape = [count, *shape]
        model = model.shadow if isinstance(model, EMA) else model
        self.objective = objective if objective is not None else getattr(model, "objective", OBJECTIVES[0])
        _checks.choice("objective", self.objective, OBJECTIVES)
        if generator is not None and seed is not None:
            raise ValueError("give either generator or seed, not both")
        self.noise = _noise(generator, seed, count, self.device)
        self.x_T = None if x_T is None else _start(x_T, self.shape, self.device)
        precision = _checks.choice("precision", precision, PRECISIONS)
        if precision == PRECISIONS[0] and isinstance(model, DiffusionUNet):
            precision = _under_autocast(self.device)
        if precision == "fp16" and self.device.type == "cpu":
            raise ValueError("precision 'fp16' needs a GPU; on the CPU take 'fp32' or 'bf16'")
        self.model = _denoiser(model, self.shape, self.device, precision)
        _warn_of_initial_weights(model)

    def advice(self) -> str:
        """What to do when the images do not fit into memory."""
        return _guards.try_batch_of(
            self.shape[0],
            "{0}, in several calls or by model.sample(..., batch_size={0}); with seed= they stay the same",
        )

    def modes(self) -> contextlib.AbstractContextManager[None]:
        """What holds while images are drawn: our network has modes of its own, another one keeps the caller's."""
        return _guards.own_modes(self.device) if isinstance(self.model, tuple) else contextlib.nullcontext()

    def start(self) -> Tensor:
        if self.x_T is not None:
            return self.x_T
        if self.noise is not None:
            return self.noise(self.shape)
        return torch.randn(self.shape, device=self.device)


def _under_autocast(device: torch.device) -> str:
    """Return the precision that the caller's autocast asks for, float32 without one."""
    known = is_autocast_available(device.type)
    if not known or not torch.is_autocast_enabled(device.type):
        return PRECISIONS[0]
    dtype = torch.get_autocast_dtype(device.type)
    if dtype == torch.float16 and device.type != "cpu":
        return "fp16"
    return "bf16" if dtype == torch.bfloat16 else PRECISIONS[0]


def _start(x_T: Any, shape: list[int], device: torch.device) -> Tensor:
    x = _checks.tensor("x_T", x_T)
    if list(x.shape) != shape:
        raise ValueError(f"x_T must have shape {tuple(shape)}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x_T must be a floating-point tensor, got {x.dtype}")
    if not torch.isfinite(x).all():
        raise ValueError("x_T must be finite, got NaN or infinity")
    return x.detach().to(device=device, dtype=torch.float32)


def _noise(
    generator: Any, seed: Any, count: int, device: torch.device
) -> Callable[[list[int]], Tensor] | None:
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator.device.type != device.type:
            raise ValueError(
                f"generator must be on {device.type}, where the images are drawn, got {generator.device.type}"
            )
        return lambda shape: torch.randn(shape, generator=generator, device=device)
    if seed is None:
        return None
    if isinstance(seed, (Sequence, range, torch.Tensor)) or hasattr(seed, "__iter__"):
        seeds = _checks.integers("seed", seed, -(2**63), 2**64 - 1)
        if len(seeds) != count:
            raise ValueError(f"seed must have one entry per image ({count}), got {len(seeds)}")
    else:
        first = _checks.integer("seed", seed, -(2**63), 2**63 - 1)
        seeds = [first + k for k in range(count)]
    streams = [torch.Generator().manual_seed(s) for s in seeds]

    def draw(shape: list[int]) -> Tensor:
        images = torch.stack([torch.randn(shape[1:], generator=stream) for stream in streams])
        return _graphs.sent(images, device)

    return draw


def _warn_of_initial_weights(model: Any) -> None:
    """Say once that averaged weights are still largely the random ones that training began with."""
    share = getattr(model, "_initial_share", None)
    if share is not None and MAX_INITIAL_SHARE < share < 1.0 and not hasattr(model, "_warned_of_share"):
        model._warned_of_share = True
        warnings.warn(
            f"{100 * share:.0f} % of these averaged weights (EMA) are still the random ones that training began "
            f"with: train longer, use a smaller ema_decay or ema_warmup=True, or sample from the model itself",
            stacklevel=4,
        )


def _denoiser(model: Any, shape: list[int], device: torch.device, precision: str) -> Any:
    """Our own network runs without Python between the steps; anything else is called."""
    if not callable(model):
        raise TypeError(
            f"model must be a DiffusionUNet or a callable (x_t, t) -> eps, got {type(model).__name__}"
        )
    if not isinstance(model, DiffusionUNet):
        if precision != PRECISIONS[0]:
            raise ValueError(
                f"precision {precision!r} is for a DiffusionUNet; another model computes as it likes"
            )
        return lambda x, t: _prediction(model(x, t))
    parameters = list(model.parameters())
    if parameters[0].device != device:
        raise ValueError(f"model is on {parameters[0].device}, device is {device}: move one of them")
    if parameters[0].dtype != torch.float32:
        raise TypeError(f"model must hold float32 weights to sample, got {parameters[0].dtype}")
    if shape[1] != model.config["in_ch"]:
        raise ValueError(
            f"image_shape has {shape[1]} channels, the model takes {model.config['in_ch']} (in_ch)"
        )
    multiple = model._native.size_multiple
    if shape[2] % multiple or shape[3] % multiple:
        raise ValueError(
            f"image_shape {tuple(shape[1:])}: the model needs heights and widths that are multiples of {multiple}"
        )
    if model._has_own_forward() or model._forward_hooks or model._forward_pre_hooks:
        return model
    dropout = model._dropout_rate()
    # Dropout draws from the stream that the noise comes from, in turn with it.
    recorder = None if dropout > 0 else _graphs.recorder(device)
    return model._native, parameters, dropout, precision, recorder


def _prediction(output: Any) -> Any:
    """The tensor in what a foreign model returned: diffusers wraps it in `.sample`, others in a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "sample", None), Tensor):
        return output.sample
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"model must return a torch.Tensor, got {type(output).__name__}")


class _Progress:
    """A bar and a callback as the one function that the engine reports to."""

    def __init__(
        self, name: str, total: int, progress: bool, callback: Callable[[SamplerStep], Any] | None
    ) -> None:
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable, got {type(callback).__name__}")
        self._bar = tqdm(total=total, desc=name, unit="step", disable=not progress, leave=True)
        self._callback = callback

    def __enter__(self) -> Callable[..., None]:
        return self._step

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _step(self, index: int, total: int, timestep: int, x: Tensor, x0_hat: Tensor) -> None:
        self._bar.update(1)
        if self._callback is not None:
            self._callback(SamplerStep(index, total, timestep, x, x0_hat))
