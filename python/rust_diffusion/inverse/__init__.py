"""Inverse problems: what imaging systems do to images, and how to undo it with a denoiser."""

from rust_diffusion.inverse.baselines import tv_reconstruct
from rust_diffusion.inverse.ct import CTProjector
from rust_diffusion.inverse.denoising import LocalError, denoising_error
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
from rust_diffusion.inverse.posterior import Posterior, posterior
from rust_diffusion.inverse.restoring import ReconstructionStep
from rust_diffusion.inverse.samplers import (
    daps_sample,
    ddnm_sample,
    diffpir_sample,
    dps_sample,
    mmps_sample,
    pigdm_sample,
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
    "LocalError",
    "MatrixOperator",
    "Operator",
    "Posterior",
    "ReconstructionStep",
    "Stack",
    "daps_sample",
    "ddnm_sample",
    "denoising_error",
    "diffpir_sample",
    "dps_sample",
    "gaussian_kernel",
    "gaussian_noise",
    "mmps_sample",
    "motion_kernel",
    "pigdm_sample",
    "posterior",
    "random_motion_kernel",
    "tv_reconstruct",
]
