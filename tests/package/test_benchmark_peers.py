"""The peers that the benchmark times do the work that this package does."""

import pytest
import torch

import rust_diffusion as rd
from benchmarks.peers.loops import drawn

NETWORK = {"base_ch": 8, "channel_mults": (1, 2), "time_dim": 16, "attn_levels": (1,)}


@pytest.mark.parametrize("steps", [None, 1, 5, 20])
def test_the_loops_that_peers_draw_by_are_the_samplers(steps):
    torch.manual_seed(0)
    model = rd.DiffusionUNet(**NETWORK).eval()
    betas = rd.cosine_beta_schedule(20)
    shape = (2, 1, 16, 16)
    torch.manual_seed(1)
    theirs = drawn(model, shape, betas, steps)
    torch.manual_seed(1)
    x_T = torch.randn(shape)
    how = {"x_T": x_T, "progress": False}
    alpha_bars = (1 - betas).cumprod(0)
    if steps is None:
        ours = rd.ddpm_sample(model, 2, shape[1:], betas, 1 - betas, alpha_bars, "cpu", **how)
    else:
        ours = rd.ddim_sample(model, 2, shape[1:], alpha_bars, "cpu", steps, **how)
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
