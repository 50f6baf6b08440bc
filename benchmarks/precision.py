"""Does bfloat16 cost quality? Losses of the same training in both precisions, and samples compared as sets.

`python -m benchmarks.precision`; takes some minutes on two cores. MS-SSIM needs the extra `evaluate`.
"""

from __future__ import annotations

import statistics

import click
import rust_diffusion as rd
import torch
from torch import Tensor

from benchmarks.harness import report

#: As in `rust-diffusion demo`, smaller: enough to draw slices after some hundred updates.
SIZE, IMAGES, TIMESTEPS, BATCH = 32, 512, 200, 16
UPDATES_PER_EPOCH = IMAGES // BATCH


@click.command()
@click.option("--epochs", default=12, show_default=True, help=f"Of {UPDATES_PER_EPOCH} updates each.")
@click.option("--samples", default=256, show_default=True, help="Images drawn in each precision.")
@click.option(
    "--seeds", default=3, show_default=True, help="Trainings in each precision, for the noise between them."
)
@click.option("--device", default="cpu", show_default=True)
def main(epochs: int, samples: int, seeds: int, device: str) -> None:
    """Train in float32 and in bfloat16, several seeds each, then draw the same seeds in both precisions."""
    slices = rd.phantoms(IMAGES, size=SIZE, seed=0)
    runs = [_train(slices, epochs, "fp32", seed, device) for seed in range(seeds)]
    short = [_train(slices, epochs, "bf16", seed, device) for seed in range(seeds)]
    losses = {"fp32": [run.history[-1] for run in runs], "bf16": [run.history[-1] for run in short]}
    click.echo(report.machine(device))
    click.echo(f"\n{epochs * UPDATES_PER_EPOCH} updates, mean loss of the last epoch:\n")
    for precision, of_seeds in losses.items():
        for seed, loss in enumerate(of_seeds):
            click.echo(f"  {precision}, seed {seed}:  {loss:.5f}")
        click.echo(f"  between seeds (standard deviation): {statistics.stdev(of_seeds):.5f}")
    model = runs[0].ema.shadow
    drawn = {precision: _draw(model, samples, precision, 0) for precision in ("fp32", "bf16")}
    other = _draw(model, samples, "fp32", samples)
    difference = (drawn["fp32"] - drawn["bf16"]).abs().mean().item()
    click.echo(f"\nOne network, the same {samples} seeds; mean difference of a pixel {difference:.4f} of 2.")
    click.echo(f"\nbf16 against fp32, the same seeds:\n{rd.compare_sets(drawn['bf16'], drawn['fp32'])}")
    click.echo(f"\nbf16 against fp32, other seeds:\n{rd.compare_sets(drawn['bf16'], other)}")
    click.echo(f"\nfp32 against fp32, other seeds:\n{rd.compare_sets(drawn['fp32'], other)}")


def _train(slices: Tensor, epochs: int, precision: str, seed: int, device: str) -> rd.TrainResult:
    torch.manual_seed(seed)
    model = rd.DiffusionUNet(base_ch=32, channel_mults=(1, 2, 4), attn_levels=(2,), dropout=0.0)
    return rd.train(
        model,
        slices,
        betas=rd.cosine_beta_schedule(TIMESTEPS),
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=1e-3,
        ema_decay=0.98,
        objective="v",
        precision=precision,
        seed=seed,
        device=device,
    )


def _draw(model: rd.DiffusionUNet, count: int, precision: str, seed: int) -> Tensor:
    return model.sample(count, "ddim", seed=seed, batch_size=64, precision=precision).cpu()


if __name__ == "__main__":
    main()
