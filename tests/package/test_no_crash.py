"""What is most dangerous, each in a process of its own: it may raise, but not crash, hang or panic."""

import pytest

from tools import run_python

PREAMBLE = """
import copy, gc, os, sys, threading
import numpy as np, torch
import rust_diffusion as rd
from tools import TINY, slices
torch.manual_seed(0)
model = rd.DiffusionUNet(**TINY).eval()
x, t = torch.randn(2, 1, 16, 16), torch.tensor([0, 9])
betas = rd.cosine_beta_schedule(10)
alpha_bars = torch.cumprod(1 - betas, 0)

def refused(call, *kinds):
    try:
        call()
    except kinds or (ValueError, TypeError, RuntimeError, MemoryError, AttributeError) as error:
        assert not type(error).__name__.startswith("Panic"), error
        print("refused:", str(error)[:200].replace(chr(10), " "))
    else:
        raise SystemExit("not refused")
"""

PROGRAMS = {
    "more images than memory": """
refused(lambda: rd.ddim_sample(model, 10**9, (1, 1024, 1024), alpha_bars, "cpu", 2, progress=False))
refused(lambda: rd.ddim_sample(lambda x, t: x, 2**62, (2**30, 4, 4), alpha_bars, "cpu", 2, progress=False))
refused(lambda: rd.cosine_beta_schedule(2**62))
refused(lambda: rd.phantoms(2**50, 64))
refused(lambda: rd.phantoms(1, 2**40))
""",
    "weights that were taken away": """
for spoil in (
    lambda m: setattr(m.init, "bias", None),
    lambda m: delattr(m, "mid_attn"),
    lambda m: setattr(m.init, "weight", torch.nn.Parameter(torch.zeros(1))),
    lambda m: setattr(m.out_conv, "weight", torch.nn.Parameter(torch.zeros(1, 16, 3, 3, device="meta"))),
    lambda m: m.add_module("extra", torch.nn.Linear(1, 1)),
):
    broken = copy.deepcopy(model)
    spoil(broken)
    refused(lambda: broken(x, t))
    refused(lambda: rd.EMA(model).update(broken))
    refused(lambda: rd.ddim_sample(broken, 1, (1, 16, 16), alpha_bars, "cpu", 2, progress=False))
    refused(lambda: rd.train(broken, slices(2), betas=betas, epochs=1, progress=False))
mixed = copy.deepcopy(model)
mixed.mid_block1.half()
refused(lambda: mixed(x, t))
""",
    "odd arrays": """
arrays = [
    np.zeros((2, 1, 16, 16), dtype="float32")[:, :, ::-1],
    np.zeros((2, 1, 16, 16), dtype=">f4"),
    np.zeros((2, 1, 16, 16), dtype="float16"),
    np.zeros((0, 1, 16, 16), dtype="float32"),
    np.zeros((2, 1, 16, 16), dtype="U3"),
    np.array(1.0),
    memoryview(b"1234"),
    np.lib.stride_tricks.as_strided(np.zeros(1, "float32"), (2, 1, 16, 16), (0, 0, 0, 0)),
]
read_only = np.zeros((2, 1, 16, 16), dtype="float32")
read_only.flags.writeable = False
for array in [*arrays, read_only]:
    for call in (
        lambda: rd.denormalize_to_01(array),
        lambda: rd.q_sample(array, t, array, alpha_bars),
        lambda: rd.train(model, array, betas=betas, epochs=1, progress=False),
        lambda: rd.ddim_sample(model, 2, (1, 16, 16), alpha_bars, "cpu", 2, x_T=array, progress=False),
        lambda: rd.ddim_sample(model, 2, (1, 16, 16), array, "cpu", 2, progress=False),
    ):
        try:
            call()
        except (ValueError, TypeError, RuntimeError) as error:
            print(type(error).__name__, str(error)[:120])
""",
    "odd tensors": """
class Named(torch.Tensor):
    pass

odd = [
    x.as_subclass(Named),
    torch.nn.Parameter(x),
    x.to_sparse(),
    x.to_mkldnn() if torch.backends.mkldnn.is_available() else x,
    torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    torch.nested.nested_tensor([torch.zeros(1, 16, 16), torch.zeros(1, 8, 8)]),
    x.bfloat16(),
    x.half(),
    torch.empty(2, 1, 16, 16, device="meta"),
]
with torch._subclasses.fake_tensor.FakeTensorMode() as mode:
    odd.append(torch.empty(2, 1, 16, 16))
for tensor in odd:
    for call in (
        lambda: model(tensor, t),
        lambda: rd.denormalize_to_01(tensor),
        lambda: rd.predict_x0_from_eps(x, tensor, t, alpha_bars),
        lambda: rd.train(model, tensor, betas=betas, epochs=1, progress=False),
        lambda: rd.ddim_sample(lambda *_: tensor, 2, (1, 16, 16), alpha_bars, "cpu", 2, progress=False),
    ):
        try:
            call()
        except Exception as error:  # a panic is none: it derives from BaseException
            print(type(error).__name__, str(error)[:120])
""",
    "a graph that outlives its model": """
leaf = x.clone().requires_grad_()
out = model(leaf, t).square().sum()
del model
gc.collect()
out.backward()
assert leaf.grad.abs().sum() > 0
""",
    "backward from many threads": """
def work(seed):
    twin = copy.deepcopy(model).train()
    for _ in range(5):
        twin(x, t).square().sum().backward()

threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
    "backward inside a hook, inside backward": """
def hook(grad):
    with torch.enable_grad():
        inner = x.clone().requires_grad_()
        model(inner, t).sum().backward()
    return grad

leaf = x.clone().requires_grad_()
out = model(leaf, t)
out.register_hook(hook)
out.sum().backward()
""",
    "training inside a training callback": """
def again(info):
    inner = rd.DiffusionUNet(**TINY)
    rd.train(inner, slices(2), betas=betas, epochs=1, device="cpu", progress=False)
    rd.ddim_sample(info.ema.shadow, 1, (1, 16, 16), alpha_bars, "cpu", 2, progress=False)

rd.train(model, slices(4), betas=betas, epochs=2, device="cpu", progress=False, callback=again)
""",
    "a child made by fork": """
model(x, t)
child = os.fork()
if child == 0:
    with torch.no_grad():
        torch.set_num_threads(1)
        os._exit(0 if torch.isfinite(model(x, t)).all() else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
""",
    "a strict warning filter": """
import warnings
warnings.simplefilter("error")
model(x, t).sum().backward()
rd.ddim_sample(model, 1, (1, 16, 16), alpha_bars, "cpu", 2, progress=False)
rd.train(
    model, slices(4), betas=betas, epochs=1, ema_decay=0.01, objective="v", device="cpu", progress=False
)
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_the_process_survives(program):
    done = run_python("-c", PREAMBLE + program, timeout=180)
    assert done.returncode == 0, done.report
