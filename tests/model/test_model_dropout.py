"""Dropout: off in eval mode, otherwise the masks that torch's own dropout draws."""

import copy

import pytest
import torch

from tools import TINY, flat, relative_l2

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


def test_a_part_in_eval_mode_is_refused_in_words_that_say_so(model):
    model.mid_block1.eval()
    with pytest.raises(ValueError, match=r"several rates, \[0.0, 0.3\].*eval\(\) on the whole model"):
        model(*batch())


@pytest.mark.parametrize(
    "p, error", [(-0.1, ValueError), (1.5, ValueError), (float("nan"), ValueError), ("x", TypeError)]
)
def test_a_wrong_rate_set_on_a_module_is_refused(model, p, error):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = p
    with pytest.raises(error, match="p of a Dropout module"):
        model(*batch())


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.5, 0.97])
@pytest.mark.parametrize("images, height, width", [(1, 2, 2), (3, 6, 10), (5, 16, 16)])
def test_masks_and_draws_are_those_of_torchs_dropout(rd, oracle, p, images, height, width):
    ours, theirs = (module.DiffusionUNet(**{**TINY, "dropout": p}) for module in (rd, oracle))
    theirs.load_state_dict(ours.state_dict())
    x, t = torch.randn(images, 1, height, width), torch.arange(images) * 40

    def two_passes(network):
        network.zero_grad()
        torch.manual_seed(11)
        torch.rand(7)  # the generator need not stand at a beginning
        first, second = network(x, t), network(x, t)
        (first * second).mean().backward()
        return (first, second, flat(p.grad for p in network.parameters())), torch.get_rng_state()

    (ours, ours_next), (theirs, theirs_next) = two_passes(ours), two_passes(theirs)
    for got, expected in zip(ours, theirs, strict=True):
        assert relative_l2(got, expected) <= 1e-4
    assert torch.equal(ours_next, theirs_next)


def test_without_gradients_a_large_batch_has_the_masks_of_one_batch(rd, oracle):
    """More images than the engine predicts at a time otherwise."""
    ours, theirs = (module.DiffusionUNet(**WITH_DROPOUT) for module in (rd, oracle))
    theirs.load_state_dict(ours.state_dict())
    x, t = torch.randn(9, 1, 64, 64), torch.arange(9) * 40
    outputs = []
    for network in (ours, theirs):
        torch.manual_seed(5)
        with torch.no_grad():
            outputs.append(network(x, t))
    assert torch.allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_a_model_of_float64_has_the_same_masks(model):
    x, t = batch(2)
    outputs = []
    for network, dtype in ((model, torch.float32), (copy.deepcopy(model).double(), torch.float64)):
        torch.manual_seed(3)
        outputs.append(network(x.to(dtype), t).float())
    assert torch.allclose(*outputs, rtol=1e-4, atol=1e-5)
