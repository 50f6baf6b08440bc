"""What computes can be chosen: as on machines that are not at hand."""

import pytest

from tools import TINY, run_python

PASS = f"""
import hashlib, torch
import rust_diffusion as rd
from rust_diffusion import _native
import oracle
torch.manual_seed(3)
ours, course = rd.DiffusionUNet(**{TINY!r}), oracle.DiffusionUNet(**{TINY!r})
course.load_state_dict(ours.state_dict())
x, t = torch.randn(2, 1, 16, 16), torch.tensor([1, 30])
for model in (ours, course):
    torch.nn.functional.mse_loss(model.eval()(x, t), x).backward()
pairs = list(zip(ours.parameters(), course.parameters(), strict=True))
error = max(((a.grad - b.grad).abs().max() / b.grad.abs().max().clamp(min=1e-3)).item() for a, b in pairs)
bits = hashlib.sha256(b"".join(a.grad.numpy().tobytes() for a, _ in pairs)).hexdigest()
print(_native.kernels(), error, bits)
"""


def computed(**switches):
    """(what computed, how far its gradients are from the course's, their bits)."""
    done = run_python("-c", PASS, **switches)
    assert done.returncode == 0, done.report
    kernels, error, bits = done.stdout.split()
    return kernels, float(error), bits


@pytest.mark.parametrize("kernels", ["portable", "libtorch"])
def test_networks_are_computed_by_what_is_chosen(kernels):
    used, error, _ = computed(RUST_DIFFUSION_KERNELS=kernels)
    assert used == kernels and error < 1e-3


def test_a_choice_that_there_is_not_is_refused_at_import():
    done = run_python("-c", "import rust_diffusion", RUST_DIFFUSION_KERNELS="banana")
    assert done.returncode != 0 and "ValueError: RUST_DIFFUSION_KERNELS must be one of" in done.stderr
    assert 'got "banana"' in done.stderr


IN_BFLOAT16 = f"""
import torch
import rust_diffusion as rd
from rust_diffusion import _native
torch.manual_seed(3)
model = rd.DiffusionUNet(**{TINY | {"base_ch": 16}!r}).eval()
x, t = torch.randn(2, 1, 16, 16), torch.tensor([1, 30])

def gradients():
    model.zero_grad()
    torch.nn.functional.mse_loss(model(x, t).float(), x).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

exact = gradients()
with torch.autocast("cpu", torch.bfloat16):
    rounded = gradients()
print(_native.kernels(), ((rounded - exact).norm() / exact.norm()).item(), exact.double().sum().item())
"""


def test_convolutions_in_bfloat16_are_left_to_processors_with_matrix_units():
    """Tried by a switch: not the engine's own kernels, as much rounding, and float32 as it was."""
    found = {}
    for kernels in ("AMX", "AVX-512"):
        done = run_python("-c", IN_BFLOAT16, RUST_DIFFUSION_KERNELS=kernels)
        assert done.returncode == 0, done.report
        found[kernels] = done.stdout.split()
    (used, theirs, float32), (_, ours, float32_ours) = found["AMX"], found["AVX-512"]
    if used == "libtorch":
        pytest.skip("the engine has no vector code here")
    assert used == "AMX" and float32 == float32_ours
    assert theirs != ours and float(theirs) < 1.5 * float(ours) < 0.1


SHIFTED = f"""
import torch
import rust_diffusion as rd
torch.manual_seed(0)
model = rd.DiffusionUNet(**{TINY | {"base_ch": 16}!r}).eval()
alpha_bars = torch.cumprod(1 - rd.cosine_beta_schedule(20), 0)

def drawn():
    # one step: an untrained network amplifies the rounding of the first in the next
    options = dict(seed=1, precision="bf16", clip=False, progress=False)
    return rd.ddim_sample(model, 8, (1, 16, 16), alpha_bars, "cpu", 1, **options)

before = drawn()
with torch.no_grad():
    model.get_parameter("down_blocks.0.0.time_proj.1.bias").add_(64)
print(((drawn() - before).norm() / before.norm()).item())
"""


@pytest.mark.parametrize("kernels", ["AVX-512", "portable", "libtorch"])
def test_a_shift_that_the_normalisation_takes_away_is_not_rounded(kernels):
    """One channel is a group of its own there, so its mean does not matter. A GPU computes as libtorch does here."""
    done = run_python("-c", SHIFTED, RUST_DIFFUSION_KERNELS=kernels)
    assert done.returncode == 0, done.report
    assert float(done.stdout) < 0.02
