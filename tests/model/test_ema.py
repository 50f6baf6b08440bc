"""The exponential moving average of the weights."""

import copy
import pickle

import pytest
import torch

from tools import TINY, flat, max_error, relative_l2, same_state


@pytest.fixture
def model(rd):
    return rd.DiffusionUNet(**TINY).train()


def jolt(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))


def test_the_shadow_starts_as_a_copy_at_rest(rd, model):
    ema = rd.EMA(model, decay=0.99)
    assert ema.decay == 0.99
    assert isinstance(ema.shadow, type(model)) and ema.shadow is not model
    assert not ema.shadow.training and not any(module.training for module in ema.shadow.modules())
    assert not any(p.requires_grad for p in ema.shadow.parameters())
    assert same_state(ema.shadow.state_dict(), model.state_dict())
    assert model.training and all(p.requires_grad for p in model.parameters()), "the model itself was changed"
    jolt(model)
    assert not same_state(ema.shadow.state_dict(), model.state_dict())


def test_the_default_decay_is_the_contracts(rd, model):
    assert rd.EMA(model).decay == 0.9999


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9995, 1.0])
def test_updates_follow_the_courses_rule(rd, oracle, model, decay):
    ours, theirs = rd.EMA(model, decay=decay), oracle.EMA(model, decay=decay)
    exact = [p.detach().double().clone() for p in model.parameters()]
    for _ in range(20):
        jolt(model)
        before = copy.deepcopy(model.state_dict())
        ours.update(model), theirs.update(model)
        assert same_state(before, model.state_dict()), "the update changed the model"
        exact = [
            decay * s + (1 - decay) * p.detach().double()
            for s, p in zip(exact, model.parameters(), strict=True)
        ]
    assert relative_l2(flat(ours.shadow.parameters()), flat(theirs.shadow.parameters())) <= 1e-6
    assert relative_l2(flat(ours.shadow.parameters()), flat(exact)) <= 1e-6


def test_updates_are_made_in_place_and_outside_autograd(rd, model):
    ema = rd.EMA(model, decay=0.9)
    places = [p.data_ptr() for p in ema.shadow.parameters()]
    jolt(model)
    ema.update(model)
    assert places == [p.data_ptr() for p in ema.shadow.parameters()]
    assert all(p.grad_fn is None and not p.requires_grad for p in ema.shadow.parameters())


def test_the_shadow_denoises_without_gradients(rd, model):
    ema = rd.EMA(model)
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([0, 9])
    assert max_error(ema.shadow(x, t), model.eval()(x, t)) <= 1e-5
    assert not ema.shadow(x, t).requires_grad


def test_state_travels_both_ways(rd, oracle, model):
    ours, theirs = rd.EMA(model, decay=0.9), oracle.EMA(oracle.DiffusionUNet(**TINY), decay=0.5)
    jolt(model)
    ours.update(model)
    state = ours.state_dict()
    assert list(state) == ["decay", "shadow"] and state["decay"] == 0.9
    assert same_state(state["shadow"], ours.shadow.state_dict())
    theirs.load_state_dict(state)
    assert theirs.decay == 0.9 and same_state(theirs.shadow.state_dict(), ours.shadow.state_dict())
    fresh = rd.EMA(rd.DiffusionUNet(**TINY), decay=0.1)
    fresh.load_state_dict(theirs.state_dict())
    assert fresh.decay == 0.9 and same_state(fresh.shadow.state_dict(), ours.shadow.state_dict())
    assert not any(p.requires_grad for p in fresh.shadow.parameters())


def test_a_state_on_disk_loads_with_weights_only(rd, model, tmp_path):
    ema = rd.EMA(model, decay=0.9)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    other = rd.EMA(rd.DiffusionUNet(**TINY))
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    assert same_state(other.shadow.state_dict(), model.state_dict())


def test_copies_are_independent(rd, model):
    ema = rd.EMA(model, decay=0.5)
    for twin in (copy.deepcopy(ema), pickle.loads(pickle.dumps(ema))):
        jolt(model)
        twin.update(model)
        assert twin.decay == 0.5 and not same_state(twin.shadow.state_dict(), ema.shadow.state_dict())


def test_a_model_of_plain_pytorch_can_be_averaged(rd, oracle):
    """The course's module in our EMA: half of a migrated notebook."""
    theirs = oracle.DiffusionUNet(**TINY)
    ema, judge = rd.EMA(theirs, decay=0.8), oracle.EMA(theirs, decay=0.8)
    jolt(theirs)
    ema.update(theirs), judge.update(theirs)
    assert relative_l2(flat(ema.shadow.parameters()), flat(judge.shadow.parameters())) <= 1e-6


def test_float64_weights_are_averaged_in_float64(rd, oracle, model):
    model = model.double()
    ours, theirs = rd.EMA(model, decay=0.9), oracle.EMA(model, decay=0.9)
    jolt(model)
    ours.update(model), theirs.update(model)
    assert relative_l2(flat(ours.shadow.parameters()), flat(theirs.shadow.parameters())) <= 1e-14
