"""Hypothesis against the public functions: whatever goes in, a result or a built-in exception with words comes out.

A Rust panic would arrive as a BaseException and fail the test; a crash would end the process. `make fuzz` tries many
more cases than the few of a normal run (FUZZ_CASES, per test), and says how many it ran.
"""

import collections
import functools
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import rust_diffusion as rd

#: Cases (examples of Hypothesis) and calls of public functions in them; `conftest.py` prints them at the end.
RAN = collections.Counter()

SETTINGS = settings(
    max_examples=int(os.environ.get("FUZZ_CASES", "25")),
    deadline=None,
    derandomize="FUZZ_CASES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


def fuzzed(*arguments, cost=1, **keywords):
    """Hypothesis's `given`, with our settings, and counted; what costs more is tried less."""

    def decorate(test):
        @functools.wraps(test)
        def counted(*args, **kwargs):
            RAN["cases"] += 1
            return test(*args, **kwargs)

        return settings(SETTINGS, max_examples=max(10, SETTINGS.max_examples // cost))(
            given(*arguments, **keywords)(counted)
        )

    return decorate


# An AttributeError is what an object that lies about its type deserves: it names what the object lacks.
REFUSALS = (
    AttributeError,
    OSError,
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
    RAN["calls"] += 1
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


@fuzzed(st.one_of(INTEGERS, VALUES), st.one_of(FLOATS, VALUES), st.one_of(FLOATS, VALUES))
def test_schedules(steps, first, second):
    for betas in (
        survives(rd.cosine_beta_schedule, steps, first),
        survives(rd.linear_beta_schedule, steps, first, second),
    ):
        assert betas is None or (betas.shape == (steps,) and bool(((betas > 0) & (betas < 1)).all()))


@fuzzed(VALUES, VALUES, VALUES, VALUES)
def test_closed_forms(x, t, noise, coefficients):
    survives(rd.q_sample, x, t, noise, coefficients)
    survives(rd.predict_x0_from_eps, x, noise, t, coefficients)
    survives(rd.extract, coefficients, t, x)
    survives(rd.extract, coefficients, t, (2, 1, 8, 8))
    survives(rd.denormalize_to_01, x)


@fuzzed(VALUES, VALUES)
def test_closed_forms_with_one_argument_wrong(bars, wrong, t):
    x = torch.zeros(2, 1, 8, 8)
    survives(rd.q_sample, x, t, x, bars)
    survives(rd.q_sample, wrong, torch.tensor([0, 9]), x, bars)
    survives(rd.q_sample, x, torch.tensor([0, 9]), x, wrong)


@fuzzed(VALUES, VALUES)
def test_the_denoiser_and_it_still_works_afterwards(model, x, t):
    good, steps = torch.ones(2, 1, 8, 8), torch.tensor([0, 9])
    with torch.no_grad():
        before = model(good, steps)
        survives(model, x, steps)
        survives(model, good, t)
        survives(model, x, t)
        assert torch.equal(model(good, steps), before)


SMALL = st.one_of(st.integers(-2, 9), ODDITIES, FLOATS)


@fuzzed(
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


@fuzzed(
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


@fuzzed(VALUES)
def test_a_denoiser_that_returns_anything(bars, answer):
    survives(rd.ddim_sample, lambda x, t: answer, 2, (1, 8, 8), bars, "cpu", 3, progress=False)


@fuzzed(st.one_of(FLOATS, VALUES), VALUES)
def test_the_average(model, decay, other):
    ema = survives(rd.EMA, model, decay)
    if ema is not None:
        survives(ema.update, other)
        ema.update(model)


@fuzzed(
    cost=5,
    # a text would be read as a folder or pattern, and find whatever is there
    data=st.one_of(VALUES.filter(lambda value: not isinstance(value, str)), st.lists(tensors(), max_size=2)),
    options=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["epochs", "batch_size", "accumulate", "max_steps", "warmup_steps"],
            st.one_of(st.integers(-1, 2), ODDITIES),
        )
        | dict.fromkeys(
            ["learning_rate", "weight_decay", "ema_decay", "grad_clip", "min_snr_gamma"],
            st.one_of(FLOATS, ODDITIES),
        )
        | dict.fromkeys(["precision", "lr_schedule", "objective", "name", "device"], ODDITIES)
        | {
            "betas": VALUES,
            "seed": VALUES,
            "callback": ODDITIES,
            "val_data": st.one_of(tensors(), arrays(), INTEGERS),
        },
    ),
)
def test_training(data, options):
    torch.manual_seed(0)
    network = rd.DiffusionUNet(base_ch=8, channel_mults=(1,), attn_levels=(), time_dim=4, num_heads=1)
    usual = dict(betas=torch.linspace(0.1, 0.5, 4), epochs=1, batch_size=2, device="cpu", max_steps=2)
    good = torch.zeros(2, 1, 4, 4)
    for images, changes in ((data, {}), (good, options)):
        survives(rd.train, network, images, **{**usual, **changes, "progress": False})
    # a learning rate of a hundred leaves numbers with which any run diverges
    if all(bool((p.abs() < 10).all()) for p in network.parameters()):
        assert rd.train(network, good, **{**usual, "progress": False}).epochs_run == 1


def changed(whole, changes, end):
    content = bytearray(whole)
    for place, byte in changes:
        content[place % len(content)] = byte
    return bytes(content[: max(1, int(end * len(content)))])


BYTES = st.lists(st.tuples(st.integers(-3000, 3000), st.integers(0, 255)), min_size=1, max_size=4)
ENDS = st.one_of(st.just(1.0), st.floats(0.0, 1.0))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """(folder, {name: (content, function that reads it)}) of one file of each kind that is read."""
    folder = tmp_path_factory.mktemp("files")
    torch.save(model.state_dict(), folder / "x.pth")
    torch.save(model.state_dict(), folder / "old.pth", _use_new_zipfile_serialization=False)
    model.save_pretrained(folder / "saved", betas=rd.cosine_beta_schedule(5), image_size=8)
    picture = Image.fromarray((np.arange(192, dtype=np.uint8) * 7).reshape(8, 8, 3))
    for suffix in ("png", "jpg", "tif"):
        picture.save(folder / f"x.{suffix}")
    names = ["x.pth", "old.pth", "saved/model.safetensors", "saved/config.json", "x.png", "x.jpg", "x.tif"]
    return folder, {name: (folder / name).read_bytes() for name in names}


@fuzzed(name=st.integers(0, 6), changes=BYTES, end=ENDS)
def test_files(model, files, name, changes, end):
    folder, whole = files
    name = sorted(whole)[name]
    path = folder / name
    path.write_bytes(changed(whole[name], changes, end))
    try:
        if path.suffix in (".png", ".jpg", ".tif"):
            images = survives(rd.load_images, path, 8, progress=False)
            assert images is None or images.shape == (1, 1, 8, 8)
        else:
            loaded = survives(rd.load, path.parent if path.parent != folder else path)
            assert loaded is None or loaded.config["base_ch"] == 8
    finally:
        path.write_bytes(whole[name])


@fuzzed(content=st.binary(max_size=300), suffix=st.sampled_from(["pth", "ckpt", "png", "jpg", "tif", "dcm"]))
def test_files_of_anything(files, content, suffix):
    path = files[0] / f"anything.{suffix}"
    path.write_bytes(content)
    survives(rd.load_images, path, 8, progress=False)
    survives(rd.load, path)
    survives(rd.load, content)
