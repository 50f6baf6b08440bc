"""DDPM and DDIM for computational imaging: a Rust engine on PyTorch's own tensors."""

from importlib.metadata import version

from rust_diffusion.support.versions import check_torch

# Before anything else: the extension finds libtorch once torch is imported, if it is the torch linked with.
check_torch()

from rust_diffusion._native import (
    cosine_beta_schedule,
    denormalize_to_01,
    extract,
    linear_beta_schedule,
    predict_x0_from_eps,
    q_sample,
)
from rust_diffusion.data import ImageSet, load_images, phantoms, shepp_logan, split_by_folder
from rust_diffusion.files import load
from rust_diffusion.inverse import (
    daps_sample,
    ddnm_sample,
    denoising_error,
    diffpir_sample,
    dps_sample,
    mmps_sample,
    pigdm_sample,
    posterior,
    tv_reconstruct,
)
from rust_diffusion.model import EMA, DiffusionUNet, ModelCard, UNet2DModel, as_eps
from rust_diffusion.sampling import (
    SamplerStep,
    ddim_invert,
    ddim_sample,
    ddpm_sample,
    dpmpp_sample,
    euler_sample,
    flow_sample,
    heun_sample,
    interpolate,
    log_likelihood,
    unipc_sample,
)
from rust_diffusion.support.device import get_device
from rust_diffusion.training import EpochInfo, Recipe, TrainResult, recipe, train
from rust_diffusion.view import SetComparison, compare_sets, explore, show_batch

__version__ = version("rust-diffusion")

__all__ = [
    "EMA",
    "DiffusionUNet",
    "EpochInfo",
    "ImageSet",
    "ModelCard",
    "Recipe",
    "SamplerStep",
    "SetComparison",
    "TrainResult",
    "UNet2DModel",
    "__version__",
    "as_eps",
    "compare_sets",
    "cosine_beta_schedule",
    "daps_sample",
    "ddim_invert",
    "ddim_sample",
    "ddnm_sample",
    "ddpm_sample",
    "denoising_error",
    "denormalize_to_01",
    "diffpir_sample",
    "dpmpp_sample",
    "dps_sample",
    "euler_sample",
    "explore",
    "extract",
    "flow_sample",
    "get_device",
    "heun_sample",
    "interpolate",
    "linear_beta_schedule",
    "load",
    "load_images",
    "log_likelihood",
    "mmps_sample",
    "phantoms",
    "pigdm_sample",
    "posterior",
    "predict_x0_from_eps",
    "q_sample",
    "recipe",
    "shepp_logan",
    "show_batch",
    "split_by_folder",
    "train",
    "tv_reconstruct",
    "unipc_sample",
]
