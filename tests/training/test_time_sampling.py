"""How "flow" draws its times: against a loop by hand, and as a setting that a run keeps."""

import pytest
import torch
import torch.nn.functional as F

from tools import TINY, slices

LOOP = dict(
    seed=5,
    objective="flow",
    learning_rate=1e-3,
    lr_schedule="constant",
    ema_decay=0.1,
    device="cpu",
    precision="fp32",
    progress=False,
)


def network(module):
    torch.manual_seed(2)
    return module.DiffusionUNet(**TINY)


def by_hand(model, batches, epochs, times):
    """Mean loss of each epoch of rectified flow, as its papers have it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LOOP["learning_rate"], weight_decay=1e-4)
    torch.manual_seed(LOOP["seed"])
    history = []
    for _ in range(epochs):
        losses = []
        for x0 in batches:
            s = times(len(x0))
            noise = torch.randn_like(x0)
            share = s.reshape(-1, 1, 1, 1)
            loss = F.mse_loss(model((1 - share) * x0 + share * noise, 1000 * s), noise - x0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    return history


@pytest.mark.parametrize(
    "how, times", [("uniform", torch.rand), ("logit_normal", lambda n: torch.randn(n).sigmoid())]
)
def test_times_are_drawn_as_their_papers_say(rd, oracle, how, times):
    batches = list(slices(8).split(4))
    expected = by_hand(network(oracle), batches, 3, times)
    betas = oracle.cosine_beta_schedule(20)
    result = rd.train(network(rd), batches, betas=betas, epochs=3, time_sampling=how, **LOOP)
    assert result.history == pytest.approx(expected, rel=2e-4)
    if how == "uniform":
        again = rd.train(network(rd), batches, betas=betas, epochs=3, **LOOP)
        assert again.history == result.history, "uniform is the default"


def test_a_run_goes_on_with_its_own_way_and_no_other(rd, oracle, tmp_path):
    data, betas = slices(8), oracle.cosine_beta_schedule(20)

    def run(how, epochs, folder=tmp_path / "run"):
        options = dict(betas=betas, batch_size=4, time_sampling=how, **LOOP)
        return rd.train(network(rd), data, epochs=epochs, weights_dir=folder, **options)

    run("logit_normal", 1)
    with pytest.raises(ValueError, match=r"time_sampling is 'uniform', but .* with 'logit_normal'"):
        run("uniform", 2)
    whole = run("logit_normal", 2, tmp_path / "whole")
    assert run("logit_normal", 2).history == whole.history


def test_it_is_for_flow_only_and_named(rd, oracle):
    betas = oracle.cosine_beta_schedule(20)
    with pytest.raises(ValueError, match=r"time_sampling 'logit_normal' is for objective 'flow'; for 'eps'"):
        rd.train(network(rd), slices(4), betas=betas, time_sampling="logit_normal")
    with pytest.raises(
        ValueError, match=r"time_sampling must be one of 'uniform', 'logit_normal', got 'beta'"
    ):
        rd.train(network(rd), slices(4), betas=betas, objective="flow", time_sampling="beta")
