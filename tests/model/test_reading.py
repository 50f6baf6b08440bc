"""`model.eps`, `model.x0` and `as_eps`: noise and clean images, whatever a model was trained for."""

import pytest
import torch

from tools import TINY, TINY_SHAPE, GaussianDenoiser

OBJECTIVES = ("eps", "x0", "v", "flow")
T = 50


@pytest.fixture
def alpha_bars(oracle):
    return torch.cumprod(1 - oracle.cosine_beta_schedule(T), 0)


def column(values):
    return values.reshape(-1, 1, 1, 1)


def told(objective, x, t, alpha_bars, eps, x0):
    """What a network of this objective answers where the truth is `eps` and `x0`."""
    bar = column(alpha_bars[t]) if not t.is_floating_point() else None
    return {
        "eps": lambda: eps,
        "x0": lambda: x0,
        "v": lambda: bar.sqrt() * eps - (1 - bar).sqrt() * x0,
        "flow": lambda: eps - x0,
    }[objective]()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_perfect_model_is_read_whatever_its_objective(rd, alpha_bars, objective):
    t = torch.tensor([0, 20, T - 2])
    x0, eps = torch.randn(2, 3, 1, 8, 8)
    bar = column(alpha_bars[t])
    x = bar.sqrt() * x0 + (1 - bar).sqrt() * eps
    asked = []

    def model(shown, times):
        asked.append((shown, times))
        return told(objective, shown, t, alpha_bars, eps, x0)

    denoiser = rd.as_eps(model, alpha_bars, objective=objective)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(denoiser(x, t), eps, **tolerance)
    torch.testing.assert_close(denoiser.eps(x, t), eps, **tolerance)
    # at t = T - 2 what is left of the image is divided by a small number
    torch.testing.assert_close(denoiser.x0(x, t), x0, rtol=1e-3, atol=1e-3)
    shown, times = asked[0]
    if objective == "flow":
        s = (1 - bar).sqrt() / (bar.sqrt() + (1 - bar).sqrt())
        torch.testing.assert_close(shown, (1 - s) * x0 + s * eps, **tolerance)
        torch.testing.assert_close(times, 1000 * s.flatten())
    else:
        assert torch.equal(shown, x) and torch.equal(times, t)


def test_float_times_are_those_of_a_straight_path(rd):
    s = torch.tensor([1.0, 0.3, 0.0])
    x0, eps = torch.randn(2, 3, 1, 8, 8)
    x = (1 - column(s)) * x0 + column(s) * eps
    model = rd.as_eps(lambda shown, t: eps - x0, objective="flow")
    torch.testing.assert_close(model(x, 1000 * s), eps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.x0(x, 1000 * s), x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["course", "diffusers"])
def test_networks_have_eps_and_x0_with_gradients(rd, oracle, alpha_bars, kind, objective):
    torch.manual_seed(0)
    if kind == "course":
        model = rd.DiffusionUNet(**TINY).eval()
    else:
        model = rd.UNet2DModel(
            sample_size=16,
            in_channels=1,
            out_channels=1,
            block_out_channels=(32, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
        ).eval()
    model.objective, model.betas = objective, oracle.cosine_beta_schedule(T)
    x, t = torch.randn(2, *TINY_SHAPE, requires_grad=True), torch.tensor([3, 30])
    bar = column(alpha_bars[t])
    a, b = bar.sqrt(), (1 - bar).sqrt()
    whole = a + b
    answer = model(x / whole, 1000 * (b / whole).flatten()) if objective == "flow" else model(x, t)
    eps, x0 = {
        "eps": lambda: (answer, (x - b * answer) / a),
        "x0": lambda: ((x - a * answer) / b, answer),
        "v": lambda: (b * x + a * answer, a * x - b * answer),
        "flow": lambda: ((x + a * answer) / whole, (x - b * answer) / whole),
    }[objective]()
    for got, want in ((model.eps(x, t), eps), (model.x0(x, t), x0), (rd.EMA(model).eps(x, t), eps)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(x)
    (want,) = torch.autograd.grad((weights * x0).sum(), x)
    (got,) = torch.autograd.grad((weights * model.x0(x, t)).sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    model.x0(x, t).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("objective", "clip"), [("v", False), ("v", True), ("x0", True)])
def test_what_is_made_by_as_eps_can_be_sampled_from(rd, oracle, alpha_bars, objective, clip):
    """The same images as from the model itself, by a sampler that is told nothing of the objective."""
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY).eval()
    model.objective, model.betas = objective, oracle.cosine_beta_schedule(T)
    options = dict(seed=1, progress=False, sample_steps=5, clip=clip)
    want = rd.ddim_sample(model, 2, TINY_SHAPE, alpha_bars, "cpu", **options)
    got = rd.ddim_sample(rd.as_eps(rd.EMA(model)), 2, TINY_SHAPE, alpha_bars, "cpu", **options)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_a_model_for_eps_answers_itself_and_needs_no_schedule(rd, alpha_bars):
    exact = GaussianDenoiser(alpha_bars)
    x, t = torch.randn(2, *TINY_SHAPE), torch.tensor([0, 40])
    assert torch.equal(rd.as_eps(exact)(x, t), exact(x, t))
    with pytest.raises(ValueError, match="alpha_bars"):
        rd.as_eps(exact).x0(x, t)


def test_what_does_not_fit_is_named(rd, alpha_bars):
    model = rd.as_eps(lambda x, t: x, alpha_bars, objective="v")
    x = torch.randn(2, *TINY_SHAPE)
    with pytest.raises(ValueError, match=r"t must lie in 0\.\.49"):
        model(x, torch.tensor([0, T]))
    with pytest.raises(ValueError, match="one timestep per image"):
        model(x, torch.tensor([0, 1, 2]))
    with pytest.raises(TypeError, match="integers"):
        model(x, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="what model returned"):
        rd.as_eps(lambda x, t: x[:, :, :4], alpha_bars, objective="v")(x, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match="callable"):
        rd.as_eps(3)
    with pytest.raises(ValueError, match="objective"):
        rd.as_eps(lambda x, t: x, objective="score")


def test_an_answer_of_another_shape_is_refused_whatever_the_objective(rd, alpha_bars):
    for objective in OBJECTIVES[:3]:
        model = rd.as_eps(lambda x, t: x[:, :, :4], alpha_bars, objective=objective)
        with pytest.raises(ValueError, match=r"model .*2, 1, 4, 16"):
            model(torch.randn(2, *TINY_SHAPE), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "turn, error, words",
    [
        (lambda bars: 1 - bars, ValueError, "must not rise"),
        (lambda bars: bars.flip(0), ValueError, r"must not rise.*cumprod\(1 - betas"),
        (lambda bars: bars.long(), TypeError, "int64"),
        (lambda bars: bars + 1, ValueError, r"\(0, 1\]"),
        (lambda bars: -bars, ValueError, r"\(0, 1\]"),
        (lambda bars: bars * float("nan"), ValueError, "NaN"),
        (lambda bars: bars[None], ValueError, r"\(T,\)"),
    ],
)
def test_what_is_no_schedule_is_refused_before_any_call(rd, alpha_bars, turn, error, words):
    with pytest.raises(error, match=f"alpha_bars .*{words}"):
        rd.as_eps(lambda x, t: x, turn(alpha_bars), objective="x0")


def test_a_schedule_given_to_a_model_is_checked_when_it_is_given(rd):
    model = rd.DiffusionUNet(**TINY)
    with pytest.raises(ValueError, match="betas must lie between 0 and 1"):
        model.betas = torch.tensor([2.0, 3.0])
    assert model.betas is None
    model.betas = [0.1, 0.2]
    assert torch.equal(model.betas, torch.tensor([0.1, 0.2]))
    model.betas = None
    assert model.betas is None
