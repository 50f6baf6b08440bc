"""The methods beside deepinv's and azula's on one analytic denoiser, where those are installed.

The images are normal and every pixel has a variance of its own, so that the mean of x0 given x_t is known.
"""

import itertools

import pytest
import torch

import rust_diffusion as rd
from rust_diffusion import operators as ops

SIZE = (8, 8)
SIGMA = 0.1
VARIANCE = torch.linspace(0.05, 0.5, 64).view(1, 1, *SIZE)
GRID = [190, 150, 110, 70, 30, 5]


def bars(T=200):
    return torch.cumprod(1 - rd.cosine_beta_schedule(T), 0)


def mean(x, alpha_bar):
    """E[x0 | x_t]."""
    return alpha_bar**0.5 * VARIANCE * x / (alpha_bar * VARIANCE + 1 - alpha_bar)


def ours(alpha_bars):
    return lambda x, t: mean(x, alpha_bars[t].view(-1, 1, 1, 1))


@pytest.fixture
def operator():
    return ops.Blurring(SIZE, kernel_type="motion", kernel_size=5, motion_angle=20)


@pytest.fixture
def y(operator):
    truth = VARIANCE.sqrt() * torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    return operator(truth) + SIGMA * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))


def steps_of(method, operator, y, start, alpha_bars, **options):
    """What each step started from, took for x0 and led to."""
    steps = []
    keywords = dict(timesteps=GRID, x_T=start, objective="x0", clip=False, progress=False)
    method(
        ours(alpha_bars),
        y,
        operator,
        alpha_bars,
        "cpu",
        sigma_y=SIGMA,
        callback=lambda step: steps.append((step.x.clone(), step.x0_hat.clone())),
        **{**keywords, **options},
    )
    before = [start, *(x for x, _ in steps[:-1])]
    return [(x, x0_hat, after) for x, (after, x0_hat) in zip(before, steps, strict=True)]


@pytest.fixture
def azula():
    """azula's denoiser and schedule for the same images; its time is the timestep."""
    pytest.importorskip("azula")
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule

    class Steps(Schedule):
        def __call__(self, t):
            alpha_bar = bars()[t.long()]
            return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    class Exact(Denoiser):
        schedule = Steps()

        def forward(self, x_t, t):
            return DiracPosterior(mean(x_t, self.schedule(t)[0] ** 2))

    return Exact()


def flat(operator):
    """azula's vectors: the last dimension holds all of an image."""
    return lambda x: operator(x.reshape(1, 1, *SIZE)).reshape(x.shape)


class Flat(torch.nn.Module):
    """A denoiser of images for azula's solvers, which know vectors."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser, self.schedule = denoiser, denoiser.schedule

    def forward(self, x_t, t):
        from azula.denoise import DiracPosterior

        return DiracPosterior(self.denoiser(x_t.reshape(1, 1, *SIZE), t).mean.reshape(x_t.shape))


def test_moment_matching_is_azulas(azula, operator, y):
    from azula.guidance.mmps import MMPSDenoiser

    steps = steps_of(rd.mmps_sample, operator, y, torch.randn(1, 1, *SIZE), bars(), cg_steps=64, eta=0.0)
    theirs = MMPSDenoiser(
        Flat(azula), y.flatten(1), flat(operator), lambda v: SIGMA**2 * v, solver="cg", iterations=64
    )
    for t, (x, x0_hat, _) in zip(GRID, steps, strict=True):
        want = theirs(x.flatten(1), torch.tensor(t)).mean.reshape(x.shape)
        assert torch.allclose(x0_hat, want, atol=2e-4), f"timestep {t}"


def test_the_proximal_point_is_azulas(azula, operator, y):
    from azula.guidance.diffpir import DiffPIRDenoiser

    grid = GRID[
        1:
    ]  # nearer to noise the point is ill-conditioned: it depends on when conjugate gradients stop
    start = torch.randn(1, 1, *SIZE)
    steps = steps_of(rd.diffpir_sample, operator, y, start, bars(), timesteps=grid, lambda_=3.0, zeta=0.0)
    theirs = DiffPIRDenoiser(
        Flat(azula), y.flatten(1), flat(operator), SIGMA**2, lmbda=3.0, solver="cg", iterations=100
    )
    for t, (x, x0_hat, _) in zip(grid, steps, strict=True):
        want = theirs(x.flatten(1), torch.tensor(t)).mean.reshape(x.shape)
        assert torch.allclose(x0_hat, want, atol=1e-3), f"timestep {t}"


def test_guidance_by_the_misfit_is_azulas(azula, operator, y):
    from azula.guidance.dps import DPSSampler

    start = torch.randn(1, 1, *SIZE)
    torch.manual_seed(3)
    steps = steps_of(rd.dps_sample, operator, y, start, bars(), scale=0.3, guide_below=float("inf"))
    theirs = DPSSampler(azula, y, operator, zeta=0.3, steps=len(GRID))
    torch.manual_seed(3)
    x = start
    for (t, s), (_, _, after) in zip(itertools.pairwise(GRID), steps, strict=False):
        x = theirs.step(x, torch.tensor(t), torch.tensor(s))
        assert torch.allclose(after, x, atol=1e-4), f"timestep {t}"


@pytest.mark.filterwarnings("ignore")
def test_diffpir_is_deepinvs_on_its_schedule():
    """deepinv's images are in [0, 1], so its sigma is half of ours, and it weighs the denoiser twice; it ends noisy."""
    dinv = pytest.importorskip("deepinv")
    from deepinv.sampling.diffusion import DiffPIR

    operator = ops.Inpainting(SIZE, keep=0.5)  # both solve it exactly; a blur depends on when deepinv stops
    y = operator(VARIANCE.sqrt() + SIGMA * torch.randn(1, 1, *SIZE))
    alpha_bars = torch.cumprod(1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000), 0)

    class Exact(torch.nn.Module):
        def forward(self, x, sigma):  # of x0 + sigma n, both in [0, 1]
            noise = (2 * sigma) ** 2
            alpha_bar = 1 / (1 + noise)
            return (mean((2 * x - 1) * alpha_bar**0.5, alpha_bar) + 1) / 2

    physics = dinv.physics.LinearPhysics(
        A=operator, A_adjoint=operator.T, noise_model=dinv.physics.GaussianNoise(SIGMA / 2)
    )
    theirs = DiffPIR(
        Exact(), dinv.optim.data_fidelity.L2(), sigma=SIGMA / 2, max_iter=20, zeta=0.0, lambda_=4.0
    )
    # K is linear: of (x + 1) / 2 it measures (y + K 1) / 2
    seen = (y + operator(torch.ones_like(y))) / 2
    torch.manual_seed(5)
    want = 2 * theirs(seen, physics, x_init=torch.zeros_like(y)) - 1

    grid = (999 - theirs.seq).tolist()
    torch.manual_seed(5)
    spread = ((1 - alpha_bars[-1]) / alpha_bars[-1] - SIGMA**2).sqrt()
    start = (-1 + spread * torch.randn(y.shape)) * alpha_bars[-1].sqrt()
    steps = steps_of(
        rd.diffpir_sample, operator, y, start, alpha_bars, timesteps=grid, lambda_=2.0, zeta=0.0, clip=True
    )
    assert torch.allclose(steps[-1][0], want, atol=2e-3)
