"""Samplers in fewer steps, judged by diffusers' schedulers driven by hand, and by what is known exactly."""

import math

import pytest
import torch

from tools import TINY, TINY_SHAPE, GaussianDenoiser

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is the judge (pip install 'rust-diffusion[test]')"
)

T = 200
BATCH = 2


@pytest.fixture(scope="module")
def betas():
    return torch.linspace(1e-3, 0.06, T)


@pytest.fixture(scope="module")
def alpha_bars(betas):
    return torch.cumprod(1 - betas, 0)


@pytest.fixture(scope="module")
def unet():
    """A network of diffusers' own with random weights, as a callable."""
    torch.manual_seed(5)
    return diffusers.UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()


@pytest.fixture(params=["analytic", "network"])
def model(request, alpha_bars, unet):
    return GaussianDenoiser(alpha_bars) if request.param == "analytic" else unet


def answer(model, x, t):
    out = model(x, torch.full((len(x),), t))
    return out if isinstance(out, torch.Tensor) else out.sample


@torch.no_grad()
def drive(scheduler, steps, model, start, seed=None):
    """The samples of one of diffusers' schedulers, and the timesteps it took."""
    scheduler.set_timesteps(steps)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    x, taken = start, []
    for t in scheduler.timesteps:
        taken.append(int(t))
        out = answer(model, scheduler.scale_model_input(x, t), int(t))
        options = {} if generator is None else {"generator": generator}
        x = scheduler.step(out, t, x, **options).prev_sample
    return x, taken


def start(seed=3):
    return torch.randn(BATCH, *TINY_SHAPE, generator=torch.Generator().manual_seed(seed))


def ours(sampler, model, alpha_bars, grid, **options):
    options.setdefault("x_T", start())
    return sampler(
        model, BATCH, TINY_SHAPE, alpha_bars, "cpu", timesteps=grid, clip=False, progress=False, **options
    )


def near(got, want):
    assert got.shape == want.shape
    return (got - want).abs().max() <= 1e-4 * max(1.0, want.abs().max())


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("solver", ["midpoint", "heun"])
@pytest.mark.parametrize("order, steps", [(1, 8), (2, 8), (2, 20), (3, 9), (3, 20)])
def test_dpmpp_is_diffusers_multistep_scheduler(rd, betas, alpha_bars, model, order, steps, solver, sde):
    if sde and order == 3:
        pytest.skip("of the third order's stochastic form, see below")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=T,
        trained_betas=betas.numpy(),
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        solver_order=order,
        solver_type=solver,
        timestep_spacing="leading",
    )
    want, grid = drive(scheduler, steps, model, start(), seed=7 if sde else None)
    options = dict(order=order, solver=solver, sde=sde)
    if sde:
        options["generator"] = torch.Generator().manual_seed(7)
    assert near(ours(rd.dpmpp_sample, model, alpha_bars, grid, **options), want)


def test_dpmpp_without_lower_orders_at_the_end_is_diffusers(rd, betas, alpha_bars, model):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=T,
        trained_betas=betas.numpy(),
        solver_order=3,
        lower_order_final=False,
        timestep_spacing="trailing",
    )
    want, grid = drive(scheduler, 8, model, start())
    got = ours(rd.dpmpp_sample, model, alpha_bars, grid, order=3, lower_order_final=False)
    assert near(got, want)


def test_the_third_order_of_the_stochastic_form_closes_in_where_diffusers_does_not(rd, betas, alpha_bars):
    """diffusers 0.42 weighs the curvature of x0_hat with -0.5 for +0.5, which does not vanish with the step."""
    model, far, near = GaussianDenoiser(alpha_bars), {}, {}
    for order in (2, 3):
        scheduler = diffusers.DPMSolverMultistepScheduler(
            num_train_timesteps=T,
            trained_betas=betas.numpy(),
            algorithm_type="sde-dpmsolver++",
            solver_order=order,
            timestep_spacing="leading",
        )
        far[order], grid = drive(scheduler, 100, model, start(), seed=7)
        options = dict(order=order, sde=True, generator=torch.Generator().manual_seed(7))
        near[order] = ours(rd.dpmpp_sample, model, alpha_bars, grid, **options)
    assert (near[3] - near[2]).abs().max() < 0.1 and (far[3] - far[2]).abs().max() > 0.2


@pytest.mark.parametrize("order, steps", [(1, 6), (2, 8), (2, 20), (3, 12)])
def test_unipc_is_diffusers_multistep_scheduler(rd, betas, alpha_bars, model, order, steps):
    scheduler = diffusers.UniPCMultistepScheduler(
        num_train_timesteps=T,
        trained_betas=betas.numpy(),
        solver_order=order,
        timestep_spacing="leading",
    )
    want, grid = drive(scheduler, steps, model, start())
    assert near(ours(rd.unipc_sample, model, alpha_bars, grid, order=order), want)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [5, 16])
def test_heun_is_diffusers_scheduler(rd, betas, alpha_bars, model, steps, spacing):
    scheduler = diffusers.HeunDiscreteScheduler(
        num_train_timesteps=T, trained_betas=betas.numpy(), timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    want, taken = drive(scheduler, steps, model, start() * (scheduler.sigmas[0] ** 2 + 1) ** 0.5)
    grid = list(dict.fromkeys(taken))
    assert len(taken) == 2 * steps - 1 and len(grid) == steps
    assert near(ours(rd.heun_sample, model, alpha_bars, grid), want)


@pytest.mark.parametrize("ancestral", [False, True])
@pytest.mark.parametrize("steps", [5, 16])
def test_euler_is_diffusers_scheduler(rd, betas, alpha_bars, model, steps, ancestral):
    name = "EulerAncestralDiscreteScheduler" if ancestral else "EulerDiscreteScheduler"
    scheduler = getattr(diffusers, name)(
        num_train_timesteps=T, trained_betas=betas.numpy(), timestep_spacing="leading"
    )
    scheduler.set_timesteps(steps)
    noisy = start() * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    want, grid = drive(scheduler, steps, model, noisy, seed=7 if ancestral else None)
    options = {"generator": torch.Generator().manual_seed(7)} if ancestral else {}
    assert near(ours(rd.euler_sample, model, alpha_bars, grid, ancestral=ancestral, **options), want)


def test_ddim_goes_to_the_next_timestep_where_diffusers_goes_elsewhere(rd, betas, alpha_bars):
    """On `linspace` diffusers steps to t - T // N, which is not the next entry of its own list."""
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=T, trained_betas=betas.numpy(), timestep_spacing="linspace", clip_sample=False
    )
    model = GaussianDenoiser(alpha_bars)
    theirs, grid = drive(scheduler, 30, model, start())
    x = start()
    for k, s in zip(grid, [*grid[1:], None], strict=True):
        eps = answer(model, x, k)
        x0 = (x - (1 - alpha_bars[k]).sqrt() * eps) / alpha_bars[k].sqrt()
        x = x0 if s is None else alpha_bars[s].sqrt() * x0 + (1 - alpha_bars[s]).sqrt() * eps
    got = ours(rd.ddim_sample, model, alpha_bars, grid)
    assert near(got, x) and not near(theirs, x)


def karras(model, alpha_bars, grid, churn, generator):
    """Karras et al. 2022, algorithm 2, on the levels that the network knows, in their own coordinates."""
    sigmas = ((1 - alpha_bars.double()) / alpha_bars.double()).sqrt()
    gamma = min(churn / len(grid), math.sqrt(2) - 1)

    def denoise(y, k):
        bar = alpha_bars[k].double()
        eps = answer(model, (bar.sqrt() * y).float(), k).double()
        return y - sigmas[k] * eps

    y = start().double() / alpha_bars[grid[0]].double().sqrt()
    for k, following in zip(grid, [*grid[1:], None], strict=True):
        raised = int((sigmas - sigmas[k] * (1 + gamma)).abs().argmin())
        if sigmas[raised] > sigmas[k]:
            noise = torch.randn(y.shape, generator=generator).double()
            y = y + (sigmas[raised] ** 2 - sigmas[k] ** 2).sqrt() * noise
        else:
            raised = k
        at, to = sigmas[raised], 0.0 if following is None else sigmas[following]
        slope = (y - denoise(y, raised)) / at
        ahead = y + (to - at) * slope
        if following is not None:
            slope = (slope + (ahead - denoise(ahead, following)) / to) / 2
        y = y + (to - at) * slope
    return y.float()


@pytest.mark.parametrize("churn", [0.0, 2.0, 40.0])
def test_heun_with_churn_follows_the_papers_second_algorithm(rd, alpha_bars, churn):
    model = GaussianDenoiser(alpha_bars)
    grid = [180, 120, 70, 30, 10, 2]
    want = karras(model, alpha_bars, grid, churn, torch.Generator().manual_seed(11))
    options = {"generator": torch.Generator().manual_seed(11)}
    assert near(ours(rd.heun_sample, model, alpha_bars, grid, churn=churn, **options), want)


FALL = [
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("dpmpp", {}, 2),
    ("dpmpp", {"solver": "heun"}, 2),
    ("unipc", {}, 2),
]


@pytest.mark.parametrize("name, options, order", FALL)
def test_errors_fall_with_the_order_of_the_method(rd, name, options, order):
    """With the exact denoiser of N(0, 0.25) the flow is known: at (a, s), x is in proportion to sqrt(a^2/4 + s^2)."""
    bars = torch.cumprod(1 - torch.linspace(1e-5, 0.01, 2000), 0)
    model = GaussianDenoiser(bars)
    x_T = start()
    deviation = (bars[1600] * 0.25 + 1 - bars[1600]).sqrt()

    def error(steps):
        grid = [round(1600 * (1 - i / steps) ** 2) for i in range(steps + 1)]
        got = ours(getattr(rd, f"{name}_sample"), model, bars, grid, x_T=x_T, **options)
        return (got - 0.5 * x_T / deviation).abs().max().item()

    fall = math.log2(error(10) / error(20))
    assert order - 0.35 < fall < order + 1.2, fall


SAMPLERS = ["dpmpp", "unipc", "heun", "euler"]


def test_no_sampler_is_forgotten_here():
    """Others than these have tests of their own: test_samplers.py, test_flow.py."""
    from rust_diffusion.sampling.sampler import SAMPLERS as known

    assert set(SAMPLERS) == known.keys() - {"ddpm", "ddim", "flow"}
    assert set(SAMPLERS) == {name for name, _, _ in FALL}


def drawn(rd, name, model, alpha_bars, **options):
    sampler = getattr(rd, f"{name}_sample")
    options = {"sample_steps": 6, "progress": False, **options}
    return sampler(model, BATCH, TINY_SHAPE, alpha_bars, "cpu", **options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_all_that_ddim_takes_is_taken(rd, alpha_bars, name):
    torch.manual_seed(2)
    model = rd.DiffusionUNet(**TINY).eval()
    seen = []
    images = drawn(rd, name, model, alpha_bars, seed=[4, 9], spacing="trailing", callback=seen.append)
    assert images.abs().max() <= 1 and len(seen) == 6
    assert all(step.x0_hat.abs().max() <= 1 for step in seen)
    assert (drawn(rd, name, model, alpha_bars, seed=[4, 9], spacing="trailing") == images).all()
    assert torch.isfinite(drawn(rd, name, model, alpha_bars, seed=4, precision="bf16")).all()
    with pytest.raises(ValueError, match=r"timesteps"):
        drawn(rd, name, model, alpha_bars, timesteps=[3, 5])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("objective", ["x0", "v", "flow"])
def test_every_objective_says_the_same(rd, alpha_bars, name, objective):
    """One denoiser, asked in four ways."""
    exact = GaussianDenoiser(alpha_bars)

    def converted(x, t):
        if objective == "flow":  # shown (x0 + sigma eps) / (1 + sigma) at 1000 sigma / (1 + sigma)
            share = t.reshape(-1, 1, 1, 1) / 1000
            signal, spread = 1 - share, share
            x0 = x * signal * 0.25 / (signal**2 * 0.25 + spread**2)
            return (x - x0) / spread
        bar = alpha_bars[t].reshape(-1, 1, 1, 1)
        eps = exact(x, t)
        x0 = (x - (1 - bar).sqrt() * eps) / bar.sqrt()
        return x0 if objective == "x0" else bar.sqrt() * eps - (1 - bar).sqrt() * x0

    options = dict(seed=1, clip=False)
    want = drawn(rd, name, exact, alpha_bars, **options)
    got = drawn(rd, name, converted, alpha_bars, objective=objective, **options)
    assert (got - want).abs().max() < 2e-4


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_schedule_that_does_not_fall_or_has_no_noise_is_refused(rd, name):
    model = lambda x, t: x  # noqa: E731
    flat = torch.tensor([0.9, 0.5, 0.5, 0.1])
    with pytest.raises(ValueError, match=r"alpha_bars must fall"):
        drawn(rd, name, model, flat, sample_steps=4)
    with pytest.raises(ValueError, match=r"alpha_bars is 1 .* no noise"):
        drawn(rd, name, model, torch.ones(4), sample_steps=4)
    images = drawn(rd, name, model, torch.tensor([1.0, 0.9, 0.5, 0.1]), sample_steps=4)
    assert torch.isfinite(images).all(), "a first step without noise is the clean image"


WRONG = {
    "an order of four": ("dpmpp", dict(order=4), r"order.*4"),
    "an order of none": ("unipc", dict(order=0), r"order.*0"),
    "an unknown solver": ("dpmpp", dict(solver="rk45"), r"solver.*rk45"),
    "negative churn": ("heun", dict(churn=-1.0), r"churn.*-1"),
}


@pytest.mark.parametrize("name, options, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(rd, alpha_bars, name, options, message):
    with pytest.raises(ValueError, match=message):
        drawn(rd, name, lambda x, t: x, alpha_bars, **options)


def pinned(rd, betas, **options):
    """x t / (t + 1), from a ramp."""
    model = lambda x, t: x * (t / (t + 1)).reshape(-1, 1, 1, 1)  # noqa: E731
    ramp = (torch.arange(768).reshape(3, 8, 8, 4) / 768).permute(3, 0, 1, 2)
    alpha_bars = torch.cumprod(1 - betas, 0)
    images = rd.ddim_sample(model, 4, (3, 8, 8), alpha_bars, "cpu", x_T=ramp, progress=False, **options)
    return images.abs().sum().item()


@pytest.mark.parametrize(
    "schedule, options, want",
    [
        ("linear", dict(spacing="leading"), 172.0067),
        ("linear", dict(spacing="leading", objective="v"), 52.5302),
        ("cosine", dict(spacing="leading"), 181.3678),
        ("cosine", dict(spacing="trailing"), 232.2681),
        ("cosine", dict(spacing="linspace"), 237.8358),
        ("cosine", dict(), 237.8345),
        ("cosine", dict(sample_steps=50), 204.1065),
    ],
)
def test_values_that_need_no_weights(rd, schedule, options, want):
    betas = rd.linear_beta_schedule(1000) if schedule == "linear" else rd.cosine_beta_schedule(1000)
    if schedule == "cosine" and "spacing" in options:
        # diffusers computes its cosine in float64 and bounds it by 0.999 alone
        cosine = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
        ratio = [cosine((i + 1) / 1000) / cosine(i / 1000) for i in range(1000)]
        betas = torch.tensor([min(1 - r, 0.999) for r in ratio])
    got = pinned(rd, betas, **{"sample_steps": 10, **options})
    assert got == pytest.approx(want, abs=2e-3)
