"""The methods on Gaussian priors, where each is an affine map whose mean and variance are known without sampling."""

import math

import pytest
import torch

import rust_diffusion as rd
from rust_diffusion import operators as ops
from rust_diffusion.sampling import noise

S, SIGMA, Y = 0.25, 0.05, 0.5
T = 400


def schedule():
    place = torch.arange(T + 1, dtype=torch.float64) / T
    f = torch.cos((place + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - f[1:] / f[:-1]).clamp(1e-5, 0.999), 0)


BARS = schedule()


class Gaussian:
    """Says the mean of x0 given x_t, for x0 ~ N(0, S)."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x, t):
        self.calls += 1
        bar = BARS[t].view(-1, 1, 1, 1)
        return (x * (bar.sqrt() * S / (bar * S + 1 - bar))).float()


def r2(t):
    bar = float(BARS[t])
    return S * (1 - bar) / (bar * S + 1 - bar)


#: The same as variances of the one Fourier mode that an image of one pixel has.
MODES = torch.tensor([r2(t) for t in range(T)], dtype=torch.float64).view(T, 1, 1)


def law(monkeypatch, sampler, a, steps, **options):
    """Mean and standard deviation of what comes out: from its answer to each of the numbers that go in."""
    draws = 3 * steps + 2
    drawn = []

    def probes(shape):
        z = torch.zeros(shape)
        z[1 + len(drawn)] = 1.0
        drawn.append(shape)
        return z

    monkeypatch.setattr(noise, "source", lambda *_: probes)
    one = (1, 1)
    operator = a * ops.Identity(one) if a else ops.FunctionOperator(lambda x: 0.0 * x, img_shape=one)
    y = torch.full((1 + draws, 1, 1, 1), Y)
    if options.get("style") == "course":
        options["x_T"] = y
    model = Gaussian()
    out = sampler(
        model,
        y,
        operator,
        BARS,
        "cpu",
        steps,
        sigma_y=SIGMA,
        clip=False,
        objective="x0",
        progress=False,
        **options,
    )
    assert model.calls <= steps and len(drawn) <= draws
    out = out.double().flatten()
    return out[0].item(), (out[1:] - out[0]).norm().item()


ROWS = {
    "exact score": (rd.mmps_sample, {}, [(0.4950, 0.0394), (0.9615, 0.0855), (2.500, 0.3373), (0, 0.4824)]),
    "exact score, eta 0": (
        rd.mmps_sample,
        {"eta": 0.0},
        [(0.4950, 0.0439), (0.9615, 0.0920), (2.500, 0.3467), (0, 0.4923)],
    ),
    "pigdm with the true variance": (
        rd.pigdm_sample,
        {"r2": r2},
        [(0.4950, 0.0394), (0.9615, 0.0855), (2.500, 0.3373), (0, 0.4824)],
    ),
    "pigdm with the modes' true variances": (
        rd.pigdm_sample,
        {"r2": MODES},
        [(0.4950, 0.0394), (0.9615, 0.0855), (2.500, 0.3373), (0, 0.4824)],
    ),
    "pigdm": (rd.pigdm_sample, {}, [(0.4897, 0.0409), (0.9280, 0.0908), (2.164, 0.3463), (0, 0.4824)]),
    "dps": (
        rd.dps_sample,
        {"guide_below": math.inf},
        [(0.5000, 0.0210), (1.000, 0.0540), (3.175, 0.3114), (0, 0.4824)],
    ),
    "ddnm+": (rd.ddnm_sample, {}, [(0.4994, 0.0009), (0.9948, 0.0001), (4.625, 0.0), (0, 0.4263)]),
    "diffpir": (rd.diffpir_sample, {}, [(0.4954, 0.0427), (0.9668, 0.0877), (3.193, 0.3127), (0, 0.4853)]),
    "daps": (rd.daps_sample, {"r2": r2}, [(0.4950, 0.0498), (0.9615, 0.0981), (2.500, 0.3536), (0, 0.5000)]),
    "daps, jacobian": (
        rd.daps_sample,
        {"r2": "jacobian"},
        [(0.4950, 0.0498), (0.9615, 0.0981), (2.500, 0.3536), (0, 0.5000)],
    ),
    "course's diffpir": (
        rd.diffpir_sample,
        {"style": "course"},
        [(0.4993, 0.0), (0.9731, 0.0), (1.725, 0.0), (0.2463, 0.0)],
    ),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_method_follows_its_law_on_a_gaussian(monkeypatch, row):
    sampler, options, wanted = ROWS[row]
    for a, (mean, std) in zip((1.0, 0.5, 0.1, 0.0), wanted, strict=True):
        got = law(monkeypatch, sampler, a, 100, **options)
        # the table has four digits
        assert got[0] == pytest.approx(mean, abs=1e-4 if mean < 1 else 6e-4), (a, got)
        assert got[1] == pytest.approx(std, abs=1e-4), (a, got)


@pytest.mark.parametrize("steps", [40, 100, 400])
@pytest.mark.parametrize(
    "variance", [r2, MODES, "schedule", "jacobian"], ids=["true", "modes", "schedule", "jacobian"]
)
def test_daps_is_exact_for_any_number_of_steps(monkeypatch, steps, variance):
    if (variance is MODES or str(variance) == "jacobian") and steps == 400:
        pytest.skip("the same at 40 and at 100; each draw takes a while")
    for a in (1.0, 0.5, 0.1, 0.0):
        precision = a * a / SIGMA**2 + 1 / S
        got = law(monkeypatch, rd.daps_sample, a, steps, r2=variance)
        assert got[0] == pytest.approx(a * Y / SIGMA**2 / precision, abs=1e-4 if a != 0.1 else 3e-4)
        assert got[1] == pytest.approx(precision**-0.5, abs=1e-4)


def test_ddnm_without_noise_takes_the_measurement_as_it_is():
    for a, mean in ((1.0, 0.5), (0.5, 1.0), (0.1, 5.0)):
        operator = ops.MatrixOperator(torch.tensor([[a]], dtype=torch.float64))
        y = torch.full((3, 1, 1, 1), Y)
        out = rd.ddnm_sample(
            Gaussian(), y, operator, BARS, "cpu", 20, sigma_y=0.0, clip=False, objective="x0", progress=False
        )
        assert torch.allclose(out, torch.full_like(out, mean), atol=1e-5)


class Waves:
    """The mean of x0 given x_t for a stationary Gaussian prior with a smooth spectrum."""

    def __init__(self, size=16):
        near = torch.fft.fftfreq(size, dtype=torch.float64)
        distance = near[:, None] ** 2 + near[None, :] ** 2
        self.power = 0.3 / (1 + 80 * distance)

    def __call__(self, x, t):
        bar = BARS[t].view(-1, 1, 1, 1)
        gain = bar.sqrt() * self.power / (bar * self.power + 1 - bar)
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * gain).real.float()


@pytest.mark.parametrize("sampler", [rd.daps_sample, rd.mmps_sample], ids=["daps", "mmps"])
def test_covariances_of_the_network_are_exact_for_stationary_priors(sampler):
    prior, n, size, sigma = Waves(), 400, 16, 0.1
    operator = ops.Blurring((size, size), kernel_size=5, kernel_variance=1.5, boundary="circular")
    truth = torch.randn(1, 1, size, size, dtype=torch.float64)
    y = operator(truth * 0.5) + sigma * torch.randn(1, 1, size, size, dtype=torch.float64)
    options = {"r2": "jacobian"} if sampler is rd.daps_sample else {"cg_steps": 60}
    out = sampler(
        prior, y.expand(n, -1, -1, -1), operator, BARS, "cpu", 25 if sampler is rd.daps_sample else 100,
        sigma_y=sigma, clip=False, objective="x0", progress=False, seed=0, **options,
    )  # fmt: skip
    spot = torch.zeros(1, 1, size, size, dtype=torch.float64)
    spot[..., 0, 0] = 1
    transfer = torch.fft.fft2(operator(spot))
    gain = prior.power * transfer.conj() / (prior.power * transfer.abs() ** 2 + sigma**2)
    mean = torch.fft.ifft2(torch.fft.fft2(y) * gain).real
    spread = prior.power * (1 - (gain * transfer).real)
    modes = torch.fft.fft2(out.double() - mean, norm="ortho")
    got = (modes.abs() ** 2).mean(0)[0]
    ratio = got / spread
    # the exact score's own error of discretisation at 100 steps is a few percent
    assert abs(ratio.mean().item() - 1) < (0.02 if sampler is rd.daps_sample else 0.2)
    assert ((out.double().mean(0) - mean[0]) / (spread.mean() / n).sqrt()).pow(2).mean() < 1.3


def test_pigdm_with_modes_has_the_posteriors_mean_where_noise_is_small(monkeypatch):
    """Without noise of its own it draws the mean of its draws: it is an affine map."""
    prior, size, sigma = Waves(8), (8, 8), 0.005
    bars, power = BARS.view(-1, 1, 1), prior.power[:, :5]
    operator = ops.Inpainting(size, keep=0.5, seed=3)
    y = operator(0.5 * torch.randn(1, 1, *size, dtype=torch.float64))
    monkeypatch.setattr(noise, "source", lambda *_: torch.zeros)
    out = rd.pigdm_sample(
        prior, y, operator, BARS, "cpu", 100, sigma_y=sigma, clip=False, objective="x0", progress=False,
        r2=power * (1 - bars) / (bars * power + 1 - bars),
    )  # fmt: skip
    eye = torch.eye(64, dtype=torch.float64).view(64, 1, *size)
    covariance = torch.fft.ifft2(torch.fft.fft2(eye) * prior.power).real
    seen = operator(covariance).view(64, 64)
    system = operator(seen.T.reshape(64, 1, *size)).view(64, 64) + sigma**2 * torch.eye(
        64, dtype=torch.float64
    )
    mean = seen @ torch.linalg.solve(system, y.view(64))
    assert (out.double().view(64) - mean).abs().max() <= 5e-3


class TwoModes:
    """The mean of x0 given x_t for two modes, apart along the axis that the operator hides."""

    means = torch.tensor([[0.0, -0.6], [0.0, 0.6]], dtype=torch.float64)
    weights, spread = torch.tensor([0.3, 0.7], dtype=torch.float64), 0.1

    def __call__(self, x, t):
        bar = BARS[t][0]
        x = x.double().flatten(1)
        total = bar * self.spread**2 + 1 - bar
        apart = x[:, None] - bar.sqrt() * self.means
        logits = self.weights.log() - (apart**2).sum(2) / (2 * total)
        share = logits.softmax(1)
        gain = bar.sqrt() * self.spread**2 / total
        each = self.means + gain * apart
        return (share[..., None] * each).sum(1).view(-1, 1, 1, 2).float()

    def images(self, count):
        which = (torch.rand(count) < self.weights[1]).long()
        return (self.means[which] + self.spread * torch.randn(count, 2)).float().view(-1, 1, 1, 2)


@pytest.mark.parametrize("r2", ["schedule", "jacobian", "measured"])
def test_weights_of_modes_that_the_operator_cannot_tell_apart_stay(r2):
    """But for a fifth of the rarer one, as the mathematics' page says."""
    operator, model, n = ops.MatrixOperator(torch.tensor([[1.0, 0.0]]), img_shape=(1, 2)), TwoModes(), 2000
    options = dict(clip=False, objective="x0", progress=False)
    if r2 == "measured":
        r2 = rd.denoising_error(model, model.images(400), BARS, "cpu", **options)
    y = torch.full((n, 1, 1, 1), 0.05)
    out = rd.daps_sample(model, y, operator, BARS, "cpu", sigma_y=0.05, r2=r2, seed=10000, **options).flatten(
        1
    )
    right = (out[:, 1] > 0).double().mean().item()
    assert right == pytest.approx(0.7, abs=0.06)
    precision = 1 / 0.05**2 + 1 / 0.1**2
    assert out[:, 0].mean().item() == pytest.approx(0.05 / 0.05**2 / precision, abs=0.01)
    assert out[:, 0].std().item() == pytest.approx(precision**-0.5, abs=0.005)
