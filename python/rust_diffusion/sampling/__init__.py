"""Drawing images with a trained denoiser."""

from rust_diffusion.sampling.inversion import ddim_invert, interpolate, log_likelihood
from rust_diffusion.sampling.progress import SamplerStep
from rust_diffusion.sampling.samplers import ddim_sample, ddpm_sample
from rust_diffusion.sampling.solvers import dpmpp_sample, euler_sample, heun_sample, unipc_sample
from rust_diffusion.sampling.straight import flow_sample

# last: it knows all samplers by what has been registered
from rust_diffusion.sampling.draw import sample  # isort: skip

__all__ = [
    "SamplerStep",
    "ddim_invert",
    "ddim_sample",
    "ddpm_sample",
    "dpmpp_sample",
    "euler_sample",
    "flow_sample",
    "heun_sample",
    "interpolate",
    "log_likelihood",
    "sample",
    "unipc_sample",
]
