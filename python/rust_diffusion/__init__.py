"""DDPM and DDIM for computational imaging: a Rust engine on PyTorch's own tensors."""

from rust_diffusion._versions import check_torch

# Before anything else: the extension finds libtorch only once torch is imported, and only in the version it is linked with.
check_torch()

from rust_diffusion._native import (  # noqa: E402
    cosine_beta_schedule,
    denormalize_to_01,
    extract,
    linear_beta_schedule,
    predict_x0_from_eps,
    q_sample,
)
from rust_diffusion.display import show_batch  # noqa: E402
from rust_diffusion.model import EMA, DiffusionUNet, get_device  # noqa: E402
from rust_diffusion.pretrained import load  # noqa: E402
from rust_diffusion.sampling import SamplerStep, ddim_sample, ddpm_sample  # noqa: E402

__all__ = [
    "EMA",
    "DiffusionUNet",
    "SamplerStep",
    "cosine_beta_schedule",
    "ddim_sample",
    "ddpm_sample",
    "denormalize_to_01",
    "extract",
    "get_device",
    "linear_beta_schedule",
    "load",
    "predict_x0_from_eps",
    "q_sample",
    "show_batch",
]
