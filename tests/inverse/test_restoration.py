"""Methods of restoration as people call them: the course's loops, seeds, batches, callbacks, summaries, errors."""

import itertools
import math

import pytest
import torch

import rust_diffusion as rd
from rust_diffusion import operators as ops
from tools import TINY, max_error, slices

SIZE = (16, 16)
METHODS = {
    "daps": (rd.daps_sample, {}),
    "daps, jacobian": (rd.daps_sample, {"r2": "jacobian"}),
    "dps": (rd.dps_sample, {"scale": 0.5}),
    "diffpir": (rd.diffpir_sample, {}),
    "ddnm": (rd.ddnm_sample, {}),
    "pigdm": (rd.pigdm_sample, {}),
    "mmps": (rd.mmps_sample, {"cg_steps": 2}),
}


@pytest.fixture(scope="module")
def bars():
    return torch.cumprod(1 - rd.cosine_beta_schedule(40), 0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return rd.DiffusionUNet(**TINY).eval()


def shrinks(x, t):
    """A mean of x0 given x_t that treats every number for itself, so that batches cannot be told apart."""
    return 0.5 * torch.tanh(x)


@pytest.fixture(scope="module")
def operator():
    return ops.Blurring(SIZE, kernel_size=3, boundary="circular")


@pytest.fixture(scope="module")
def y(operator):
    return operator(torch.rand(3, 1, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1)


def course_loop(model, y, operator, bars, grid, sigma, scale, x):
    for k, s in itertools.pairwise(grid):
        x = x.detach().requires_grad_()
        eps = model(x, torch.full((len(x),), k))
        x0 = ((x - (1 - bars[k]).sqrt() * eps) / bars[k].sqrt()).clamp(-1, 1)
        loss = ((operator(x0) - y) ** 2 / (2 * sigma**2)).mean()
        (gradient,) = torch.autograd.grad(loss, x)
        x = (bars[s].sqrt() * x0 + (1 - bars[s]).sqrt() * eps - scale * gradient).clamp(-1, 1).detach()
    with torch.no_grad():
        eps = model(x, torch.full((len(x),), grid[-1]))
        k = grid[-1]
        return ((x - (1 - bars[k]).sqrt() * eps) / bars[k].sqrt()).clamp(-1, 1)


def test_dps_is_the_chapters_loop(model, y, operator, bars):
    start = torch.randn(3, 1, *SIZE)
    grid = torch.linspace(39, 0, 8).long().tolist()
    want = course_loop(model, y, operator, bars, grid, 0.05, 0.15, start)
    got = rd.dps_sample(
        model, y, operator, bars, "cpu", 8, sigma_y=0.05, style="course", x_T=start, progress=False
    )
    assert torch.allclose(got, want, atol=2e-4)


def test_diffpir_is_the_chapters_loop(model, y, operator, bars):
    grid = torch.linspace(39, 0, 8).long().tolist()
    x = y
    with torch.no_grad():
        for k, s in itertools.pairwise(grid):
            eps = model(x, torch.full((3,), k))
            x0 = ((x - (1 - bars[k]).sqrt() * eps) / bars[k].sqrt()).clamp(-1, 1)
            prior = bars[s].sqrt() * x0 + (1 - bars[s]).sqrt() * eps
            x = (prior - 0.6 * operator.T(operator(prior) - y)).clamp(-1, 1)
    got = rd.diffpir_sample(model, y, operator, bars, "cpu", 8, sigma_y=0.05, style="course", progress=False)
    assert torch.allclose(got, x, atol=2e-4)


@pytest.mark.parametrize("name", METHODS)
def test_an_image_does_not_depend_on_its_batch(name, y, operator, bars):
    sampler, options = METHODS[name]

    def run(y, sigma, seed):
        return sampler(
            shrinks,
            y,
            operator,
            bars,
            "cpu",
            4,
            sigma_y=sigma,
            seed=seed,
            objective="x0",
            progress=False,
            **options,
        )

    whole = run(y, [0.05, 0.1, 0.2], 5)
    assert whole.shape == (3, 1, *SIZE) and whole.abs().max() <= 1
    assert torch.allclose(run(y[1:2], 0.1, 6)[0], whole[1], atol=1e-6)
    assert torch.equal(whole, run(y, [0.05, 0.1, 0.2], 5))


@pytest.mark.parametrize("name", METHODS)
def test_gradients_go_to_the_image_only_and_under_no_grad(name, model, y, operator, bars):
    sampler, options = METHODS[name]
    with torch.no_grad():
        out = sampler(model, y, operator, bars, "cpu", 3, sigma_y=0.1, seed=0, progress=False, **options)
    assert torch.isfinite(out).all() and not out.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_each_step_tells_its_residual(model, y, operator, bars):
    steps = []
    rd.daps_sample(model, y, operator, bars, "cpu", 4, sigma_y=0.1, progress=False, callback=steps.append)
    assert [step.index for step in steps] == [0, 1, 2, 3] and steps[0].timestep == 39
    want = ((operator(steps[2].x0_hat) - y) ** 2).flatten(1).mean(1) / 0.1**2
    assert torch.allclose(steps[2].residual, want.double(), rtol=1e-4)


def test_the_network_is_asked_once_a_step(y, operator, bars):
    calls = []

    def model(x, t):
        calls.append(int(t[0]))
        return x * 0.5

    for sampler, options in METHODS.values():
        calls.clear()
        sampler(model, y, operator, bars, "cpu", 5, sigma_y=0.1, progress=False, **options)
        assert calls == torch.linspace(39, 0, 5).long().tolist()
    calls.clear()
    rd.ddnm_sample(
        model, y, operator, bars, "cpu", 4, sigma_y=0.1, travel_length=2, travel_repeat=2, progress=False
    )
    assert calls == [39, 26, 39, 26, 13, 0, 13, 0]


def test_a_residual_counts_only_what_was_measured(model, bars):
    operator = ops.Inpainting(SIZE, keep=0.25)
    steps = []
    noisy = operator(torch.zeros(1, 1, *SIZE)) + torch.randn(
        1, 1, *SIZE
    )  # noise where nothing was measured, too
    rd.daps_sample(model, noisy, operator, bars, "cpu", 2, sigma_y=0.1, progress=False, callback=steps.append)
    apart = (steps[0].x0_hat - noisy) * operator.mask
    assert steps[0].residual.item() == pytest.approx((apart**2).sum().item() / (64 * 0.01), rel=1e-4)


def test_a_stack_counts_only_what_its_parts_measured(bars):
    half = ops.Inpainting(SIZE, keep=0.5, seed=1)
    truth = torch.rand(2, 1, *SIZE) - 0.5
    for K in (ops.Stack([half, ops.Identity(SIZE)]), ops.Stack([half, ops.DownScaling(SIZE, 2)])):
        e = 0.1 * torch.randn(K(truth).shape) * (K(torch.ones_like(truth)) != 0)
        told = []
        rd.daps_sample(
            lambda x, t: truth, K(truth) + e, K, bars, "cpu", 2, sigma_y=0.1, r2=1e-9, objective="x0",
            seed=0, progress=False, callback=told.append,
        )  # fmt: skip
        assert told[-1].residual.mean().item() == pytest.approx(1.0, abs=0.15)


def test_the_chapters_loss_is_of_one_draw_in_a_posterior_too(model, y, operator, bars):
    options = dict(sigma_y=0.1, sample_steps=3, style="course")
    found = rd.posterior(
        "dps", model, y[:1], operator, bars, "cpu", num_samples=3, seed=4, keep=True, **options
    )
    for k in range(3):
        alone = rd.dps_sample(model, y[:1], operator, bars, "cpu", seed=4 + k, progress=False, **options)
        assert torch.allclose(found.samples[0, k], alone[0], atol=1e-6)


class Mirror(ops.Operator):
    """Of one's own, and of float32 alone."""

    def __init__(self):
        super().__init__()
        self.nx, self.ny = 4, 4
        self.shade = torch.linspace(0.2, 1, 4)

    def _matvec(self, x):
        return torch.mm(x.view(4, 4).flip(1), torch.diag(self.shade)).view(1, 1, 4, 4)

    def _adjoint(self, y):
        return torch.mm(y.view(4, 4), torch.diag(self.shade)).flip(1).view(1, 1, 4, 4)


def test_ddnm_takes_operators_of_ones_own_that_know_float32_only(bars):
    truth = torch.rand(2, 1, 4, 4) - 0.5
    K = Mirror()
    out = rd.ddnm_sample(
        shrinks, K(truth), K, bars, "cpu", 5, sigma_y=0.05, objective="x0", seed=0, progress=False
    )
    assert out.shape == truth.shape and torch.isfinite(out).all()


def degrees(*angles):
    return ops.CTProjector(SIZE, angles=torch.deg2rad(torch.tensor(angles, dtype=torch.float64)), det_size=23)


PROJECTORS = {
    "many angles": degrees(*range(0, 180, 5)),
    "few angles": degrees(*range(0, 180, 30)),
    "a third is missing": degrees(*range(0, 120, 5)),
    "scaled": 2 * degrees(*range(0, 180, 5)),
    "in two parts": ops.Stack([degrees(*range(0, 90, 5)), degrees(*range(90, 180, 5))]),
}


@pytest.mark.parametrize("geometry", PROJECTORS)
@pytest.mark.parametrize("sampler", [rd.pigdm_sample, rd.diffpir_sample])
def test_systems_of_a_projector_are_solved_as_well_as_those_of_any_operator(sampler, geometry, bars):
    projector = PROJECTORS[geometry]
    y = projector(torch.rand(2, 1, *SIZE, generator=torch.Generator().manual_seed(1)) - 0.5)

    def run(K):
        measured, sigma = y.view(2, 1, K.mx, K.my), [0.05, 0.2]
        options = dict(sigma_y=sigma, objective="x0", seed=3, progress=False)
        return sampler(shrinks, measured, K, bars, "cpu", 4, **options)

    pixels = torch.eye(math.prod(SIZE)).view(-1, 1, *SIZE)
    matrix = projector(pixels).flatten(1).T.contiguous()
    products = ops.FunctionOperator(projector, projector.T, SIZE)  # all that is known of it
    exact = run(ops.MatrixOperator(matrix, SIZE, (projector.mx, projector.my)))
    known, unknown = ((run(K) - exact).abs().max() for K in (projector, products))
    assert known < max(1e-3, 1.5 * unknown)


def test_summaries_do_not_depend_on_the_batch_size(y, operator, bars):
    options = dict(sigma_y=[0.1, 0.2, 0.3], sample_steps=3, num_samples=5, seed=3, objective="x0")
    whole = rd.posterior("daps", shrinks, y, operator, bars, "cpu", keep=True, batch_size=15, **options)
    parts = rd.posterior(rd.daps_sample, shrinks, y, operator, bars, "cpu", batch_size=4, **options)
    assert whole.samples.shape == (3, 5, 1, *SIZE) and parts.samples is None
    assert torch.allclose(whole.mean, whole.samples.mean(1), atol=1e-6)
    assert torch.allclose(whole.std, whole.samples.std(1), atol=1e-6)
    ends = (whole.samples.amin(1), whole.samples.amax(1))  # of five draws there is no less and no more
    assert all(torch.equal(*pair) for pair in zip(whole.quantiles, ends, strict=True))
    assert whole.residual.shape == (3, 5)
    assert torch.allclose(parts.mean, whole.mean, atol=1e-6) and torch.allclose(
        parts.std, whole.std, atol=1e-6
    )
    figure = whole.show(truth=torch.zeros(3, 1, *SIZE))
    assert [axis.get_title() for axis in figure.axes[:4]] == ["truth", "mean", "std", "error"]


@pytest.mark.parametrize(("count", "share"), [(16, 15 / 17), (39, 0.9)])
def test_the_interval_holds_as_many_pixels_as_it_says(y, operator, bars, count, share):
    generator = torch.Generator().manual_seed(0)

    def draw(model, y, *_, **__):
        return torch.randn(y.shape, generator=generator)

    y = torch.zeros(50, 1, *SIZE)
    found = rd.posterior(draw, shrinks, y, operator, bars, "cpu", num_samples=count, sigma_y=0.1)
    low, high = found.quantiles
    truth = torch.randn(y.shape, generator=generator)
    held = ((low <= truth) & (truth <= high)).double().mean().item()
    assert held == pytest.approx(share, abs=0.01)


class Never:
    def __call__(self, x, t):
        raise AssertionError("the network was asked")


class NoAdjoint(ops.Operator):
    def __init__(self):
        super().__init__()
        self.img_shape = SIZE

    def _matvec(self, x):
        return x

    def _adjoint(self, y):
        return 2 * y


WRONG = {
    "y of another shape": (dict(y=torch.zeros(1, 1, 8, 8)), ValueError, "y must have the shape"),
    "y of nan": (dict(y=torch.full((1, 1, *SIZE), torch.nan)), ValueError, "y must be finite"),
    "sigma of zero": (dict(sigma_y=0.0), ValueError, "sigma_y must be finite and above 0"),
    "negative sigma": (dict(sigma_y=-0.1), ValueError, "sigma_y must be finite and above 0"),
    "sigma by name": (
        dict(sigma_y="low"),
        TypeError,
        "sigma_y must be one number or one per image, got 'low'",
    ),
    "sigma that is no number": (dict(sigma_y=True), TypeError, "sigma_y must be one number or one per image"),
    "sigmas of another number": (dict(sigma_y=[0.1, 0.2]), ValueError, "one per image"),
    "operator that is none": (dict(operator=torch.eye(3)), TypeError, "operator must be an Operator"),
    "adjoint that is none": (dict(operator=NoAdjoint()), ValueError, "its adjoint is none"),
    "r2 by name": (dict(r2="constant"), ValueError, "r2 must be one of 'schedule', 'jacobian'"),
    "r2 of zero": (dict(r2=0.0), ValueError, "r2 must be finite and above 0"),
    "steps": (dict(sample_steps=41), ValueError, "sample_steps must be between 1 and 40"),
    "start of another shape": (dict(x_T=torch.zeros(1, 1, 8, 8)), ValueError, "x_T must have shape"),
    "keyword": (dict(scales=3), TypeError, "unexpected keyword argument 'scales'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_before_the_network_is_asked(case, operator, bars):
    changes, error, text = WRONG[case]
    right = dict(y=torch.zeros(1, 1, *SIZE), operator=operator, sigma_y=0.1, sample_steps=4)
    arguments = {**right, **changes}
    with pytest.raises(error, match=text):
        rd.daps_sample(Never(), alpha_bars=bars, device="cpu", progress=False, **arguments)


EVERYWHERE = (
    "y of another shape",
    "y of nan",
    "negative sigma",
    "sigma by name",
    "adjoint that is none",
    "steps",
)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_tells_what_does_not_fit(name, operator, bars):
    sampler, options = METHODS[name]
    for case in EVERYWHERE:
        changes, error, text = WRONG[case]
        arguments = {"y": torch.zeros(1, 1, *SIZE), "operator": operator, "sigma_y": 0.1, "sample_steps": 4}
        with pytest.raises(error, match=text):
            sampler(
                Never(), alpha_bars=bars, device="cpu", progress=False, **{**arguments, **changes, **options}
            )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_where_the_network_gives_nan(name, y, operator, bars):
    sampler, options = METHODS[name]
    asked = []

    def broken(x, t):
        asked.append(int(t[0]))
        return x * (torch.nan if len(asked) > 2 else 0.1)

    with pytest.raises(ValueError, match=r"NaN or infinity.*answer is not finite"):
        sampler(broken, y, operator, bars, "cpu", 8, sigma_y=0.1, progress=False, **options)
    assert len(asked) == 3


@pytest.mark.parametrize("name", METHODS)
def test_every_method_tells_that_the_model_is_for_other_images(name, operator, bars):
    sampler, options = METHODS[name]

    def run(model, size=(1, *SIZE), operator=operator):
        sampler(
            model, torch.zeros(1, *size), operator, bars, "cpu", 4, sigma_y=0.1, progress=False, **options
        )

    network = rd.DiffusionUNet(**TINY)
    with pytest.raises(ValueError, match=r"\(2, 16, 16\), the model takes 1 channels"):
        run(network, (2, *SIZE))
    with pytest.raises(ValueError, match=r"\(1, 15, 15\), the model needs .* multiples of 2"):
        run(network, (1, 15, 15), ops.Identity((15, 15)))
    network.image_size = (32, 32)
    with pytest.raises(ValueError, match=r"the model was trained on \(32, 32\)"):
        run(network)
    network.image_size = None
    network.card.value_range = (0.0, 1.0)
    with pytest.raises(ValueError, match=r"trained for images in \[0.0, 1.0\]"):
        run(network)


@pytest.mark.parametrize("name", ["daps, jacobian", "dps", "pigdm", "mmps"])
def test_inference_mode_is_refused_where_the_network_is_differentiated(name, y, operator, bars):
    sampler, options = METHODS[name]
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
        sampler(Never(), y, operator, bars, "cpu", 4, sigma_y=0.1, **options)


def test_total_variation_tells_what_does_not_fit(operator):
    y = torch.zeros(1, 1, *SIZE)
    for K, measured, weight, text in (
        (operator, torch.zeros(1, 1, 8, 8), 0.1, "y must have the shape"),
        (operator, torch.full_like(y, torch.nan), 0.1, "y must be finite"),
        (operator, y, 0.0, "lambda_ must be above 0"),
        (operator, y, 1e300, "and at most 1e12"),
        (NoAdjoint(), y, 0.1, "its adjoint is none"),
    ):
        with pytest.raises(ValueError, match=text):
            rd.tv_reconstruct(measured, K, weight)


def test_the_strongest_total_variation_leaves_an_even_picture(operator):
    flat = rd.tv_reconstruct(torch.rand(1, 1, *SIZE), operator, 1e12)
    assert torch.isfinite(flat).all() and float(flat.std()) < 0.05


def test_a_posterior_needs_sigma_y_and_a_method_that_is_known(model, y, operator, bars):
    with pytest.raises(TypeError, match="needs sigma_y"):
        rd.posterior("daps", model, y, operator, bars, "cpu")
    with pytest.raises(ValueError, match="sampler must be one of 'daps'"):
        rd.posterior("magic", model, y, operator, bars, "cpu", sigma_y=0.1)
    with pytest.raises(TypeError, match=r"quantiles must be a sequence of numbers, got 0\.5"):
        rd.posterior("daps", model, y, operator, bars, "cpu", sigma_y=0.1, quantiles=0.5)
    with pytest.raises(TypeError, match="leave x_T out"):
        rd.posterior("daps", model, y, operator, bars, "cpu", sigma_y=0.1, x_T=torch.zeros(1, 1, *SIZE))


def test_noise_too_small_for_float32_is_told_or_taken_for_none(bars):
    blur = ops.Blurring(SIZE, kernel_size=5, boundary="zero")
    said = blur(slices(1, SIZE[0]))
    options = dict(sigma_y=1e-25, clip=False, progress=False)
    drawn = rd.daps_sample(shrinks, said, blur, bars, "cpu", 4, seed=0, objective="x0", **options)
    assert max_error(blur(drawn), said) < 1e-3
    modes = torch.full((len(bars), SIZE[0], SIZE[1] // 2 + 1), 0.04)
    with pytest.raises(ValueError, match="sigma_y, sigma or gamma is too far from 1"):
        rd.daps_sample(shrinks, said, blur, bars, "cpu", 4, r2=modes, **options)


def test_a_model_that_switches_gradients_off_is_told_so(model, y, operator, bars):
    silent = torch.no_grad()(lambda x, t: model(x, t))
    with pytest.raises(TypeError, match="must not switch gradients off"):
        rd.dps_sample(silent, y, operator, bars, "cpu", 4, sigma_y=0.1, progress=False)
