"""How training draws its times: against loops by hand, and as a setting that a run keeps."""

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


def by_hand(model, batches, epochs, question):
    """Mean loss of each epoch; ``question(x0)`` draws x_t, what the network is shown as time, and the target."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LOOP["learning_rate"], weight_decay=1e-4)
    torch.manual_seed(LOOP["seed"])
    history = []
    for _ in range(epochs):
        losses = []
        for x0 in batches:
            x_t, t, target = question(x0)
            loss = F.mse_loss(model(x_t, t), target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
        history.append(sum(losses) / len(losses))
    return history


def straight(times):
    """Rectified flow, as its papers have it."""

    def question(x0):
        s = times(len(x0))
        noise = torch.randn_like(x0)
        share = s.reshape(-1, 1, 1, 1)
        return (1 - share) * x0 + share * noise, 1000 * s, noise - x0

    return question


def log_normal(n):
    """s = sigma / (1 + sigma), with ln(sigma) as Karras et al. 2022 draw it."""
    sigma = (torch.randn(n) * 1.2 - 1.2).exp()
    return sigma / (1 + sigma)


def nearest_timestep(betas, shares_drawn):
    """ "v" at the timestep whose share of noise is nearest to one that is drawn."""
    alpha_bars = torch.cumprod(1 - betas.double(), 0)
    signal, spread = alpha_bars.sqrt(), (1 - alpha_bars).sqrt()
    shares = spread / (signal + spread)

    def question(x0):
        s = shares_drawn(len(x0)).double()
        t = (shares - s[:, None]).abs().argmin(1)
        noise = torch.randn_like(x0)
        a, b = (column[t].float().reshape(-1, 1, 1, 1) for column in (signal, spread))
        return a * x0 + b * noise, t, a * noise - b * x0

    return question


DRAWN = {"logit_normal": lambda n: torch.randn(n).sigmoid(), "log_normal": log_normal}


@pytest.mark.parametrize("how, times", [("uniform", torch.rand), *DRAWN.items()])
def test_times_are_drawn_as_their_papers_say(rd, oracle, how, times):
    batches = list(slices(8).split(4))
    expected = by_hand(network(oracle), batches, 3, straight(times))
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


def test_a_run_goes_on_with_its_own_weighting_and_no_other(rd, oracle, tmp_path):
    """Losses of another weighting would never beat the best one, and the weights never be written again."""
    options = dict(LOOP, objective="eps", betas=oracle.cosine_beta_schedule(20), batch_size=4)

    def run(gamma, epochs):
        return rd.train(
            network(rd), slices(8), epochs=epochs, min_snr_gamma=gamma, weights_dir=tmp_path, **options
        )

    run(5.0, 1)
    with pytest.raises(ValueError, match=r"min_snr_gamma is None, but .* was trained with 5.0"):
        run(None, 2)
    assert len(run(5.0, 2).history) == 2


@pytest.mark.parametrize("how, times", DRAWN.items())
def test_timesteps_are_those_with_as_much_noise(rd, oracle, how, times):
    batches = list(slices(8).split(4))
    betas = oracle.cosine_beta_schedule(20)
    expected = by_hand(network(oracle), batches, 3, nearest_timestep(betas, times))
    options = dict(LOOP, objective="v", betas=betas, epochs=3, time_sampling=how)
    assert rd.train(network(rd), batches, **options).history == pytest.approx(expected, rel=2e-4)


def test_another_way_is_refused_by_name(rd, oracle):
    ways = "'uniform', 'logit_normal', 'log_normal'"
    with pytest.raises(ValueError, match=f"time_sampling must be one of {ways}, got 'beta'"):
        rd.train(
            network(rd),
            slices(4),
            betas=oracle.cosine_beta_schedule(20),
            objective="flow",
            time_sampling="beta",
        )
