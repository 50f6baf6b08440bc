"""What a user writes, for the type checker: `mypy --strict` reads it, a test runs it."""

import numpy as np
import torch
from torch import Tensor

import rust_diffusion as rd


def believe(x: Tensor, t: Tensor) -> Tensor:
    return x * 0.5


def show(step: rd.SamplerStep) -> None:
    print(step.timestep, step.x.shape, step.x0_hat.shape)


def go_on(epoch: rd.EpochInfo) -> bool:
    print(epoch.epoch, epoch.loss, epoch.lr, epoch.images_per_second, epoch.ema.decay)
    return epoch.loss > 0


def main() -> None:
    device: str = rd.get_device()
    betas: Tensor = rd.cosine_beta_schedule(10)
    alphas = 1.0 - betas
    alpha_bars = torch.cumprod(alphas, dim=0)
    slices: Tensor = rd.phantoms(16, size=16)

    t = torch.tensor([3])
    noise = torch.randn(1, 1, 16, 16)
    x_t: Tensor = rd.q_sample(slices[:1], t, noise, alpha_bars)
    x0: Tensor = rd.predict_x0_from_eps(x_t, noise, t, alpha_bars)
    shown: Tensor = rd.denormalize_to_01(np.zeros((2, 2), dtype=np.float32))
    picked: Tensor = rd.extract(alpha_bars, t, x0.shape)
    print(shown.shape, picked.shape, rd.linear_beta_schedule(3))

    model = rd.DiffusionUNet(base_ch=8, channel_mults=(1, 2), attn_levels=(1,)).to(device)
    result = rd.train(model, slices, betas=betas, epochs=1, batch_size=8, progress=False, callback=go_on)
    history: list[float] = result.history
    print(history, result.best_loss, result.epochs_run)

    ema: rd.EMA = result.ema
    ema.update(model)
    prediction: Tensor = ema.shadow(x_t.to(device), t.to(device))
    print(prediction.shape)
    rd.ddim_sample(model, 2, (1, 16, 16), alpha_bars, device, sample_steps=3, progress=False, callback=show)
    images: Tensor = rd.ddpm_sample(believe, 1, (1, 16, 16), betas, alphas, alpha_bars, "cpu", progress=False)
    drawn: Tensor = ema.shadow.sample(2, "ddim", seed=0, sample_steps=2, progress=False)
    rd.show_batch(torch.cat([images, drawn.cpu()]), "Samples").savefig("samples.png")

    folder = model.save_pretrained("shared")
    again: rd.DiffusionUNet = rd.load(folder, device=device)
    print(again.config)


if __name__ == "__main__":
    main()
