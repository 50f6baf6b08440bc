"""Inverse problems: what imaging systems do to images, and how to undo it with a denoiser."""

from rust_diffusion.inverse.baselines import tv_reconstruct
from rust_diffusion.inverse.ct import CTProjector
from rust_diffusion.inverse.kernels import gaussian_kernel, motion_kernel, random_motion_kernel
from rust_diffusion.inverse.metrics import PSNR, RE, RMSE, SSIM, gaussian_noise
from rust_diffusion.inverse.operator import Operator
from rust_diffusion.inverse.operators import (
    Blurring,
    DownScaling,
    FunctionOperator,
    Gradient,
    Identity,
    Inpainting,
    MatrixOperator,
    Stack,
)

__all__ = [
    "PSNR",
    "RE",
    "RMSE",
    "SSIM",
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
    "gaussian_noise",
    "motion_kernel",
    "random_motion_kernel",
    "tv_reconstruct",
]
