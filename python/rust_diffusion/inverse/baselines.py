"""What a reconstruction must beat: the methods without a prior that was learnt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rust_diffusion.inverse.operator import Operator, check_adjoint
from rust_diffusion.support import checks

#: Iterations after which tomography has converged too, which the default's are not enough for.
CONVERGED = 1000


def tv_reconstruct(y: Any, K: Operator, lambda_: float, iterations: int = 300) -> Tensor:
    """Minimise ``1/2 |K x - y|^2 + lambda_ TV(x)``, TV the sum over pixels of the length of the gradient.

    By the primal-dual method of Chambolle and Pock (2011), each image for itself.

    Parameters
    ----------
    y : Tensor or array
        Measurements, (N, C, mx, my).
    K : Operator
        What measured them.
    lambda_ : float
        Above 0: how much smoothness counts. To be tuned; more noise takes more.
    iterations : int
        At least 1.

    Returns
    -------
    Tensor
        (N, C, H, W), not clamped.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit.
    """
    if not isinstance(K, Operator):
        raise TypeError(f"K must be an Operator, got {type(K).__name__}")
    y = K._linear(checks.tensor("y", y))
    checks.finite("y", y)
    check_adjoint(K, "K: its adjoint is none", y)
    return K._core.tv(y, checks.number("lambda_", lambda_), checks.integer("iterations", iterations, 1))
