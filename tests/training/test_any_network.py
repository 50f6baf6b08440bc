"""`train` on modules that are not ours, through torch's autograd: the same run in every respect."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tools import TINY, flat, relative_l2, same_state, slices

FIXED = dict(seed=5, device="cpu", precision="fp32", progress=False)


@pytest.fixture
def betas(oracle):
    return oracle.cosine_beta_schedule(20)


class Small(nn.Module):
    """A network of one's own, with statistics beside its parameters."""

    def __init__(self, width=8):
        super().__init__()
        self.into = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.time = nn.Embedding(20, width)
        self.out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, t):
        h = self.norm(self.into(x)) + self.time(t)[:, :, None, None]
        return self.out(torch.relu(h))


def pair(rd, oracle, **changes):
    torch.manual_seed(2)
    theirs = oracle.DiffusionUNet(**{**TINY, **changes})
    ours = rd.DiffusionUNet(**{**TINY, **changes})
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(dropout=0.2),
        dict(accumulate=2, objective="v", min_snr_gamma=5.0),
        dict(horizontal_flip=True, ema_warmup=True, grad_clip=0.05),
        dict(precision="bf16"),
    ],
    ids=str,
)
def test_the_courses_module_loses_what_ours_loses(rd, oracle, betas, options):
    options = {**FIXED, **options}
    ours, theirs = pair(rd, oracle, dropout=options.pop("dropout", 0.0))
    tolerance = 1e-4 if options["precision"] == "fp32" else 2e-2
    options |= dict(betas=betas, epochs=4, learning_rate=1e-3, val_data=slices(4, seed=9))
    results = [rd.train(model, slices(10), batch_size=4, **options) for model in (ours, theirs)]
    assert results[1].history == pytest.approx(results[0].history, rel=tolerance)
    assert results[1].val_history == pytest.approx(results[0].val_history, rel=tolerance)
    assert results[1].initial_share == results[0].initial_share
    assert type(results[1].ema.shadow) is oracle.DiffusionUNet
    for a, b in ((ours, theirs), (results[0].ema.shadow, results[1].ema.shadow)):
        assert relative_l2(flat(b.parameters()), flat(a.parameters())) <= 10 * tolerance


def fit(rd, betas, folder, model, **options):
    settings = dict(betas=betas, epochs=4, batch_size=4, learning_rate=1e-3, weights_dir=folder, **FIXED)
    return rd.train(model, slices(10), **{**settings, **options})


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("kind", ["course", "small"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(rd, oracle, betas, tmp_path, kind, stop):
    def network():
        torch.manual_seed(3)
        return oracle.DiffusionUNet(**{**TINY, "dropout": 0.1}) if kind == "course" else Small()

    whole, parts, again = network(), network(), network()
    expected = fit(rd, betas, tmp_path / "whole", whole)
    fit(rd, betas, tmp_path / "parts", parts, max_steps=stop)
    result = fit(rd, betas, tmp_path / "parts", again)
    assert result.history == expected.history
    assert same_state(again.state_dict(), whole.state_dict())
    assert same_state(result.ema.shadow.state_dict(), expected.ema.shadow.state_dict())
    files = [
        torch.load(tmp_path / name / "DDPMDenoiser.pth", weights_only=True) for name in ("whole", "parts")
    ]
    assert same_state(*files)


def test_ctrl_c_is_saved_and_goes_on(rd, betas, tmp_path):
    class Interrupting(Small):
        left = math.inf

        def forward(self, x, t):
            Interrupting.left -= 1
            if Interrupting.left < 0:
                raise KeyboardInterrupt
            return super().forward(x, t)

    torch.manual_seed(3)
    whole = Interrupting()
    again = copy.deepcopy(whole)
    fit(rd, betas, tmp_path / "whole", whole)
    Interrupting.left = 4
    with pytest.raises(KeyboardInterrupt):
        fit(rd, betas, tmp_path / "parts", copy.deepcopy(again))
    Interrupting.left = math.inf
    fit(rd, betas, tmp_path / "parts", again)
    assert same_state(again.state_dict(), whole.state_dict())


def test_statistics_reach_the_averaged_model_and_its_file(rd, betas, tmp_path):
    model = Small()
    result = fit(rd, betas, tmp_path, model)
    shadow = result.ema.shadow
    assert torch.equal(shadow.norm.running_mean, model.norm.running_mean)
    assert int(shadow.norm.num_batches_tracked) == 12 and not shadow.training
    saved = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)
    assert same_state(saved["ema"]["shadow"], shadow.state_dict())
    assert not torch.equal(shadow.into.weight, model.into.weight)


def test_parameters_without_gradients_stay(rd, oracle, betas, tmp_path):
    for model, frozen in ((Small(), "into"), (rd.DiffusionUNet(**TINY), "time_mlp")):
        model.get_submodule(frozen).requires_grad_(False)
        before = copy.deepcopy(model.state_dict())
        folder = tmp_path / type(model).__name__
        fit(rd, betas, folder, model, max_steps=5)
        result = fit(rd, betas, folder, model)
        for key, value in model.state_dict().items():
            if key.startswith(frozen):
                assert torch.equal(value, before[key]), key
                assert torch.equal(result.ema.shadow.state_dict()[key], before[key]), key
        assert not torch.equal(model.state_dict()[key], before[key])
        # torch's own optimizer over all parameters takes the states
        saved = torch.load(folder / "DDPMDenoiser.ckpt", weights_only=True)
        torch.optim.AdamW(model.parameters()).load_state_dict(saved["optimizer"])


def test_a_parameter_without_a_part_in_the_prediction_is_only_decayed(rd, betas, tmp_path):
    class Idle(Small):
        def __init__(self):
            super().__init__()
            self.idle = nn.Parameter(torch.ones(3))

    model = Idle()
    fit(rd, betas, tmp_path, model)
    assert torch.allclose(model.idle, torch.ones(3), atol=1e-5) and bool((model.idle < 1).all())


def test_weights_that_do_not_lie_row_by_row_are_trained_too(rd, betas, tmp_path):
    def network():
        torch.manual_seed(3)
        return Small()

    plain, strided = network(), network()
    strided.time.weight.data = strided.time.weight.data.t().contiguous().t()
    strided.out = strided.out.to(memory_format=torch.channels_last)
    fit(rd, betas, tmp_path / "a", plain)
    fit(rd, betas, tmp_path / "b", strided)
    assert same_state(plain.state_dict(), strided.state_dict())


def test_a_subclass_with_a_forward_of_its_own_is_called(rd, betas, tmp_path):
    class Halved(rd.DiffusionUNet):
        calls = 0

        def forward(self, x, t):
            Halved.calls += 1
            return super().forward(x, t) / 2

    model = Halved(**TINY)
    before = copy.deepcopy(model.state_dict())
    result = fit(rd, betas, tmp_path, model)
    assert Halved.calls == 12 and len(result.history) == 4
    assert not same_state(model.state_dict(), before)


def test_fp16_scales_the_loss_of_any_network(rd, betas, tmp_path):
    model = Small()
    result = fit(rd, betas, tmp_path, model, precision="fp16", epochs=8)
    saved = torch.load(tmp_path / "DDPMDenoiser.ckpt", weights_only=True)
    assert saved["scaler"]["scale"] == 2.0 ** (16 - result.skipped_steps)
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())


def test_the_samplers_know_what_it_was_trained_for(rd, betas, tmp_path):
    images = torch.full((16, 1, 8, 8), 0.5)
    model = Small(32)
    options = dict(betas=betas, epochs=40, batch_size=8, learning_rate=1e-2, ema_decay=0.9, **FIXED)
    result = rd.train(model, images, objective="x0", **options)
    alpha_bars = torch.cumprod(1 - betas, 0)
    sample = rd.ddim_sample(result.ema, 2, (1, 8, 8), alpha_bars, "cpu", 10, seed=1, progress=False)
    assert (sample - 0.5).abs().mean() < 0.1


def test_a_model_of_diffusers_trains(rd, betas, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    model = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    loader = DataLoader(slices(32), batch_size=8)
    options = dict(betas=betas, epochs=12, learning_rate=3e-3, weights_dir=tmp_path, **FIXED)
    result = rd.train(model, loader, **options)
    assert result.history[-1] < 0.8 * result.history[0]
    assert type(result.ema.shadow) is type(model)
    assert rd.train(model, loader, **options).epochs_run == 0


class Wrong:
    class Shape(Small):
        def forward(self, x, t):
            return super().forward(x, t)[:, :, :4]

    class Kind(Small):
        def forward(self, x, t):
            return "a prediction"

    class NoTime(Small):
        def forward(self, x):
            return x

    class Detached(Small):
        def forward(self, x, t):
            return super().forward(x, t).detach()

    class Complex(Small):
        def forward(self, x, t):
            return super().forward(x, t) * 1j

    class Lazy(Small):
        def __init__(self):
            super().__init__()
            self.out = nn.LazyConv2d(1, 3, padding=1)

    class Counting(Small):
        """With a state beside its tensors."""

        calls = 0

        def get_extra_state(self):
            return {"calls": self.calls}

        def set_extra_state(self, state):
            self.calls = state["calls"]


@pytest.mark.parametrize(
    "model, kinds, message",
    [
        (Wrong.Shape(), ValueError, r"model must return .*shape of x_t \(4, 1, 8, 8\), got \(4, 1, 4, 8\)"),
        (Wrong.Kind(), TypeError, "model must return a torch.Tensor, got str"),
        (Wrong.Complex(), TypeError, "model must return a floating-point tensor, got torch.complex64"),
        (Wrong.Lazy(), ValueError, r"out\.weight has no shape yet.*model\(x_t, t\)"),
        (Wrong.Counting(), ValueError, r"state_dict\(\) must hold tensors only.*'_extra_state' is a dict"),
        (Wrong.NoTime(), TypeError, r"model must take \(x_t, t\).*NoTime"),
        (Wrong.Detached(), ValueError, "does not depend on its parameters"),
        (Small().double(), TypeError, "float32 weights to train, into.weight is torch.float64"),
        (Small().requires_grad_(False), ValueError, "trainable"),
        (
            lambda x, t: x,
            TypeError,
            r"model must be a torch.nn.Module \(x_t, t\) -> prediction, got builtins",
        ),
    ],
    ids=[
        "shape",
        "kind",
        "complex",
        "lazy",
        "extra state",
        "no time",
        "detached",
        "double",
        "frozen",
        "function",
    ],
)
def test_a_network_that_cannot_be_trained_is_refused_in_words(rd, betas, tmp_path, model, kinds, message):
    with pytest.raises(kinds, match=message):
        fit(rd, betas, tmp_path, model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_module_that_torch_compiled_is_refused_in_words(rd, betas, tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x, t):
            return self.conv(x)

    with pytest.raises(TypeError, match=r"torch\.jit.*train the module that it was made of"):
        fit(rd, betas, tmp_path, torch.jit.script(Plain()))


def test_a_state_beside_the_tensors_is_no_matter_where_nothing_is_kept(rd, betas):
    assert fit(rd, betas, None, Wrong.Counting(), epochs=1).epochs_run == 1


@pytest.mark.parametrize("channels", [(1, 2), (2, 1)])
def test_a_network_that_returns_other_channels_than_it_takes_is_refused(rd, betas, channels):
    model = rd.UNet2DModel(
        **dict(zip(("in_channels", "out_channels"), channels, strict=True)),
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    data = torch.zeros(4, channels[0], 8, 8)
    with pytest.raises(ValueError, match=r"model must return a tensor of the shape of x_t.*out_channels"):
        rd.train(model, data, betas=betas, epochs=1, **FIXED)


def test_a_checkpoint_of_another_network_is_refused(rd, betas, tmp_path):
    fit(rd, betas, tmp_path, Small(), epochs=1)
    with pytest.raises(ValueError, match=r"another architecture.*shape"):
        fit(rd, betas, tmp_path, Small(9), epochs=2)
