"""What the diffusion notebook imports, where the course's library has it."""

from rust_diffusion import (
    EMA,
    DiffusionUNet,
    cosine_beta_schedule,
    ddim_sample,
    ddpm_sample,
    denormalize_to_01,
    extract,
    get_device,
    linear_beta_schedule,
    load_images,
    predict_x0_from_eps,
    q_sample,
    show_batch,
)

__all__ = [
    "EMA",
    "DiffusionUNet",
    "cosine_beta_schedule",
    "ddim_sample",
    "ddpm_sample",
    "denormalize_to_01",
    "extract",
    "get_device",
    "linear_beta_schedule",
    "load_images",
    "predict_x0_from_eps",
    "q_sample",
    "show_batch",
]
