"""On a GPU: everything that draws, restores and trains there gives what it gives on the CPU, up to rounding.

A `seed` draws its noise on the CPU, so that even random samplers must agree.
"""

import copy
import math
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import rust_diffusion as rd
from rust_diffusion import operators as ops
from rust_diffusion.inverse import LocalError
from rust_diffusion.support import graphs
from tools import (
    TINY,
    TINY_SHAPE,
    TINY_UNET2D,
    UNLIKE_THE_COURSE,
    flat,
    max_error,
    relative_l2,
    same_state,
    slices,
)

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
SIZE = TINY_SHAPE[1:]
T = 40


@pytest.fixture(autouse=True)
def full_float32():
    """The CPU knows no tensor cores: rounding must not hide a fault."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def alpha_bars():
    return torch.cumprod(1 - rd.cosine_beta_schedule(T), 0)


@pytest.fixture(scope="module")
def trained():
    """A network that has learnt a little, so that its samples are no chaos of rounding."""
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**TINY)
    rd.train(
        model,
        slices(64, 16),
        betas=rd.cosine_beta_schedule(T),
        batch_size=16,
        epochs=30,
        learning_rate=2e-3,
        device="cpu",
        precision="fp32",
        seed=0,
        progress=False,
    )
    return model.eval()


@pytest.fixture(scope="module")
def pair(trained):
    return trained, copy.deepcopy(trained).to(DEVICE)


SAMPLERS = {
    "ddim": (rd.ddim_sample, {"sample_steps": 8}),
    "ddim, eta": (rd.ddim_sample, {"sample_steps": 8, "eta": 0.7}),
    "dpmpp": (rd.dpmpp_sample, {"sample_steps": 8}),
    "dpmpp, sde": (rd.dpmpp_sample, {"sample_steps": 8, "sde": True}),
    "unipc": (rd.unipc_sample, {"sample_steps": 8}),
    "heun": (rd.heun_sample, {"sample_steps": 8}),
    "euler": (rd.euler_sample, {"sample_steps": 8}),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("captured", [False, True], ids=["direct", "captured"])
def test_samples_are_the_cpus(pair, alpha_bars, name, captured):
    sampler, options = SAMPLERS[name]
    here, there = (
        sampler(
            model, 3, TINY_SHAPE, alpha_bars, device, seed=4, progress=False, cuda_graphs=graph, **options
        )
        for model, device, graph in zip(pair, ("cpu", DEVICE), (False, captured), strict=True)
    )
    assert there.device.type == DEVICE
    assert max_error(there.cpu(), here) <= 2e-3


def test_ddpm_is_the_cpus(pair, alpha_bars):
    betas = rd.cosine_beta_schedule(T)
    schedule = betas, 1 - betas, alpha_bars
    here, there = (
        rd.ddpm_sample(model, 3, TINY_SHAPE, *schedule, device, seed=4, progress=False)
        for model, device in zip(pair, ("cpu", DEVICE), strict=True)
    )
    assert max_error(there.cpu(), here) <= 2e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_samples_in_short_types_are_near(pair, alpha_bars, precision):
    def draw(**options):
        return rd.dpmpp_sample(pair[1], 3, TINY_SHAPE, alpha_bars, DEVICE, seed=4, progress=False, **options)

    want = draw()
    for graph in (False, True):
        assert relative_l2(draw(precision=precision, cuda_graphs=graph), want) <= 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_samplers_captured_one_after_the_other_do_not_disturb_each_other(pair, alpha_bars, precision):
    """Different batches and samplers in turn, the images of the first kept until the end."""
    model = pair[1]

    def draw(captured):
        kept = []
        for count, sampler in (
            (2, rd.ddim_sample),
            (5, rd.dpmpp_sample),
            (2, rd.heun_sample),
            (2, rd.ddim_sample),
        ):
            options = dict(seed=count, progress=False, precision=precision, cuda_graphs=captured)
            kept.append(sampler(model, count, TINY_SHAPE, alpha_bars, DEVICE, 12, **options))
        return flat(kept)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = draw(True)
    assert relative_l2(captured, draw(False)) <= (1e-5 if precision == "fp32" else 1e-2)


def test_from_images_to_noise_and_back(pair, alpha_bars):
    images = slices(3, 16)
    bars = alpha_bars
    options = dict(clip=False, progress=False)
    noise, likelihood, between = [], [], []
    for model, device in zip(pair, ("cpu", DEVICE), strict=True):
        x = images.to(device)
        noise.append(rd.ddim_invert(model, x, bars, device, 10, **options).cpu())
        likelihood.append(rd.log_likelihood(model, x, bars, device, 6, seed=1, progress=False).cpu())
        between.append(rd.interpolate(model, x[0], x[1], bars, device, 3, progress=False).cpu())
    for here, there in (noise, likelihood, between):
        assert max_error(there, here) <= 2e-3


OPERATORS = {
    "identity": lambda: ops.Identity(SIZE),
    "blur": lambda: ops.Blurring(SIZE, kernel_size=5, boundary="circular"),
    "blur, reflect": lambda: ops.Blurring(SIZE, kernel_size=5, boundary="reflect"),
    "motion": lambda: ops.Blurring(SIZE, kernel_type="motion", kernel_size=7, motion_angle=20),
    "means": lambda: ops.DownScaling(SIZE, 4),
    "inpainting": lambda: ops.Inpainting(SIZE, keep=0.5, seed=3),
    "gradient": lambda: ops.Gradient(SIZE),
    "ct": lambda: ops.CTProjector(SIZE, torch.arange(12) * math.pi / 12, 24),
    "matrix": lambda: ops.MatrixOperator(
        torch.randn(40, 256, generator=torch.Generator().manual_seed(1)), SIZE
    ),
    "stack": lambda: ops.Stack([ops.Identity(SIZE), ops.DownScaling(SIZE, 2)]),
    "composed": lambda: ops.DownScaling(SIZE, 2) @ ops.Blurring(SIZE, kernel_size=3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_their_derivatives_are_the_cpus(name, dtype):
    K = OPERATORS[name]()
    x = torch.randn(2, 1, *SIZE, dtype=dtype)

    def everything(x):
        x = x.clone().requires_grad_()
        y = K(x)
        (gradient,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((gradient**2).sum(), x)
        y = y.detach()
        # what pinv finds where K sees next to nothing is rounding: it is judged by what K sees of it
        return [y, gradient, second, K.T(y), K(K.pinv(y)), K.prox(x.detach(), y, 0.5)]

    tolerance = 1e-6 if dtype == torch.float64 else 1e-3
    for here, there in zip(everything(x), everything(x.to(DEVICE)), strict=True):
        assert there.device.type == DEVICE and there.dtype == dtype
        assert max_error(there.cpu(), here) <= tolerance


MODES = torch.full((T, 16, 9), 0.05)
LOCAL = LocalError(
    torch.ones(T, 16, 9), torch.tensor([1e-4, 0.1]).expand(T, 2), torch.tensor([0.005, 0.1]).expand(T, 2)
)
#: As wide as what `pigdm_sample` takes by itself, since of six steps with less it makes chaos.
WIDE = LOCAL._replace(
    variances=(1 - torch.cumprod(1 - rd.cosine_beta_schedule(T), 0))[:, None] * torch.tensor([0.5, 1.0])
)

METHODS = {
    "daps": (rd.daps_sample, {}),
    "daps, modes": (rd.daps_sample, {"r2": MODES}),
    "daps, modes, widened": (rd.daps_sample, {"r2": MODES, "widen": True}),
    "daps, local": (rd.daps_sample, {"r2": LOCAL}),
    "daps, local, widened": (rd.daps_sample, {"r2": LOCAL, "widen": True}),
    "daps, jacobian": (rd.daps_sample, {"r2": "jacobian"}),
    "dps": (rd.dps_sample, {"scale": 0.5}),
    "dps, course": (rd.dps_sample, {"style": "course"}),
    "diffpir": (rd.diffpir_sample, {}),
    "ddnm": (rd.ddnm_sample, {}),
    "pigdm": (rd.pigdm_sample, {}),
    "pigdm, local": (rd.pigdm_sample, {"r2": WIDE}),
    "mmps": (rd.mmps_sample, {"cg_steps": 2}),
}


#: On the CPU too these answer a change of y by one part in a million with another image: conjugate gradients that
#: stop a step earlier or later leave what the measurement hardly sees elsewhere. By how much the residual may differ.
CHAOTIC = {
    ("diffpir", "ct"): 0.5,
    ("daps, jacobian", "ct"): 0.5,
    ("daps, jacobian", "inpainting"): 0.5,
    ("mmps", "inpainting"): math.inf,  # by 1.2 on the CPU
}


@pytest.mark.parametrize("operator", ["blur", "means", "inpainting", "ct"])
@pytest.mark.parametrize("method", METHODS)
def test_restorations_are_the_cpus(pair, alpha_bars, method, operator):
    sampler, options = METHODS[method]
    K = OPERATORS[operator]()
    truth = slices(2, 16, seed=3)
    y = K(truth)
    y = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    told = {"cpu": [], DEVICE: []}
    here, there = (
        sampler(
            model,
            y.to(device),
            K,
            alpha_bars,
            device,
            6,
            sigma_y=0.1,
            seed=7,
            progress=False,
            callback=told[device].append,
            **options,
        )
        for model, device in zip(pair, ("cpu", DEVICE), strict=True)
    )
    assert there.device.type == DEVICE and torch.isfinite(there).all()
    case = (method, operator)
    assert case in CHAOTIC or max_error(there.cpu(), here) <= 5e-3
    residuals = told[DEVICE][-1].residual.cpu(), told["cpu"][-1].residual
    assert max_error(*residuals) <= CHAOTIC.get(case, 0.02)


@pytest.mark.parametrize("kind", ["spectrum", "local"])
def test_a_posterior_and_the_denoisers_error_are_the_cpus(pair, alpha_bars, kind):
    K, truth = OPERATORS["inpainting"](), slices(2, 16, seed=3)
    found = {}
    for model, device in zip(pair, ("cpu", DEVICE), strict=True):
        error = rd.denoising_error(
            model, slices(8, 16).to(device), alpha_bars, device, seed=1, **{kind: True}
        )
        p = rd.posterior(
            "daps",
            model,
            K(truth).to(device),
            K,
            alpha_bars,
            device,
            sigma_y=0.1,
            num_samples=4,
            sample_steps=5,
            seed=2,
            r2=error,
            progress=False,
        )
        parts = error if kind == "local" else (error,)
        found[device] = [*parts, p.mean, p.std, *p.quantiles, p.residual]
    for here, there in zip(found["cpu"], found[DEVICE], strict=True):
        assert max_error(there.cpu(), here) <= 2e-2


def test_total_variation_is_the_cpus():
    K, truth = OPERATORS["ct"](), slices(2, 16, seed=3)
    here, there = (rd.tv_reconstruct(K(truth).to(device), K, 0.01, 40) for device in ("cpu", DEVICE))
    assert max_error(there.cpu(), here) <= 1e-3


def fit(model, data, **options):
    settings = dict(betas=rd.cosine_beta_schedule(T), batch_size=8, epochs=4, learning_rate=1e-3, seed=5)
    return rd.train(model, data, device=DEVICE, progress=False, **{**settings, **options})


def network():
    torch.manual_seed(2)
    return rd.DiffusionUNet(**TINY)


@pytest.mark.parametrize("objective", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_objective_learns_in_every_precision(objective, precision):
    result = fit(network(), slices(64, 16), objective=objective, precision=precision, epochs=12)
    first, last = result.history[0], result.history[-1]
    assert last < 0.8 * first


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_shift_that_the_normalisation_takes_away_is_not_rounded(alpha_bars, precision):
    """One channel is a group of its own there, so its mean does not matter."""
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**{**TINY, "base_ch": 16}).to(DEVICE).eval()

    def drawn():
        # one step, not clipped: else an untrained network's rounding turns single pixels from -1 to 1
        options = dict(seed=1, precision=precision, clip=False, progress=False)
        return rd.ddim_sample(model, 8, TINY_SHAPE, alpha_bars, DEVICE, 1, **options)

    before = drawn()
    with torch.no_grad():
        model.get_parameter("down_blocks.0.0.time_proj.1.bias").add_(64)
    assert relative_l2(drawn(), before) < 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_long_training_in_bfloat16_does_not_fall_apart(seed):
    """700 updates at a high rate, which false gradients of what normalisations take away once ruined."""
    torch.manual_seed(seed)
    recipe = rd.recipe(size=64, minutes=3)
    del recipe.training["minutes"]
    recipe.training |= {"precision": "bf16", "objective": "v", "time_sampling": "uniform"}
    model = rd.DiffusionUNet(**recipe.network)
    data = rd.phantoms(1024, size=64, seed=0)
    result = fit(model, data, **{**recipe.training, "betas": recipe.betas, "epochs": 11, "seed": seed})
    assert result.history[-1] < 0.1


class Enough(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize("captured", [False, True], ids=["direct", "captured"])
def test_a_run_that_was_cut_goes_on_to_the_same_weights(tmp_path, monkeypatch, captured):
    monkeypatch.setenv(graphs.SWITCH, str(int(captured)))
    options = dict(data=slices(40, 16), ema_decay=0.9, precision="bf16", epochs=6)

    def stop(info):
        if info.epoch == 3:
            raise Enough

    whole, cut, again = network(), network(), network()
    fit(whole, **options, weights_dir=tmp_path / "whole")
    with pytest.raises(Enough):
        fit(cut, **options, weights_dir=tmp_path / "cut", callback=stop)
    result = fit(again, **options, weights_dir=tmp_path / "cut")
    assert len(result.history) == 6
    assert relative_l2(flat(again.parameters()), flat(whole.parameters())) <= 1e-3


def test_images_from_a_loader_and_from_an_image_set_train_there():
    for data in (DataLoader(slices(24, 16), batch_size=8), slices(24, 16).to(DEVICE), slices(24, 16).numpy()):
        assert fit(network(), data, epochs=2).history[-1] < 3


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.time = nn.Embedding(T, 8)

    def forward(self, x, t):
        return self.out(torch.relu(self.into(x) + self.time(t)[:, :, None, None]))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_networks_of_ones_own_train_and_draw(alpha_bars, precision):
    torch.manual_seed(0)
    model = Small()
    result = fit(model, slices(64, 16), precision=precision, epochs=10, ema_decay=0.9)
    assert result.history[-1] < result.history[0]
    images = rd.ddim_sample(model.eval(), 2, TINY_SHAPE, alpha_bars, DEVICE, 5, seed=1, progress=False)
    assert images.device.type == DEVICE and torch.isfinite(images).all()


@pytest.mark.parametrize("configuration", [TINY_UNET2D, UNLIKE_THE_COURSE], ids=["tiny", "unlike the course"])
def test_networks_of_diffusers_are_its_own_there(configuration):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    theirs = diffusers.UNet2DModel(**configuration).to(DEVICE).eval()
    ours = rd.UNet2DModel(**configuration).to(DEVICE).eval()
    ours.load_state_dict(theirs.state_dict())
    x, t = torch.randn(2, 3, 16, 16, device=DEVICE, requires_grad=True), torch.tensor([3, 700], device=DEVICE)
    got, want = ours(x, t), theirs(x, t).sample
    assert max_error(got, want) <= 1e-5
    gradients = [
        torch.autograd.grad(out.square().sum(), [x, *net.parameters()])
        for out, net in ((got, ours), (want, theirs))
    ]
    assert relative_l2(flat(gradients[0]), flat(gradients[1])) <= 1e-4


def test_files_go_from_one_device_to_the_other(pair, tmp_path):
    there = pair[1]
    path = tmp_path / "weights.pth"
    torch.save(there.state_dict(), path)
    for device in ("cpu", DEVICE):
        back = rd.load(path, device=device, num_heads=TINY["num_heads"])
        assert same_state({k: v.cpu() for k, v in back.state_dict().items()}, pair[0].state_dict())
        assert next(back.parameters()).device.type == device
