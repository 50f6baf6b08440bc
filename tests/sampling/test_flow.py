"""Straight paths: flow_sample against diffusers' schedulers, and against flows that are known."""

import pytest
import torch

from tools import TINY, TINY_SHAPE

SIGMA = 0.5


def velocity(x, t):
    """Exactly, for data from N(0, SIGMA^2)."""
    s = (t / 1000).reshape(-1, 1, 1, 1)
    variance = (1 - s) ** 2 * SIGMA**2 + s**2
    return x * (s - (1 - s) * SIGMA**2) / variance


def drawn(rd, model=velocity, n=3, shape=TINY_SHAPE, **options):
    options = {"progress": False, "clip": False, **options}
    return rd.flow_sample(model, n, shape, "cpu", **options)


@torch.no_grad()
def drive(scheduler, steps, model, x):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(len(x))), t, x).prev_sample
    return x


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 30])
def test_euler_is_diffusers_flow_matching_scheduler(rd, steps, shift):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the judge")
    start = torch.randn(3, *TINY_SHAPE)
    want = drive(diffusers.FlowMatchEulerDiscreteScheduler(shift=shift), steps, velocity, start)
    got = drawn(rd, sample_steps=steps, shift=shift, x_T=start)
    assert (got - want).abs().max() <= 1e-4


@pytest.mark.parametrize("steps", [2, 12])
def test_heun_is_diffusers_flow_matching_scheduler(rd, steps):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the judge")
    start = torch.randn(3, *TINY_SHAPE)
    want = drive(diffusers.FlowMatchHeunDiscreteScheduler(), steps, velocity, start)
    got = drawn(rd, sample_steps=steps, solver="heun", x_T=start)
    assert (got - want).abs().max() <= 1e-4


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_errors_fall_with_the_order(rd, solver, order):
    start = torch.randn(3, *TINY_SHAPE)

    def error(steps):
        return (drawn(rd, sample_steps=steps, solver=solver, x_T=start) - SIGMA * start).abs().max()

    fall = (error(8) / error(16)).log2()
    assert order - 0.35 < fall < order + 0.8, fall


def test_a_transformer_of_stable_diffusion_3_is_driven_as_a_callable(rd):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the judge")
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    ).eval()
    words, pooled = torch.randn(2, 5, 16), torch.randn(2, 16)

    def model(x, t):
        return transformer(x, timestep=t, encoder_hidden_states=words, pooled_projections=pooled).sample

    start = torch.randn(2, 4, 8, 8)
    want = drive(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 5, model, start)
    got = drawn(rd, model, 2, (4, 8, 8), sample_steps=5, shift=3.0, x_T=start)
    assert (got - want).abs().max() <= 1e-4


def test_times_are_shown_as_stable_diffusion_3_shows_them(rd):
    times = []
    drawn(rd, lambda x, t: times.append(t) or velocity(x, t), sample_steps=4)
    assert all(t.dtype == torch.float32 and t.shape == (3,) for t in times)
    assert [round(t[0].item(), 3) for t in times] == [1000.0, 667.0, 334.0, 1.0]
    seen = []
    drawn(rd, sample_steps=4, callback=lambda step: seen.append(step.timestep))
    assert seen == pytest.approx([1000.0, 667.0, 334.0, 1.0])


def test_a_network_of_ours_draws_along_straight_paths(rd):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY).eval()
    images = drawn(rd, model, seed=1, sample_steps=5, clip=True)
    plain = drawn(rd, lambda x, t: model(x, t), seed=1, sample_steps=5, clip=True)
    assert images.abs().max() <= 1 and torch.allclose(images, plain, atol=1e-3)


def test_a_model_without_a_schedule_draws_along_straight_paths(rd):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY).eval()
    model.objective, model.image_size = "flow", TINY_SHAPE[1:]
    want = drawn(rd, model, 2, seed=[1, 2], clip=True)
    assert torch.equal(model.sample(2, "flow", seed=1, progress=False), want)
    with pytest.raises(ValueError, match="give betas="):
        model.sample(2, "ddim")
    model.betas = rd.linear_beta_schedule(7)  # as many steps all the same
    assert torch.equal(model.sample(2, "flow", seed=1, progress=False), want)


def test_a_model_for_something_else_is_refused(rd):
    model = rd.DiffusionUNet(**TINY).eval()
    model.objective = "v"
    with pytest.raises(ValueError, match=r"flow_sample.*'flow'.*'v'"):
        drawn(rd, model)
    with pytest.raises(ValueError, match=r"shift.*-1"):
        drawn(rd, shift=-1.0)
    with pytest.raises(ValueError, match=r"sample_steps.*0"):
        drawn(rd, sample_steps=0)


def test_a_model_for_flow_serves_the_other_samplers(rd, oracle):
    """ddim_sample asks it in its own terms: x / (signal + spread) at 1000 spread / (signal + spread)."""
    alpha_bars = torch.cumprod(1 - oracle.cosine_beta_schedule(100), 0)
    start = torch.randn(2, *TINY_SHAPE)
    options = dict(x_T=start, progress=False, clip=False)

    def eps(x, t):
        bar = alpha_bars[t].reshape(-1, 1, 1, 1)
        return x * (1 - bar).sqrt() / (bar * SIGMA**2 + 1 - bar)

    want = rd.ddim_sample(eps, 2, TINY_SHAPE, alpha_bars, "cpu", 20, **options)
    got = rd.ddim_sample(velocity, 2, TINY_SHAPE, alpha_bars, "cpu", 20, objective="flow", **options)
    assert (got - want).abs().max() < 1e-3


@pytest.mark.slow
def test_a_network_learns_to_go_straight(rd):
    """Two thousand pixels of one grey level: after a short training the flow leads there."""
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY)
    data = torch.full((64, 1, 8, 8), 0.5)
    betas = rd.cosine_beta_schedule(100)
    options = dict(betas=betas, epochs=60, learning_rate=2e-3, ema_decay=0.9, seed=0, progress=False)
    result = rd.train(model, data, objective="flow", val_data=data[:8], **options)
    assert result.val_history[-1] < 0.25 < result.val_history[0], (
        "held-out images are asked about on the same path"
    )
    assert model.objective == "flow" and result.history[-1] < 0.2 < result.history[0]
    images = rd.flow_sample(model.eval(), 8, (1, 8, 8), "cpu", 10, seed=1, progress=False)
    assert (images.mean() - 0.5).abs() < 0.1
