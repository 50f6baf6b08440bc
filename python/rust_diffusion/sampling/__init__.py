"""Drawing images with a trained denoiser."""

from rust_diffusion.sampling.draw import sample
from rust_diffusion.sampling.progress import SamplerStep
from rust_diffusion.sampling.samplers import ddim_sample, ddpm_sample

__all__ = [
    "SamplerStep",
    "ddim_sample",
    "ddpm_sample",
    "sample",
]
