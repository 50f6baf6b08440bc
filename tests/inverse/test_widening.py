"""DAPS where the measurement shows that the network is further off than r2 says."""

import pytest
import torch
from test_laws import BARS, Gaussian, S, T, r2

import rust_diffusion as rd
from rust_diffusion import operators as ops

SHAPE, SIGMA, COUNT = (8, 8), 0.1, 48
EVEN = torch.tensor([r2(t) for t in range(T)], dtype=torch.float64)
VARIANCES = {"one number": EVEN, "modes": EVEN.view(T, 1, 1).expand(T, 8, 5)}
OPERATORS = {
    "blur": ops.Blurring(SHAPE, kernel_size=3),
    "inpainting": ops.Inpainting(SHAPE, keep=0.5),
    "means": ops.DownScaling(SHAPE, 2),
}


def restored(operator, variances, **options):
    """Draws for made-up images, and how far each is from its measurement."""
    g = torch.Generator().manual_seed(3)
    truth = S**0.5 * torch.randn(COUNT, 1, *SHAPE, generator=g)
    y = operator(truth)
    y = y + SIGMA * torch.randn(y.shape, generator=g)
    residuals = []
    out = rd.daps_sample(
        Gaussian(),
        y,
        operator,
        BARS,
        "cpu",
        20,
        sigma_y=SIGMA,
        r2=variances,
        clip=False,
        objective="x0",
        progress=False,
        seed=7,
        callback=lambda step: residuals.append(step.residual),
        **options,
    )
    return truth, y, out, residuals[-1]


@pytest.mark.parametrize("variances", VARIANCES.values(), ids=VARIANCES)
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_where_r2_is_right_draws_stay_what_they_are(operator, variances):
    *_, plain, _ = restored(operator, variances)
    truth, _, widened, residual = restored(operator, variances, widen=True)
    same = (plain == widened).flatten(1).all(1)
    assert 0.4 < same.double().mean() < 1.0, "in a step a few images in a hundred surprise by chance"
    assert residual.mean().item() == pytest.approx(1.0, abs=0.1)
    error, before = ((out - truth).square().mean().item() for out in (widened, plain))
    assert error == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("variances", VARIANCES.values(), ids=VARIANCES)
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_images_that_the_network_does_not_expect_explain_their_measurement_all_the_same(operator, variances):
    plain = restored(operator, variances / 9)[-1].mean().item()
    widened = restored(operator, variances / 9, widen=True)[-1].mean().item()
    assert plain > 1.5 and widened < 1 + (plain - 1) / 3, (plain, widened)


def test_each_image_is_widened_by_itself():
    operator, modes = OPERATORS["blur"], VARIANCES["modes"] / 9
    _, y, out, _ = restored(operator, modes, widen=True)
    options = dict(r2=modes, clip=False, objective="x0", progress=False)
    alone = rd.daps_sample(
        Gaussian(), y[5:6], operator, BARS, "cpu", 20, sigma_y=SIGMA, widen=True, seed=12, **options
    )
    assert torch.equal(alone, out[5:6])


def test_what_was_not_measured_widens_nothing():
    operator = OPERATORS["inpainting"]
    unseen = operator(torch.ones(1, 1, *SHAPE)) == 0
    _, y, out, _ = restored(operator, EVEN / 9, widen=True)
    options = dict(r2=EVEN / 9, clip=False, objective="x0", progress=False, widen=True, seed=7)
    beside = torch.where(unseen, 100.0, y)
    again = rd.daps_sample(Gaussian(), beside, operator, BARS, "cpu", 20, sigma_y=SIGMA, **options)
    assert torch.equal(out, again)


def test_the_networks_own_covariance_is_not_widened():
    with pytest.raises(
        ValueError, match='widen=True is for an r2 that is known beforehand, not for r2="jacobian"'
    ):
        restored(OPERATORS["blur"], "jacobian", widen=True)
    with pytest.raises(TypeError, match="widen must be True or False"):
        restored(OPERATORS["blur"], EVEN, widen=2)
