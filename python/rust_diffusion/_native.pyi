"""The engine in Rust, on libtorch.

The public functions are re-exported by `rust_diffusion`; the rest serves the package's Python files. Every
tensor is a `torch.Tensor` and shares its memory with the caller's; where data goes in, a NumPy array is taken
too. All errors are built-in exceptions whose message names the argument.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = [
    "ADAM_BETAS",
    "ADAM_EPS",
    "BOUNDARIES",
    "CT_GEOMETRIES",
    "DOWNSCALE_MODES",
    "FBP_FILTERS",
    "FITS",
    "FLOW_SOLVERS",
    "GUIDANCE_NORMS",
    "LINKED_TORCH",
    "LR_SCHEDULES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MAX_STEPS",
    "OBJECTIVES",
    "PRECISIONS",
    "SOLVERS",
    "SPACINGS",
    "TIME_SAMPLINGS",
    "CtProjector",
    "LinearOperator",
    "Method",
    "Network",
    "Parameters",
    "Recording",
    "Spread",
    "Table",
    "answered",
    "asked",
    "between",
    "check_betas",
    "cosine_beta_schedule",
    "course_pairs_table",
    "denoising_errors",
    "denormalize_to_01",
    "ema_update",
    "errors_at_every_timestep",
    "extract",
    "first_position",
    "grey_values",
    "kernels",
    "learning_rate",
    "linear_beta_schedule",
    "list_images",
    "load_images",
    "local_error",
    "log_density",
    "metric",
    "noised",
    "phantoms",
    "predict_x0_from_eps",
    "python_calls",
    "q_sample",
    "renoised_table",
    "residual",
    "restore",
    "sample",
    "shepp_logan",
    "timestep_grid",
    "train_network",
    "visits_table",
]

LINKED_TORCH: str
"""The version of the torch that this file was linked with, with its local part, such as "2.11.0+cpu"."""

MAX_STEPS: int
"""The longest noise schedule that is taken."""

ADAM_BETAS: tuple[float, float]
ADAM_EPS: float
"""Of AdamW, as `torch.optim.AdamW` has them by default."""

OBJECTIVES: tuple[str, ...]
PRECISIONS: tuple[str, ...]
SPACINGS: tuple[str, ...]
SOLVERS: tuple[str, ...]
FLOW_SOLVERS: tuple[str, ...]
LR_SCHEDULES: tuple[str, ...]
TIME_SAMPLINGS: tuple[str, ...]
"""What can be chosen by name, the default first."""

def kernels() -> str:
    """Name what computes networks on the CPU here: kernels in ``"AVX-512"`` or ``"AVX2"``, or ``"libtorch"`` elsewhere.

    ``"AMX"``: kernels, but convolutions in bfloat16 by libtorch, which uses the processor's matrix units.
    ``RUST_DIFFUSION_KERNELS`` chooses another than the best, ``"portable"`` among them: the same kernels as plain
    loops.
    """

_Array: TypeAlias = Tensor | npt.NDArray[np.generic]

def cosine_beta_schedule(num_steps: int, s: float = 0.008) -> Tensor:
    """Compute the cosine noise schedule (Nichol and Dhariwal 2021, equation 17).

    With f(x) = cos^2(((x / T + s) / (1 + s)) * pi / 2) for x = 0..T and abar = f / f(0), beta_k is
    1 - abar_{k+1} / abar_k, clamped to [1e-5, 0.999]; all in float32.

    Parameters
    ----------
    num_steps : int
        T, the number of diffusion steps, at least 1.
    s : float
        Offset that keeps the first betas from vanishing, above -1.

    Returns
    -------
    Tensor
        The betas, float32 on the CPU, shape (num_steps,).

    Raises
    ------
    ValueError
        If `num_steps` or `s` is out of range.

    Examples
    --------
    >>> import rust_diffusion as rd
    >>> rd.cosine_beta_schedule(400).shape
    torch.Size([400])
    """

def linear_beta_schedule(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """Compute the linear noise schedule (Ho, Jain and Abbeel 2020, section 4).

    The usual end points belong to T = 1000; shorter schedules need a larger `beta_end` to reach pure noise.

    Parameters
    ----------
    num_steps : int
        T, the number of diffusion steps, at least 1.
    beta_start, beta_end : float
        First and last beta, between 0 and 1, both excluded; the last no smaller than the first.

    Returns
    -------
    Tensor
        The betas, float32 on the CPU, shape (num_steps,).

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import rust_diffusion as rd
    >>> rd.linear_beta_schedule(3)
    tensor([1.0000e-04, 1.0050e-02, 2.0000e-02])
    """

def extract(coefficients: _Array, t: _Array, x_shape: Sequence[int]) -> Tensor:
    """Pick one coefficient per image and shape it to broadcast over a batch.

    Parameters
    ----------
    coefficients : Tensor or array
        One number per timestep, floating point, shape (T,), on any device.
    t : Tensor or array
        Timesteps 0..T-1, integers, shape (B,).
    x_shape : sequence of int
        Shape of the batch, (B, ...).

    Returns
    -------
    Tensor
        ``coefficients[t]`` on t's device, shape (B, 1, 1, ...) with as many dimensions as `x_shape`.

    Raises
    ------
    ValueError
        If a shape does not fit or a timestep is out of range.
    TypeError
        If a dtype does not fit or something is neither a tensor nor an array.

    Examples
    --------
    >>> import rust_diffusion as rd, torch
    >>> rd.extract(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([2, 0]), (2, 1, 8, 8)).shape
    torch.Size([2, 1, 1, 1])
    """

def q_sample(x0: _Array, t: _Array, noise: _Array, alpha_bars: _Array) -> Tensor:
    """Noise clean images to timestep t in one step (Ho, Jain and Abbeel 2020, equation 4).

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise.

    Parameters
    ----------
    x0 : Tensor or array
        Clean images in [-1, 1], floating point, shape (B, C, H, W) or any (B, ...).
    t : Tensor or array
        Timesteps 0..T-1, integers, shape (B,).
    noise : Tensor or array
        Standard normal noise of the shape, dtype and device of `x0`.
    alpha_bars : Tensor or array
        Running product of ``1 - betas``, shape (T,).

    Returns
    -------
    Tensor
        x_t, of the shape of `x0`; torch's autograd sees the operation.

    Raises
    ------
    ValueError
        If shapes or devices do not fit or a timestep is out of range.
    TypeError
        If a dtype does not fit or something is neither a tensor nor an array.
    """

def predict_x0_from_eps(x_t: _Array, eps_pred: _Array, t: _Array, alpha_bars: _Array) -> Tensor:
    """Estimate the clean image from a noisy one and its noise (Ho, Jain and Abbeel 2020, equation 15).

    x0_hat = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t); not clamped.

    Parameters
    ----------
    x_t : Tensor or array
        Noisy images, floating point, shape (B, C, H, W) or any (B, ...).
    eps_pred : Tensor or array
        The predicted noise, of the shape, dtype and device of `x_t`.
    t : Tensor or array
        Timesteps 0..T-1, integers, shape (B,).
    alpha_bars : Tensor or array
        Running product of ``1 - betas``, shape (T,).

    Returns
    -------
    Tensor
        x0_hat, of the shape of `x_t`; torch's autograd sees the operation.

    Raises
    ------
    ValueError
        If shapes or devices do not fit or a timestep is out of range.
    TypeError
        If a dtype does not fit or something is neither a tensor nor an array.
    """

def asked(x: _Array, t: _Array, alpha_bars: _Array | None, objective: str) -> tuple[Tensor, Tensor]:
    """Return what a network of this objective is shown about images x at times t, and at which times."""

def answered(
    x: _Array, t: _Array, alpha_bars: _Array | None, objective: str, answer: _Array
) -> tuple[Tensor, Tensor]:
    """Return what its answer says: (x0, eps), nothing clamped."""

def denormalize_to_01(x: _Array) -> Tensor:
    """Map values from [-1, 1] to [0, 1], as pictures are shown, and clamp what lies outside.

    Parameters
    ----------
    x : Tensor or array
        Floating point, any shape.

    Returns
    -------
    Tensor
        ``((x + 1) / 2).clamp(0, 1)``.

    Raises
    ------
    TypeError
        If `x` is not floating point or is neither a tensor nor an array.

    Examples
    --------
    >>> import rust_diffusion as rd, torch
    >>> rd.denormalize_to_01(torch.tensor([-1.0, 0.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """

@final
class Network:
    """The plan of one network. Holds no weights."""

    @staticmethod
    def course(
        in_ch: int,
        base_ch: int,
        channel_mults: Sequence[int],
        time_dim: int,
        dropout: float,
        attn_levels: Sequence[int],
        num_heads: int,
    ) -> Network:
        """Plan the course's network."""
    @staticmethod
    def course_defaults() -> dict[str, Any]:
        """Return the defaults of the course's configuration, as keyword arguments."""
    @staticmethod
    def diffusers(
        in_channels: int,
        out_channels: int,
        block_out_channels: Sequence[int],
        down_attention: Sequence[bool],
        up_attention: Sequence[bool],
        layers_per_block: int,
        norm_num_groups: int,
        norm_eps: float,
        downsample_padding: int,
        flip_sin_to_cos: bool,
        freq_shift: float,
        attention_head_dim: int | None,
        scale_and_shift: bool,
        dropout: float,
    ) -> Network:
        """Plan a network of diffusers' `UNet2DModel` family."""
    @property
    def in_channels(self) -> int:
        """Channels of what goes in."""
    @property
    def size_multiple(self) -> int:
        """Height and width of the images must be multiples of this."""
    def modules(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(path, class name, arguments) of every module in the order of creation, parents first."""
    def hand_over(self, params: list[Tensor]) -> Parameters:
        """Take handles on a module's parameters, in state-dict order; they stay where they are."""

@final
class Parameters:
    """A module's own parameters, handed over once, and what is derived from them."""

    def run(
        self, x: Tensor, t: Tensor, dropout: float, wanted: tuple[bool, bool], bf16: bool
    ) -> tuple[Tensor, Recording | None]:
        """Predict by the CPU engine, unseen by torch's autograd.

        `wanted` says which gradients will be asked for: to x, to the weights; if any, what they need comes along. With
        `bf16`, convolutions and matrix products are computed in bfloat16.
        """
    def times(self, x: Tensor, t: Tensor, bf16: bool) -> list[tuple[str, float]]:
        """Tell what each operation of the CPU engine's pass takes: (kind, seconds), in order. For the benchmark."""
    def runs_on_engine(self, dropout: float) -> bool:
        """Tell whether the CPU engine can compute the network with these weights and this rate of dropout."""
    def forward(self, x: Tensor, t: Tensor, dropout: float, differentiable_twice: bool) -> Tensor:
        """Predict in libtorch's operations, recorded by autograd, under autocast as the caller says."""

@final
class Recording:
    """What an engine's forward pass left behind for its gradients."""

    def backward(
        self, d_prediction: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, list[Tensor] | None]:
        """Turn d loss / d prediction into the gradients that are wanted: of x, of all parameters."""

def ema_update(shadow: list[Tensor], weights: list[Tensor], decay: float) -> None:
    """Move the shadow: decay * shadow + (1 - decay) * weights, in place."""

def timestep_grid(num_timesteps: int, sample_steps: int, spacing: str) -> list[int]:
    """List the timesteps that a sampler with fewer than T steps visits, decreasing."""

@final
class Table:
    """What a sampler does in each of its steps: made by the sampler's name, followed by `sample`."""

    @property
    def steps(self) -> int:
        """Steps as a user counts them."""
    @property
    def questions(self) -> list[tuple[float, float]]:
        """What the network is taken to be shown: (timestep, alpha_bar)."""
    @staticmethod
    def ddpm(betas: _Array, alphas: _Array, alpha_bars: _Array) -> Table: ...
    @staticmethod
    def ddim(alpha_bars: _Array, timesteps: Sequence[int], eta: float) -> Table: ...
    @staticmethod
    def euler(alpha_bars: _Array, timesteps: Sequence[int], ancestral: bool) -> Table: ...
    @staticmethod
    def heun(alpha_bars: _Array, timesteps: Sequence[int], churn: float) -> Table: ...
    @staticmethod
    def dpmpp(
        alpha_bars: _Array,
        timesteps: Sequence[int],
        order: int,
        solver: str,
        sde: bool,
        lower_order_final: bool,
    ) -> Table: ...
    @staticmethod
    def unipc(alpha_bars: _Array, timesteps: Sequence[int], order: int) -> Table: ...
    @staticmethod
    def ddim_invert(alpha_bars: _Array, timesteps: Sequence[int], answers_x0: bool) -> Table: ...
    @staticmethod
    def flow_up(alpha_bars: _Array, timesteps: Sequence[int]) -> Table: ...
    @staticmethod
    def flow(steps: int, solver: str, shift: float) -> Table: ...

def sample(model: Any, x_t: Tensor, table: Table, settings: dict[str, Any]) -> Tensor:
    """Draw images from the noise `x_t` along `table`.

    `settings` holds `objective`, `clip`, `noise` (a function of a shape; None for torch's own generator),
    `callback` (called after every step) and `show` (called with the number of steps done, at a pace that can be
    read); None for both means that Python is called for signals alone.
    """

def log_density(model: Any, x: Tensor, table: Table, settings: dict[str, Any], probes: int) -> Tensor:
    """Compute the logarithm of each image's density, float64 of shape (N,), along `Table.flow_up`."""

def between(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], alpha_bar: float, count: int) -> Tensor:
    """Mix `count` noisy images from one to another, each given as (clean, noisy)."""

def python_calls() -> int:
    """Count the engine's calls back into Python since it was loaded."""

def check_betas(betas: _Array) -> None:
    """Raise what is wrong with a schedule."""

def first_position() -> dict[str, Any]:
    """Return where a training run from nothing begins."""

def learning_rate(settings: dict[str, Any], epoch: int, updates: int) -> float:
    """Return the rate of the update after `updates` others, in `epoch`."""

def noised(
    images: _Array, t: _Array, noise: _Array, betas: _Array, objective: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return x_t, the times the network is shown and what it should answer, for images as `train` takes them."""

def train_network(
    network: Any,
    params: list[Tensor],
    shadow: list[Tensor],
    moments: tuple[Tensor, Tensor],
    betas: _Array,
    settings: dict[str, Any],
    position: dict[str, Any],
    host: Any,
    graphs: tuple[Any, Any],
) -> None:
    """Train in place; `host` gives batches and is told how the run goes.

    `network` is a `Network`, or an object with ``forward(x_t, t)`` and ``backward(d_prediction)``, which returns the
    gradients of `params`. In `graphs` the gradients of the usual batch, and the usual update, are captured.
    """

FITS: tuple[str, ...]
MAX_PIXELS: int
MAX_SIDE: int

def list_images(path: str | os.PathLike[str]) -> list[Path]:
    """List the files that a folder, a file name or a glob pattern stands for, sorted by name."""

def load_images(
    files: Sequence[str | os.PathLike[str]],
    size: tuple[int, int],
    channels: int,
    *,
    fit: str,
    levels: bool,
    skip: bool,
    window: tuple[float, float] | None,
    max_pixels: int,
    threads: int,
    cache: str | os.PathLike[str] | None,
    on_progress: Callable[[int], Any] | None,
) -> tuple[npt.NDArray[Any], list[Path], list[tuple[Path, str]], bool, str | None]:
    """Decode files into one flat array of images (height, width): uint8 if `levels`, else float32 in [-1, 1].

    Also returned: the files, what was skipped and why, whether a file had 16 bits, and what went wrong in
    writing a cache.
    """

def phantoms(
    n: int, size: int, seed: int, *, levels: bool, threads: int, on_progress: Callable[[int], Any] | None
) -> npt.NDArray[Any]:
    """Draw phantoms into one flat array: uint8 if `levels`, else float32 in [-1, 1]."""

def shepp_logan(size: int, threads: int) -> npt.NDArray[Any]:
    """Draw the head phantom of Shepp and Logan: flat, float32 in [-1, 1]."""

def grey_values(levels: Tensor) -> Tensor:
    """Turn uint8 grey levels into float32 values in [-1, 1]."""

BOUNDARIES: tuple[str, ...]
DOWNSCALE_MODES: tuple[str, ...]

@final
class LinearOperator:
    """A linear operator on batches of images, float32 or float64; the engine's own, or Python's called back."""

    @staticmethod
    def identity(img_shape: Sequence[int]) -> LinearOperator: ...
    @staticmethod
    def blurring(kernel: _Array, boundary: str, img_shape: tuple[int, int]) -> LinearOperator: ...
    @staticmethod
    def downscaling(img_shape: tuple[int, int], factor: int, mode: str) -> LinearOperator: ...
    @staticmethod
    def inpainting(mask: _Array) -> LinearOperator: ...
    @staticmethod
    def gradient(img_shape: tuple[int, int]) -> LinearOperator: ...
    @staticmethod
    def matrix(a: _Array, img_shape: Sequence[int], out_shape: Sequence[int]) -> LinearOperator: ...
    @staticmethod
    def callback(
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor],
        img_shape: Sequence[int],
        out_shape: Sequence[int],
    ) -> LinearOperator:
        """Take two functions of batches for an operator and its adjoint."""
    @staticmethod
    def stack(parts: Sequence[LinearOperator]) -> LinearOperator: ...
    def followed_by(self, outer: LinearOperator) -> LinearOperator: ...
    def scaled(self, factor: float) -> LinearOperator: ...
    def transposed(self) -> LinearOperator: ...
    @property
    def img_shape(self) -> tuple[int, ...]:
        """(H, W), or (C, H, W) where the number of channels is the operator's own."""
    @property
    def out_shape(self) -> tuple[int, ...]:
        """The same for measurements."""
    def apply(self, x: _Array) -> Tensor: ...
    def adjoint(self, y: _Array) -> Tensor: ...
    def prox(self, z: Tensor, y: Tensor, gamma: Tensor) -> Tensor: ...
    def pinv(self, y: Tensor, cutoff: float) -> Tensor: ...
    def sample_gaussian(
        self,
        z: Tensor,
        y: Tensor,
        sigma: Tensor,
        r: Tensor,
        noise: Callable[[list[int]], Tensor] | None = None,
    ) -> Tensor: ...
    def tv(self, y: Tensor, lambda_: float, iterations: int) -> Tensor: ...
    def norm(self) -> float: ...
    def adjoint_error(self, like: Tensor | None = None) -> float: ...

def metric(which: str, x: Tensor, x_true: Tensor) -> Tensor:
    """One number per image, float64: "PSNR", "SSIM", "RE" or "RMSE"."""

CT_GEOMETRIES: tuple[str, ...]
FBP_FILTERS: tuple[str, ...]

@final
class CtProjector:
    """The geometry of a scan."""

    def __new__(
        cls,
        img_shape: list[int],
        angles: list[float],
        det_size: int,
        geometry: str,
        source_origin: float,
        origin_det: float,
    ) -> CtProjector: ...
    def operator(self) -> LinearOperator:
        """Return the projector as an operator like any other."""
    def fbp(self, y: Tensor, filter: str) -> Tensor:
        """Filtered back projection, in torch's operations."""

GUIDANCE_NORMS: tuple[str, ...]

@final
class Spread:
    """How x0 given x_t is spread about x0_hat at each question to the network."""

    @staticmethod
    def even(r2: Sequence[float]) -> Spread:
        """The same for all pixels, and independent."""
    @staticmethod
    def modes(variances: Tensor) -> Spread:
        """A variance for each Fourier mode, (questions, H, W // 2 + 1), float64."""
    @staticmethod
    def local(modes: Tensor, gradients: Tensor, variances: Tensor) -> Spread:
        """Of errors over their standard deviations, whose squares follow from gradients, (questions, points)."""

@final
class Method:
    """How a measurement enters a sampler's steps."""

    @staticmethod
    def dps(scale: float | None, norm: str, guide_below: float) -> Method: ...
    @staticmethod
    def diffpir(lambda_: float) -> Method: ...
    @staticmethod
    def ddnm(eta: float) -> Method: ...
    @staticmethod
    def pigdm(spread: Spread) -> Method: ...
    @staticmethod
    def mmps(cg_steps: int) -> Method: ...
    @staticmethod
    def daps(spread: Spread, widen: bool) -> Method: ...
    @staticmethod
    def daps_jacobian(steps: int) -> Method: ...
    @staticmethod
    def course_dps(scale: float) -> Method: ...
    @staticmethod
    def course_diffpir(tau: float) -> Method: ...

def renoised_table(
    alpha_bars: _Array, timesteps: Sequence[int], kept: float, fresh: float, travel: tuple[int, int]
) -> Table:
    """Noise x0 anew in each step, with shares of its old noise and of new noise."""

def course_pairs_table(alpha_bars: _Array, timesteps: Sequence[int]) -> Table:
    """DDIM from pair to pair, without a last look at the image."""

def restore(
    model: Any,
    x_t: Tensor,
    table: Table,
    settings: dict[str, Any],
    method: Method,
    operator: LinearOperator,
    y: Tensor,
    sigma: Tensor,
) -> Tensor:
    """Images that explain `y`, from the noise `x_t`."""

def visits_table(alpha_bars: _Array, timesteps: Sequence[int]) -> Table:
    """Clean images noised to each of the timesteps in turn."""

def denoising_errors(
    model: Any, images: Tensor, table: Table, settings: dict[str, Any], gathered: str
) -> Tensor:
    """What is gathered of x0_hat - x0 at each question of `visits_table`, (visits, ...), on the CPU.

    Squares as float64, summed over images and "pixels", or for each of the "modes"; or at all "places": gradients of
    x0_hat and x0_hat - x0 themselves, (visits, 2, N, C, H, W).
    """

def local_error(gradients: Tensor, apart: Tensor, floor: float) -> list[Tensor]:
    """What follows from the places of one question: modes, gradients and variances for `Spread.local`, float64."""

def errors_at_every_timestep(alpha_bars: _Array, timesteps: Sequence[int], errors: Tensor) -> Tensor:
    """Errors at some timesteps, (visits, ...), as errors at all of them, (T, ...), float64."""

def residual(operator: LinearOperator, x0: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """|K x0 - y|^2 / (m sigma^2) of each image, float64."""
