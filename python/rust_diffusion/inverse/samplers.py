"""Methods that restore images with a denoiser: the loops are the engine's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from rust_diffusion import _native
from rust_diffusion.inverse.denoising import R2, spread
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.inverse.restoring import Task, method, refuse_inference_mode
from rust_diffusion.sampling.arguments import timesteps_of
from rust_diffusion.sampling.sampler import Keywords
from rust_diffusion.support import checks

STYLES = ("paper", "course")
#: Of the chapter's loops: the guidance scale of DPS, and the step size tau of DiffPIR's.
COURSE_SCALE, COURSE_TAU = 0.15, 0.6
#: Products with the covariance of x0 given x_t that one draw from it takes, at most.
COVARIANCE_STEPS = 30


@method
def daps_sample(
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 40,
    *,
    sigma_y: Any,
    r2: Any = R2[0],
    widen: bool = False,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Restore by decoupled annealing (DAPS, Zhang et al. 2024), with exact draws of x0 given x_t and y.

    The method to begin with for linear operators: no step size, no backward pass, and draws from the posterior itself
    where x0 given x_t is normal with the variance r2.

    Parameters
    ----------
    {task}
    {sigma}
    r2 : "schedule", "jacobian", callable, Tensor, LocalError or float
        The variance of x0 given x_t. "schedule" is S (1 - ab) / (ab S + 1 - ab), S the variance of the data that the
        model was trained on (0.25 if it does not say); a callable is asked with each timestep; a tensor (T,) holds one
        number per timestep: the denoiser's own mean squared error, see `denoising_error`. Best is what that gives with
        ``local=True``: larger where more happens in the picture, and correlated from pixel to pixel. The variances of
        Fourier modes alone, from ``spectrum=True``, (T, H, W // 2 + 1), are as exact for every stationary Gaussian
        prior, and faster. "jacobian" takes the whole covariance from the network's derivative: exact for every
        Gaussian prior, and much slower.
    widen : bool
        Where y is further from the estimate's measurement than noise and `r2` explain (by more than two standard
        deviations), multiply `r2` for that image and step by what explains it, at most 10. Residuals of draws come
        nearer to 1 and intervals are wider; where `r2` is right, hardly any step is changed. Not with "jacobian".
    {grid}
    {keywords}

    {result}

    {raises}
    """
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    task = Task(model, y, operator, sigma_y, device)
    table = _native.renoised_table(alpha_bars, grid, 0.0, 1.0, (1, 1))
    widen = checks.flag("widen", widen)
    if isinstance(r2, str) and checks.choice("r2", r2, R2) == R2[1]:
        if widen:
            raise ValueError('widen=True is for an r2 that is known beforehand, not for r2="jacobian"')
        refuse_inference_mode("daps")
        how = _native.Method.daps_jacobian(COVARIANCE_STEPS)
    else:
        how = _native.Method.daps(spread(r2, model, alpha_bars, grid), widen)
    return task.restore("daps", table, how, device, keywords)


@method
def dps_sample(
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 100,
    eta: float = 1.0,
    *,
    sigma_y: Any,
    scale: float | None = None,
    norm: str = _native.GUIDANCE_NORMS[0],
    guide_below: float = 10.0,
    style: str = STYLES[0],
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Restore by diffusion posterior sampling (DPS, Chung et al. 2023): DDIM, guided by the gradient of the misfit.

    Parameters
    ----------
    {task}
    eta : float
        Of DDIM; at least 0.
    {sigma}
    scale : float, optional
        Guidance is -scale times the gradient by x_t of ``|y - K x0_hat|``, each image for itself. Default: the weight
        that follows from sigma_y, which needs many steps where the noise is low.
    norm : {"l2", "squared"}
        What `scale` multiplies: the gradient of the norm, or of its square.
    guide_below : float
        Only where sqrt((1 - ab) / ab) is at most this; may be infinite.
    style : {"paper", "course"}
        "course" is the chapter's loop: no noise, the mean of squares over the whole batch divided by 2 sigma_y^2, every
        iterate clamped, scale 0.15.
    {grid}
    {keywords}

    {result}

    {raises}
    """
    refuse_inference_mode("dps")
    eta = checks.number("eta", eta, 0.0)
    checks.choice("norm", norm, _native.GUIDANCE_NORMS)
    scale = None if scale is None else checks.number("scale", scale, 0.0)
    if guide_below != math.inf:
        guide_below = checks.number("guide_below", guide_below, 0.0)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    task = Task(model, y, operator, sigma_y, device)
    if checks.choice("style", style, STYLES) == "course":
        table = _native.Table.ddim(alpha_bars, grid, 0.0)
        how = _native.Method.course_dps(COURSE_SCALE if scale is None else scale)
    else:
        table = _native.Table.ddim(alpha_bars, grid, eta)
        how = _native.Method.dps(scale, norm, guide_below)
    return task.restore("dps", table, how, device, keywords)


@method
def diffpir_sample(
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 100,
    *,
    sigma_y: Any,
    lambda_: float = 1.0,
    zeta: float = 0.1,
    style: str = STYLES[0],
    tau: float = COURSE_TAU,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Restore by plug-and-play steps (DiffPIR, Zhu et al. 2023): x0_hat gives way to the measurement's proximal point.

    Parameters
    ----------
    {task}
    {sigma}
    lambda_ : float
        Above 0: how much the denoiser counts.
    zeta : float
        Between 0 and 1: the share of the noise that is drawn anew.
    style : {"paper", "course"}
        "course" is the chapter's loop: from y itself, with a step of gradient descent after each step of DDIM.
    tau : float
        The course's step size.
    {grid}
    {keywords}

    {result}

    {raises}
    """
    lambda_, zeta = checks.number("lambda_", lambda_), checks.number("zeta", zeta, 0.0, 1.0)
    if lambda_ <= 0:
        raise ValueError(f"lambda_ must be above 0, got {lambda_}")
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    task = Task(model, y, operator, sigma_y, device)
    if checks.choice("style", style, STYLES) == "course":
        table = _native.course_pairs_table(alpha_bars, grid)
        how = _native.Method.course_diffpir(checks.number("tau", tau))
        if keywords.get("x_T") is None:
            keywords = {**keywords, "x_T": _start_of_course(task)}
    else:
        table = _native.renoised_table(alpha_bars, grid, math.sqrt(1 - zeta), math.sqrt(zeta), (1, 1))
        how = _native.Method.diffpir(lambda_)
    return task.restore("diffpir", table, how, device, keywords)


def _start_of_course(task: Task) -> Tensor:
    if tuple(task.y.shape[1:]) != task.image_shape:
        raise ValueError(
            f'style="course" starts from y, which must be an image {task.image_shape}, got {tuple(task.y.shape[1:])}; '
            f"give x_T="
        )
    return task.y


@method
def ddnm_sample(
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 100,
    eta: float = 0.85,
    *,
    sigma_y: Any,
    travel_length: int = 1,
    travel_repeat: int = 1,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Restore by the null-space model (DDNM, Wang, Yu and Zhang 2023): what y says is taken, the rest is drawn.

    With noise it is DDNM+ along the operator's singular directions; an operator that does not know its own is
    decomposed, for images of up to 4096 pixels.

    Parameters
    ----------
    {task}
    eta : float
        Between 0 and 1: the share of the noise that is drawn anew, sqrt(1 - eta^2) of the old one is kept (not DDIM's).
        Below 1 some of what is kept counts the noise of y twice: take 1 where y has much of it.
    sigma_y : float or Tensor
        Standard deviation of the measurements' noise; 0 is DDNM, above 0 is DDNM+.
    travel_length, travel_repeat : int
        Go through each stretch of so many steps so often, each time from its noise on.
    {grid}
    {keywords}

    {result}

    {raises}
    """
    eta = checks.number("eta", eta, 0.0, 1.0)
    travel = (
        checks.integer("travel_length", travel_length, 1, 10**6),
        checks.integer("travel_repeat", travel_repeat, 1, 10**6),
    )
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    task = Task(model, y, operator, sigma_y, device, noiseless=True)
    table = _native.renoised_table(alpha_bars, grid, math.sqrt(1 - eta**2), 0.0, travel)
    return task.restore("ddnm", table, _native.Method.ddnm(eta), device, keywords)


@method
def pigdm_sample(
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 100,
    eta: float = 1.0,
    *,
    sigma_y: Any,
    r2: Any = None,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Restore by pseudoinverse guidance (Song et al. 2023): DDIM with the score for x0 given x_t ~ N(x0_hat, r2 I).

    Parameters
    ----------
    {task}
    eta : float
        Of DDIM; at least 0.
    {sigma}
    r2 : "schedule", callable, Tensor, LocalError or float, optional
        As for `daps_sample`, but not "jacobian". Default: the paper's, 1 - ab, which few steps want: the denoiser's own
        error is for a hundred of them.
    {grid}
    {keywords}

    {result}

    {raises}
    """
    refuse_inference_mode("pigdm")
    eta = checks.number("eta", eta, 0.0)
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    task = Task(model, y, operator, sigma_y, device)
    table = _native.Table.ddim(alpha_bars, grid, eta)
    bars = torch.as_tensor(alpha_bars, dtype=torch.float64)
    how = _native.Method.pigdm(spread(1 - bars if r2 is None else r2, model, alpha_bars, grid))
    return task.restore("pigdm", table, how, device, keywords)


@method
def mmps_sample(
    model: Any,
    y: Any,
    operator: Operator,
    alpha_bars: Tensor,
    device: str | torch.device,
    sample_steps: int = 40,
    eta: float = 1.0,
    *,
    sigma_y: Any,
    cg_steps: int = 5,
    timesteps: Sequence[int] | None = None,
    spacing: str = _native.SPACINGS[0],
    **keywords: Unpack[Keywords],
) -> Tensor:
    """Restore by moment matching (MMPS, Rozet et al. 2024): DDIM with the network's own covariance of x0 given x_t.

    Parameters
    ----------
    {task}
    eta : float
        Of DDIM; at least 0.
    {sigma}
    cg_steps : int
        Steps of conjugate gradients, each with a pass back through the network.
    {grid}
    {keywords}

    {result}

    {raises}
    """
    refuse_inference_mode("mmps")
    eta = checks.number("eta", eta, 0.0)
    how = _native.Method.mmps(checks.integer("cg_steps", cg_steps, 1, 10**6))
    grid = timesteps_of(alpha_bars, sample_steps, timesteps, spacing)
    task = Task(model, y, operator, sigma_y, device)
    return task.restore("mmps", _native.Table.ddim(alpha_bars, grid, eta), how, device, keywords)
