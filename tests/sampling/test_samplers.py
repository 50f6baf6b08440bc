"""DDPM and DDIM against the course's samplers with the same seed."""

import functools

import numpy as np
import pytest
import torch

from tools import TINY, TINY_SHAPE, GaussianDenoiser

T = 12
SAMPLERS = ["ddpm", "ddim", "ddim, eta 0.7"]


@pytest.fixture
def draw(rd, oracle, schedule):
    """draw(which, model, n, judge=False, **options): a sampler of the package, or of the course, by name."""
    betas, alphas, alpha_bars = schedule

    def sample(which, model, num_samples=3, judge=False, image_shape=TINY_SHAPE, **options):
        module = oracle if judge else rd
        if not judge and module is not oracle:
            options.setdefault("progress", False)
        if which == "ddpm":
            return module.ddpm_sample(
                model, num_samples, image_shape, betas, alphas, alpha_bars, "cpu", **options
            )
        options = {"sample_steps": 5, "eta": 0.7 if "eta" in which else 0.0, **options}
        return module.ddim_sample(model, num_samples, image_shape, alpha_bars, "cpu", **options)

    return sample


@pytest.fixture
def exact(schedule):
    return GaussianDenoiser(schedule[2])


@pytest.fixture
def networks(rd, oracle):
    """Ours and the course's with the same weights, untrained."""
    torch.manual_seed(2)
    theirs = oracle.DiffusionUNet(**TINY).eval()
    ours = rd.DiffusionUNet(**TINY).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def seeded(seed, function, *args, **options):
    torch.manual_seed(seed)
    return function(*args, **options)


def package_only(rd):
    if rd.__name__ == "oracle":
        pytest.skip("the course's samplers have no options of ours")


@pytest.mark.parametrize("which", SAMPLERS)
def test_an_analytic_denoiser_gives_the_courses_samples(draw, exact, which):
    ours = seeded(7, draw, which, exact)
    theirs = seeded(7, draw, which, exact, judge=True)
    assert ours.shape == (3, *TINY_SHAPE) and ours.dtype == torch.float32
    assert (ours - theirs).abs().max() <= 1e-4
    assert ours.std() > 0.1


@pytest.mark.parametrize("which", SAMPLERS)
def test_a_network_gives_the_courses_samples(draw, networks, which):
    ours, theirs = networks
    expected = seeded(7, draw, which, theirs, judge=True)
    assert (seeded(7, draw, which, ours) - expected).abs().max() <= 1e-3
    assert (seeded(7, draw, which, theirs) - expected).abs().max() <= 1e-3, (
        "the course's module as a callable"
    )


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sample_steps", range(1, T + 1))
def test_ddim_agrees_for_every_number_of_steps(draw, exact, sample_steps, eta):
    options = dict(sample_steps=sample_steps, eta=eta)
    ours = seeded(7, draw, "ddim", exact, **options)
    seen = exact.timesteps
    exact.calls.clear()
    theirs = seeded(7, draw, "ddim", exact, judge=True, **options)
    assert seen == exact.timesteps and len(seen) == sample_steps
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 400])
def test_schedules_of_any_length_can_be_sampled(rd, oracle, steps):
    betas = oracle.cosine_beta_schedule(steps)
    alpha_bars = torch.cumprod(1 - betas, 0)
    model = GaussianDenoiser(alpha_bars)
    quiet = {} if rd is oracle else {"progress": False}
    arguments = (model, 2, (1, 4, 4), betas, 1 - betas, alpha_bars, "cpu")
    ours, theirs = seeded(1, rd.ddpm_sample, *arguments, **quiet), seeded(1, oracle.ddpm_sample, *arguments)
    assert (ours - theirs).abs().max() <= 1e-4
    arguments = (model, 2, (1, 4, 4), alpha_bars, "cpu", min(steps, 50))
    ours, theirs = seeded(1, rd.ddim_sample, *arguments, **quiet), seeded(1, oracle.ddim_sample, *arguments)
    assert (ours - theirs).abs().max() <= 1e-4


def test_the_denoiser_sees_the_whole_schedule_downwards(draw, exact):
    draw("ddpm", exact)
    assert exact.timesteps == list(range(T - 1, -1, -1))
    assert all(t.shape == (3,) and t.dtype == torch.int64 for t in exact.calls)


@pytest.mark.parametrize("which", SAMPLERS)
def test_samples_stay_in_range_without_gradients(draw, which):
    wild = draw(which, lambda x, t: 30 * torch.sin(40 * x))
    assert wild.min() >= -1 and wild.max() <= 1 and torch.isfinite(wild).all()
    weight = torch.ones((), requires_grad=True)
    enabled = []
    samples = draw(which, lambda x, t: enabled.append(torch.is_grad_enabled()) or weight * x)
    assert not samples.requires_grad and not any(enabled)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("which", SAMPLERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_in_the_mode_it_is_in(rd, draw, which, training):
    package_only(rd)
    model = rd.DiffusionUNet(**{**TINY, "dropout": 0.5}).train(training)
    first, second = (seeded(3, draw, which, model, x_T=torch.zeros(3, *TINY_SHAPE)) for _ in "ab")
    assert model.training is training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(first, second)
    if training and which == "ddim":  # only dropout is random here: another seed shows that it was on
        assert not torch.equal(first, seeded(4, draw, which, model, x_T=torch.zeros(3, *TINY_SHAPE)))


@pytest.mark.parametrize("which", SAMPLERS)
def test_any_callable_is_a_model(draw, which):
    class Partial(torch.nn.Module):
        def forward(self, x_t, t):
            return 0.1 * x_t + t.reshape(-1, 1, 1, 1) * 1e-3

    def plain(scale, x_t, t):
        return scale * x_t + t.reshape(-1, 1, 1, 1) * 1e-3

    expected = seeded(5, draw, which, Partial(), judge=True)
    for model in (Partial(), functools.partial(plain, 0.1), lambda x, t: plain(0.1, x, t)):
        assert (seeded(5, draw, which, model) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("which", SAMPLERS)
def test_a_forward_put_on_the_model_itself_is_the_one_called(rd, draw, which):
    package_only(rd)
    model = rd.DiffusionUNet(**TINY).eval()
    model.forward = lambda x, t: 0.1 * x
    expected = seeded(5, draw, which, lambda x, t: 0.1 * x)
    assert torch.equal(seeded(5, draw, which, model), expected)


@pytest.mark.parametrize("which", SAMPLERS)
def test_a_model_that_returns_its_input_is_not_corrupted(draw, which):
    """The prediction may share memory with x_t or be kept by the model: it may not be written to."""
    expected = seeded(5, draw, which, lambda x, t: x.clone(), judge=True)
    assert (seeded(5, draw, which, lambda x, t: x) - expected).abs().max() <= 1e-4
    constant = torch.full((3, *TINY_SHAPE), 0.25)
    draw(which, lambda x, t: constant)
    assert (constant == 0.25).all()


@pytest.mark.parametrize("which", SAMPLERS)
def test_noise_kept_by_a_model_stays_as_it_was(draw, which):
    """x_t handed out at one step is not overwritten by the next one."""
    kept = []
    draw(which, lambda x, t: kept.append((x, x.clone())) or 0.3 * x)
    assert all(torch.equal(now, then) for now, then in kept)


@pytest.mark.parametrize("which", SAMPLERS)
def test_an_exception_in_the_model_comes_through(draw, which):
    class MineError(Exception):
        pass

    error = MineError("from the model")

    def fail(x, t):
        raise error

    with pytest.raises(MineError) as caught:
        draw(which, fail)
    assert caught.value is error


def test_the_courses_call_with_names_works(rd, schedule, capsys):
    betas, alphas, alpha_bars = schedule
    model = rd.DiffusionUNet(**TINY).eval()
    samples = rd.ddpm_sample(
        model,
        num_samples=2,
        image_shape=(1, 16, 16),
        betas=betas,
        alphas=alphas,
        alpha_bars=alpha_bars,
        device="cpu",
    )
    assert samples.shape == (2, 1, 16, 16)
    samples = rd.ddim_sample(
        model,
        num_samples=2,
        image_shape=[1, 16, 16],
        alpha_bars=alpha_bars,
        device=torch.device("cpu"),
        sample_steps=3,
    )
    assert samples.shape == (2, 1, 16, 16)


@pytest.mark.parametrize("which", SAMPLERS)
def test_x_T_is_where_sampling_starts(rd, draw, exact, which):
    package_only(rd)
    torch.manual_seed(9)
    start = torch.randn(3, *TINY_SHAPE)
    state = torch.get_rng_state()
    original = start.clone()
    from_start = draw(which, exact, x_T=start)
    assert torch.equal(start, original), "x_T was written to"
    assert torch.equal(from_start, seeded(9, draw, which, exact))
    torch.set_rng_state(state)
    assert torch.equal(draw(which, exact, x_T=start.numpy()), from_start)


@pytest.mark.parametrize("which", SAMPLERS)
def test_a_generator_is_drawn_from_instead_of_the_global_one(rd, draw, exact, which):
    package_only(rd)
    before = torch.get_rng_state()
    with_generator = draw(which, exact, generator=torch.Generator().manual_seed(21))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(with_generator, seeded(21, draw, which, exact))


def test_numpy_schedules_are_taken(rd, oracle, schedule, exact):
    package_only(rd)
    betas, alphas, alpha_bars = (c.numpy() for c in schedule)
    ours = seeded(3, rd.ddpm_sample, exact, 2, (1, 4, 4), betas, alphas, alpha_bars, "cpu", progress=False)
    assert torch.equal(ours, seeded(3, rd.ddpm_sample, exact, 2, (1, 4, 4), *schedule, "cpu", progress=False))
    assert isinstance(alpha_bars, np.ndarray)
