"""How fast: the projector beside other projectors, guidance beside the chapter's loop."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import rust_diffusion as rd
import torch
from rust_diffusion.operators import Blurring, CTProjector
from torch import Tensor, nn

from benchmarks.harness.measure import alternate, peak_memory
from benchmarks.inverse.matrix import joseph
from benchmarks.peers import course
from benchmarks.peers.contender import COURSE

#: Side of the image, bins of the detector, images at a time; 60 angles.
SIZES = ((64, 92, 8), (256, 512, 8))
ANGLES = 60
T = 400
DPS = ("course module, the chapter's loop", "rust_diffusion")
STEPS = 100
#: The chapter's: what it takes for the noise, and its step size.
SIGMA, SCALE = 0.01, 0.15

Work = dict[str, Callable[[], object]]


def importable(name: str) -> bool:
    """Whether a peer is there; ASTRA imports only beside the CUDA libraries that it was built with."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def projectors(side: int, bins: int, batch: int) -> Work:
    """Return a projection and a back projection of `batch` images by everybody who is installed."""
    angles = torch.arange(ANGLES, dtype=torch.float64) * (math.pi / ANGLES)
    x, y = torch.rand(batch, 1, side, side), torch.rand(batch, 1, ANGLES, bins)
    K = CTProjector((side, side), angles, bins)
    rows = joseph(side, angles, bins)
    columns = rows.t().to_sparse_csr()
    flat_x, flat_y = x.reshape(batch, -1).t().contiguous(), y.reshape(batch, -1).t().contiguous()
    work: Work = {
        "rust_diffusion": lambda: (K(x), K.T(y)),
        "torch, sparse matrix": lambda: (rows @ flat_x, columns @ flat_y),
    }
    if importable("scipy"):
        from scipy import sparse

        csr = sparse.csr_matrix((rows.values(), rows.col_indices(), rows.crow_indices()), tuple(rows.shape))
        back, numbers = csr.T.tocsr(), (flat_x.numpy(), flat_y.numpy())
        work["scipy, sparse matrix"] = lambda: (csr @ numbers[0], back @ numbers[1])
    if importable("skimage"):
        work["scikit-image"] = lambda: _scikit_image(x, y, angles)
    if importable("astra"):
        work["ASTRA"] = _astra(x, y, angles)
    return work


def _scikit_image(x: Tensor, y: Tensor, angles: Tensor) -> None:
    from skimage.transform import iradon, radon

    degrees, side = angles.rad2deg().numpy(), x.shape[-1]
    for image, sinogram in zip(x[:, 0].numpy(), y[:, 0].numpy(), strict=True):
        radon(image, degrees, circle=False)
        iradon(sinogram.T, degrees, side, filter_name=None, circle=False)


def _astra(x: Tensor, y: Tensor, angles: Tensor) -> Callable[[], object]:
    import astra

    volume = astra.create_vol_geom(*x.shape[-2:])
    scan = astra.create_proj_geom("parallel", 1.0, y.shape[-1], angles.numpy())
    projector = astra.OpTomo(astra.create_projector("linear", scan, volume))
    images, sinograms = x.flatten(1).numpy(), y.flatten(1).numpy()
    return lambda: [(projector.FP(i), projector.BP(s)) for i, s in zip(images, sinograms, strict=True)]


def guided(who: str, steps: int) -> Callable[[], object]:
    """Return the chapter's DPS on its own task, with the course's network and with ours."""
    torch.manual_seed(0)
    ours = who != DPS[0]
    model = (rd.DiffusionUNet if ours else course.DiffusionUNet)(**COURSE).eval().requires_grad_(False)
    alpha_bars = torch.cumprod(1 - rd.cosine_beta_schedule(T), 0)
    K = Blurring((64, 64), kernel_type="motion", kernel_size=9, motion_angle=20)
    y, start = K(rd.phantoms(1, 64, progress=False)), torch.randn(1, 1, 64, 64)
    if not ours:
        return lambda: chapter(model, y, K, alpha_bars, steps, start)
    options: dict[str, Any] = {"sigma_y": SIGMA, "style": "course", "x_T": start, "progress": False}
    return lambda: rd.dps_sample(model, y, K, alpha_bars, "cpu", steps, **options)


def chapter(model: nn.Module, y: Tensor, K: Blurring, bars: Tensor, steps: int, x: Tensor) -> Tensor:
    """Restore as the chapter does, in plain PyTorch."""
    grid = torch.linspace(T - 1, 0, steps).long().tolist()
    for k, s in itertools.pairwise([*grid, None]):
        x = x.detach().requires_grad_()
        eps = model(x, torch.full((len(x),), k))
        x0 = ((x - (1 - bars[k]).sqrt() * eps) / bars[k].sqrt()).clamp(-1, 1)
        if s is None:
            return x0.detach()
        loss = ((K(x0) - y).square() / (2 * SIGMA**2)).mean()
        (gradient,) = torch.autograd.grad(loss, x)
        x = (bars[s].sqrt() * x0 + (1 - bars[s]).sqrt() * eps - SCALE * gradient).clamp(-1, 1)
    return x


def table(rounds: int, steps: int = STEPS) -> str:
    """Measure everything and return it as Markdown."""
    lines: list[str] = []
    for side, bins, batch in SIZES:
        timings = alternate(projectors(side, bins, batch), rounds, "cpu", f"projector {side}")
        base = timings["rust_diffusion"].median
        lines += [
            f"### Projection and back projection, {side} x {side}, {ANGLES} x {bins}, {batch} images",
            "",
        ]
        lines += ["| | ms an image | of rust_diffusion |", "|---|---|---|"]
        for name, timing in timings.items():
            lines.append(f"| {name} | {1000 * timing.median / batch:.3f} | {timing.median / base:.2f} |")
        lines.append("")
    seconds = alternate({who: guided(who, steps) for who in DPS}, 1, "cpu", "DPS", warm=True)
    lines += [f"### The chapter's DPS, {steps} steps, one image of 64 x 64", ""]
    lines += ["| | seconds | times faster | peak memory, MiB |", "|---|---|---|---|"]
    for who in DPS:
        faster = seconds[DPS[0]].median / seconds[who].median
        mib = peak_memory(["benchmarks.inverse.memory", who])
        lines.append(f"| {who} | {seconds[who].median:.1f} | {faster:.2f} | {mib:.0f} |")
    return "\n".join([*lines, ""])
