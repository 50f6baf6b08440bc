"""Hypothesis against the public functions: whatever goes in, a result or a built-in exception with words comes out.

A Rust panic would arrive as a BaseException and fail the test; a crash would end the process. `make fuzz` tries many
more cases than the few of a normal run (FUZZ_CASES, per test).
"""

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rust_diffusion as rd

CASES = settings(
    max_examples=int(os.environ.get("FUZZ_CASES", "25")),
    deadline=None,
    derandomize="FUZZ_CASES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
# An AttributeError is what an object that lies about its type deserves: it names what the object lacks.
REFUSALS = (
    AttributeError,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
)

# Sizes that fit into memory, and sizes that no memory holds; between them a machine only swaps.
INTEGERS = st.one_of(st.integers(-3, 40), st.sampled_from([2**31, 2**40, 2**62, 2**63, -(2**63), 10**30]))
FLOATS = st.floats(width=64)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]
DTYPES += [torch.bool, torch.complex64]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=5).map(tuple)


@st.composite
def tensors(draw) -> torch.Tensor:
    """Every dtype, any shape, and the forms of memory that go wrong first."""
    shape = draw(st.one_of(SHAPES, st.just((2, 1, 8, 8)), st.just((2,)), st.just((10,))))
    tensor = (torch.randn(shape) * draw(st.sampled_from([1, 5, 1e30]))).to(draw(st.sampled_from(DTYPES)))
    forms = [
        lambda x: x,
        lambda x: x.transpose(0, -1) if x.dim() else x,
        lambda x: x[..., ::2] if x.dim() else x,
        lambda x: x[:1].expand_as(x) if x.dim() and len(x) else x,
        lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,
        lambda x: x.requires_grad_() if x.is_floating_point() else x,
        lambda x: x.to("meta"),
        lambda x: x.to_sparse() if x.dim() else x,
        lambda x: torch.nn.Parameter(x, requires_grad=False),
        lambda x: x * float("nan") if x.is_floating_point() else x,
    ]
    return draw(st.sampled_from(forms))(tensor)


@st.composite
def arrays(draw) -> np.ndarray:
    dtype = draw(st.sampled_from(["f4", "f8", ">f4", "i8", "u1", "u2", "O", "U3", "M8[s]", "?"]))
    array = np.ones(draw(SHAPES)).astype("i8").astype(dtype)
    array.flags.writeable = draw(st.booleans())
    return array[::-1] if array.ndim and draw(st.booleans()) else array


class Liar:
    """Says that it is a tensor."""

    shape, dtype, device = (2, 1, 8, 8), torch.float32, torch.device("cpu")

    @property
    def __class__(self):
        return torch.Tensor

    def __len__(self):
        return -1


ODDITIES = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.binary(max_size=3), st.builds(Liar))
VALUES = st.one_of(INTEGERS, FLOATS, tensors(), arrays(), ODDITIES, st.lists(INTEGERS, max_size=3))


def survives(function, *arguments, **keywords):
    """Return the result, or None where the call was refused in words."""
    try:
        return function(*arguments, **keywords)
    except REFUSALS as error:
        assert str(error).strip(), f"{type(error).__name__} without a message"
        assert "panicked" not in str(error) and "Exception raised from" not in str(error), error


@pytest.fixture(scope="module")
def model():
    return rd.DiffusionUNet(base_ch=8, channel_mults=(1, 2), attn_levels=(1,), time_dim=8, num_heads=2).eval()


@pytest.fixture(scope="module")
def bars():
    return torch.cumprod(1 - rd.cosine_beta_schedule(10), 0)


@CASES
@given(st.one_of(INTEGERS, VALUES), st.one_of(FLOATS, VALUES), st.one_of(FLOATS, VALUES))
def test_schedules(steps, first, second):
    for betas in (
        survives(rd.cosine_beta_schedule, steps, first),
        survives(rd.linear_beta_schedule, steps, first, second),
    ):
        assert betas is None or (betas.shape == (steps,) and bool(((betas > 0) & (betas < 1)).all()))


@CASES
@given(VALUES, VALUES, VALUES, VALUES)
def test_closed_forms(x, t, noise, coefficients):
    survives(rd.q_sample, x, t, noise, coefficients)
    survives(rd.predict_x0_from_eps, x, noise, t, coefficients)
    survives(rd.extract, coefficients, t, x)
    survives(rd.extract, coefficients, t, (2, 1, 8, 8))
    survives(rd.denormalize_to_01, x)


@CASES
@given(VALUES, VALUES)
def test_closed_forms_with_one_argument_wrong(bars, wrong, t):
    x = torch.zeros(2, 1, 8, 8)
    survives(rd.q_sample, x, t, x, bars)
    survives(rd.q_sample, wrong, torch.tensor([0, 9]), x, bars)
    survives(rd.q_sample, x, torch.tensor([0, 9]), x, wrong)


@CASES
@given(VALUES, VALUES)
def test_the_denoiser_and_it_still_works_afterwards(model, x, t):
    good, steps = torch.ones(2, 1, 8, 8), torch.tensor([0, 9])
    with torch.no_grad():
        before = model(good, steps)
        survives(model, x, steps)
        survives(model, good, t)
        survives(model, x, t)
        assert torch.equal(model(good, steps), before)


SMALL = st.one_of(st.integers(-2, 9), ODDITIES, FLOATS)


@CASES
@given(
    in_ch=SMALL,
    base_ch=st.one_of(st.sampled_from([0, 1, 3, 8, -8, 2**40, 2**63]), SMALL),
    channel_mults=st.one_of(st.lists(st.one_of(st.integers(-1, 3), FLOATS), max_size=4), SMALL),
    time_dim=SMALL,
    dropout=st.one_of(FLOATS, ODDITIES),
    attn_levels=st.one_of(st.lists(st.integers(-2, 4), max_size=4), SMALL),
    num_heads=SMALL,
)
def test_architectures(**configuration):
    model = survives(rd.DiffusionUNet, **configuration)
    if model is not None:
        size = 8
        x = torch.zeros(1, configuration["in_ch"], size, size)
        prediction = survives(model, x, torch.tensor([3]))
        assert prediction is None or prediction.shape == x.shape


@CASES
@given(
    number=st.one_of(st.integers(-1, 3), VALUES),
    shape=st.one_of(st.lists(st.sampled_from([-1, 0, 1, 4, 8, 2**40]), max_size=4).map(tuple), VALUES),
    coefficients=VALUES,
    device=st.one_of(st.sampled_from(["cpu", "cuda:99", "meta", "nonsense", ""]), ODDITIES),
    steps=st.one_of(st.integers(-1, 12), VALUES),
    eta=st.one_of(FLOATS, VALUES),
    seed=st.one_of(st.none(), VALUES),
)
def test_the_samplers(bars, number, shape, coefficients, device, steps, eta, seed):
    def sample(number=2, shape=(1, 8, 8), bars=bars, device="cpu", steps=3, **options):
        def denoiser(x, t):
            return x * 0.1

        options.setdefault("progress", False)
        return survives(rd.ddim_sample, denoiser, number, shape, bars, device, steps, **options)

    sample(number=number)
    sample(shape=shape)
    sample(bars=coefficients)
    sample(device=device)
    sample(steps=steps)
    sample(eta=eta)
    sample(seed=seed)
    assert sample(seed=0).shape == (2, 1, 8, 8)


@CASES
@given(VALUES)
def test_a_denoiser_that_returns_anything(bars, answer):
    survives(rd.ddim_sample, lambda x, t: answer, 2, (1, 8, 8), bars, "cpu", 3, progress=False)


@CASES
@given(st.one_of(FLOATS, VALUES), VALUES)
def test_the_average(model, decay, other):
    ema = survives(rd.EMA, model, decay)
    if ema is not None:
        survives(ema.update, other)
        ema.update(model)
