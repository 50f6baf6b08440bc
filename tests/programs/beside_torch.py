"""The package beside the torch at hand: beside_torch.py. One row of a table.

The denoiser, one epoch of training and both samplers, each held against the course's in plain PyTorch on the same
torch, and what their bits amount to: beside which torches they are the same.
"""

import hashlib
import sys

import torch

import oracle
import rust_diffusion as rd
from rust_diffusion import _native
from tools import TINY, flat, max_error, slices

BETAS = rd.cosine_beta_schedule(40)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)
HEADS = [
    "torch",
    "linked with",
    "forward",
    "epoch",
    "DDIM",
    "DDPM",
    "forward's bits",
    "epoch's bits",
    "samples' bits",
]
#: Of the largest value; float32 on both sides.
WITHIN = 1e-3


def digest(tensor):
    return hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:8]


def networks():
    torch.manual_seed(3)
    ours, course = rd.DiffusionUNet(**TINY), oracle.DiffusionUNet(**TINY)
    course.load_state_dict(ours.state_dict())
    return ours.eval(), course.eval()


def forward():
    ours, course = networks()
    x_t, t = slices(4, 16), torch.tensor([0, 7, 20, 39])
    with torch.no_grad():
        got, expected = ours(x_t, t), course(x_t, t)
    return max_error(got, expected), digest(got)


def epoch():
    """The weights after an epoch of four batches, from the same random numbers."""
    ours, course = networks()
    batches = list(slices(16, 16).split(4))
    torch.manual_seed(5)
    fixed = dict(betas=BETAS, epochs=1, ema_decay=0.3, device="cpu", precision="fp32", progress=False)
    rd.train(ours, batches, weights_dir=None, **fixed)
    torch.manual_seed(5)
    oracle.course_loop(course, batches, BETAS, epochs=1, ema=oracle.EMA(course))
    got, expected = flat(ours.parameters()), flat(course.parameters())
    return max_error(got, expected), digest(got.float())


def sampled(which):
    ours, course = networks()
    images = []
    for package, model in ((rd, ours), (oracle, course)):
        torch.manual_seed(7)
        if which == "ddim":
            images.append(package.ddim_sample(model, 3, (1, 16, 16), ALPHA_BARS, "cpu", sample_steps=10))
        else:
            images.append(package.ddpm_sample(model, 3, (1, 16, 16), BETAS, 1 - BETAS, ALPHA_BARS, "cpu"))
    return max_error(*images), digest(images[0])


if __name__ == "__main__":
    errors, bits = zip(forward(), epoch(), sampled("ddim"), sampled("ddpm"), strict=True)
    if "--bare" not in sys.argv:
        print(f"| {' | '.join(HEADS)} |\n{'|---' * len(HEADS)}|")
    figures = [f"{error:.1e}" for error in errors]
    row = [torch.__version__, _native.LINKED_TORCH, *figures, *bits[:2], f"{bits[2]} {bits[3]}"]
    print(f"| {' | '.join(row)} |")
    if _native.LINKED_TORCH.split(".")[:2] != torch.__version__.split(".")[:2]:
        sys.exit("the library is linked with another torch")
    if max(errors) > WITHIN:
        sys.exit(f"further than {WITHIN} from plain PyTorch")
