"""Noise, metrics and the device, where the course's library has them: `from rust_diffusion import utilities`."""

from rust_diffusion.inverse import PSNR, RE, RMSE, SSIM, gaussian_noise, metrics
from rust_diffusion.support.device import get_device

__all__ = ["PSNR", "RE", "RMSE", "SSIM", "gaussian_noise", "get_device", "metrics"]
