"""Dropout: off in eval mode, drawn from torch's generator, with the course's statistics."""

import pytest
import torch

from tools import TINY

WITH_DROPOUT = {**TINY, "dropout": 0.3}


@pytest.fixture
def model(rd):
    return rd.DiffusionUNet(**WITH_DROPOUT)


def batch(n=8):
    return torch.randn(n, 1, 16, 16), torch.arange(n) * 40


def test_eval_mode_drops_nothing(rd, oracle, model):
    x, t = batch()
    model.eval()
    assert torch.equal(model(x, t), model(x, t))
    undropped = rd.DiffusionUNet(**TINY).train()
    undropped.load_state_dict(model.state_dict())
    assert torch.allclose(model(x, t), undropped(x, t), atol=1e-6)


def test_train_mode_draws_from_torchs_generator(model):
    x, t = batch()
    torch.manual_seed(11)
    first = model(x, t)
    assert not torch.equal(model(x, t), first), "two passes had the same masks"
    torch.manual_seed(11)
    assert torch.equal(model(x, t), first), "the seed did not bring the masks back"


def test_the_gradient_belongs_to_the_masks_of_its_forward(model):
    """Directional derivative with the same masks, by finite differences in float64."""
    model = model.double()
    x, t = batch(2)
    x, direction = x.double(), torch.randn(2, 1, 16, 16, dtype=torch.float64)

    def loss(x):
        torch.manual_seed(4)
        return model(x, t).square().sum()

    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    step = 1e-6
    with torch.no_grad():
        slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert torch.isclose((leaf.grad * direction).sum(), slope, rtol=1e-5)


def test_the_rate_of_the_dropout_modules_is_what_counts(model):
    """Changing p on the submodules, as users do to switch dropout off or up, takes effect."""
    x, t = batch()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert torch.equal(model(x, t), model(x, t))


def test_dropout_can_stay_on_in_eval_mode(model):
    """As for Monte Carlo estimates of uncertainty: the modules' own mode counts, not the model's."""
    x, t = batch()
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.train()
    assert not torch.equal(model(x, t), model(x, t))


def test_several_rates_in_one_model_are_refused(model):
    model.mid_block1.dropout.p = 0.5
    with pytest.raises(ValueError, match=r"several rates, \[0.3, 0.5\]"):
        model(*batch())


def test_outputs_scatter_as_the_courses_do(oracle, model):
    theirs = oracle.DiffusionUNet(**WITH_DROPOUT)
    theirs.load_state_dict(model.state_dict())
    x, t = batch(1)
    passes = 1000

    def draws(network):
        with torch.no_grad():
            return network(x.expand(passes, -1, -1, -1), t.expand(passes)).double()

    ours, theirs = draws(model), draws(theirs)
    spread = theirs.std(0)
    assert (spread > 1e-4).all()
    # Means of 1000 draws differ by less than six standard errors, spreads by less than 20 percent.
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 6 * spread * (2 / passes) ** 0.5).all()
    assert ((ours.std(0) / spread).log().abs() < 0.2).all()
