"""The operators, where the course's library has them: `from rust_diffusion import operators`."""

from rust_diffusion.inverse import (
    Blurring,
    CTProjector,
    DownScaling,
    FunctionOperator,
    Gradient,
    Identity,
    Inpainting,
    MatrixOperator,
    Operator,
    Stack,
    gaussian_kernel,
    motion_kernel,
    random_motion_kernel,
)

__all__ = [
    "Blurring",
    "CTProjector",
    "DownScaling",
    "FunctionOperator",
    "Gradient",
    "Identity",
    "Inpainting",
    "MatrixOperator",
    "Operator",
    "Stack",
    "gaussian_kernel",
    "motion_kernel",
    "random_motion_kernel",
]
