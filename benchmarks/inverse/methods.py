"""Who restores: the methods with the denoiser, the chapter's loops, and what has no prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import rust_diffusion as rd
from rust_diffusion.inverse.baselines import CONVERGED
from rust_diffusion.operators import Operator
from torch import Tensor

from benchmarks.inverse.prior import Prior
from benchmarks.inverse.tasks import COURSE

#: What total variation's weight is chosen from, on the images of the test themselves: the best that it can do.
LAMBDAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)


@dataclass(frozen=True)
class Method:
    """A method of restoration with its options."""

    sampler: str
    steps: int
    #: Passes back through the network at each step, at most.
    backward: int = 0
    #: Which of the denoiser's own errors is taken for r2: of `prior.ERRORS`.
    r2: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    #: The chapter's loop: on its own task only.
    course: bool = False
    #: It draws nothing: one reconstruction is all.
    sure: bool = False

    def keywords(self, prior: Prior) -> dict[str, Any]:
        """Return what `posterior` is to hand on to the method."""
        r2 = {} if self.r2 is None else {"r2": prior.error(self.r2)}
        return {"sample_steps": self.steps, **r2, **self.options}


METHODS = {
    "daps": Method("daps", 40, r2="local"),
    "daps, widened": Method("daps", 40, r2="local", options={"widen": True}),
    "daps, modes alone": Method("daps", 40, r2="modes"),
    "daps, r2 of the schedule": Method("daps", 40),
    "mmps": Method("mmps", 40, backward=6),
    "pigdm": Method("pigdm", 100, backward=1),
    "ddnm": Method("ddnm", 100),
    "diffpir": Method("diffpir", 100),
    "dps": Method("dps", 100, backward=1, options={"scale": 1.0}),
    "dps of the course": Method("dps", 40, backward=1, options={"style": "course"}, course=True),
    "diffpir of the course": Method("diffpir", 40, options={"style": "course"}, course=True, sure=True),
}
#: Tried to find what holds `daps` back; measured when asked for by name.
VARIANTS = {
    "daps, modes alone, widened": Method("daps", 40, r2="modes", options={"widen": True}),
    "daps, one r2": Method("daps", 40, r2="one"),
    "daps, 100 steps": Method("daps", 100, r2="local"),
    "daps, 200 steps": Method("daps", 200, r2="local"),
    "daps, 20 steps": Method("daps", 20, r2="local"),
    "daps, no clamp": Method("daps", 40, r2="local", options={"clip": False}),
    "daps, Jacobian": Method("daps", 40, backward=31, options={"r2": "jacobian"}),
    "pigdm, measured r2": Method("pigdm", 100, backward=1, r2="local"),
}


def fits(name: str, task: str) -> bool:
    """Whether a method is measured on a task."""
    if name == "fbp":
        return task.startswith("ct")
    method = METHODS.get(name)
    return method is None or not method.course or task == COURSE


def total_variation(
    y: Tensor, K: Operator, score: Callable[[Tensor], float]
) -> tuple[Tensor, dict[str, float]]:
    """Return the restorations with the weight that scores best, and every weight's score."""
    found = {weight: rd.tv_reconstruct(y, K, weight, CONVERGED) for weight in LAMBDAS}
    scores = {weight: score(images) for weight, images in found.items()}
    best = max(scores, key=lambda weight: scores[weight])
    return found[best], {"lambda": best, "psnr": scores[best]}
