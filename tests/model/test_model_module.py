"""The denoiser behaves as any torch.nn.Module: copies, files, moves, hooks, functional calls."""

import copy
import io
import pickle
import threading
import warnings

import pytest
import torch

from tools import TINY, max_error, relative_l2, same_state


@pytest.fixture
def model(rd):
    return rd.DiffusionUNet(**TINY).eval()


@pytest.fixture
def batch():
    return torch.randn(2, 1, 16, 16), torch.tensor([3, 300])


def test_weights_load_both_ways(rd, oracle, batch):
    ours, theirs = rd.DiffusionUNet(**TINY).eval(), oracle.DiffusionUNet(**TINY).eval()
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    assert max_error(ours(*batch), theirs(*batch)) <= 1e-5
    other = oracle.DiffusionUNet(**TINY).eval()
    other.load_state_dict(ours.state_dict())
    assert same_state(other.state_dict(), theirs.state_dict())


def test_a_saved_state_dict_loads_with_weights_only(rd, model, batch, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    other = rd.DiffusionUNet(**TINY).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert torch.equal(other(*batch), model(*batch))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda state: state.pop("mid_attn.attn.in_proj_weight"),
            r"Missing key.*mid_attn\.attn\.in_proj_weight",
        ),
        (lambda state: state.update(extra=torch.zeros(1)), r"Unexpected key.*extra"),
        (
            lambda state: state.update({"init.weight": torch.zeros(8, 1, 3, 3)}),
            r"size mismatch for init\.weight",
        ),
    ],
    ids=["missing", "unexpected", "shape"],
)
def test_a_mismatch_of_weights_is_named(rd, model, spoil, message):
    state = dict(model.state_dict())
    spoil(state)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        rd.DiffusionUNet(**TINY).load_state_dict(state)


def test_loading_with_strict_false_reports_what_differs(rd, model):
    state = dict(model.state_dict())
    del state["out_conv.bias"]
    result = rd.DiffusionUNet(**TINY).load_state_dict(state, strict=False)
    assert result.missing_keys == ["out_conv.bias"] and result.unexpected_keys == []


def test_loaded_and_assigned_weights_take_effect(rd, oracle, batch):
    ours, theirs = rd.DiffusionUNet(**TINY).eval(), oracle.DiffusionUNet(**TINY).eval()
    ours(*batch)  # whatever is remembered between calls must not outlive the change
    ours.load_state_dict(theirs.state_dict(), assign=True)
    assert max_error(ours(*batch), theirs(*batch)) <= 1e-5
    for network in (ours, theirs):
        with torch.no_grad():
            network.out_conv.weight.mul_(2)
            network.init.weight.data = network.init.weight.data * 0.5
            network.mid_block1.conv1.bias = torch.nn.Parameter(torch.ones_like(network.mid_block1.conv1.bias))
    assert max_error(ours(*batch), theirs(*batch)) <= 1e-5


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_is_equal_and_independent(rd, model, batch, duplicate):
    before = model(*batch)
    twin = duplicate(model)
    assert type(twin) is type(model) and not twin.training and repr(twin) == repr(model)
    assert torch.equal(twin(*batch), before)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert torch.equal(model(*batch), before)
    assert twin(*batch).abs().max() == 0


def test_a_whole_module_survives_torch_save(model, batch):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(*batch), model(*batch))


def test_modes_and_gradient_switches_return_the_module(model):
    assert model.train() is model and model.training and model.mid_block1.dropout.training
    assert model.eval() is model and not model.mid_block1.dropout.training
    assert model.requires_grad_(False) is model
    assert not any(p.requires_grad for p in model.parameters())


def test_to_moves_every_weight(model, batch):
    assert model.to(torch.float64) is model
    assert all(p.dtype == torch.float64 for p in model.parameters())
    assert model(batch[0].double(), batch[1]).dtype == torch.float64
    assert model.to("cpu", torch.float32)(*batch).dtype == torch.float32
    assert all(p.device.type == "meta" for p in copy.deepcopy(model).to("meta").parameters())


def test_guidance_gets_the_gradient_of_the_input_with_frozen_weights(oracle, model, batch):
    theirs = oracle.DiffusionUNet(**TINY).eval()
    theirs.load_state_dict(model.state_dict())
    grads = []
    for network in (model.requires_grad_(False), theirs.requires_grad_(False)):
        x = batch[0].clone().requires_grad_()
        network(x, batch[1]).square().sum().backward()
        grads.append(x.grad)
        assert all(p.grad is None for p in network.parameters())
    assert relative_l2(*grads) <= 1e-4


def test_partly_frozen_weights_get_no_gradient(oracle, model, batch):
    theirs = oracle.DiffusionUNet(**TINY).eval()
    theirs.load_state_dict(model.state_dict())
    for network in (model, theirs):
        network.requires_grad_(False)
        network.mid_attn.requires_grad_(True)
        network.out_conv.bias.requires_grad_(True)
        network(*batch).square().sum().backward()
    for (name, ours), expected in zip(model.named_parameters(), theirs.parameters(), strict=True):
        assert (ours.grad is None) == (expected.grad is None), name
        if ours.grad is not None:
            assert relative_l2(ours.grad, expected.grad) <= 1e-4, name


def test_gradients_accumulate_over_backward_calls(model, batch):
    model(*batch).sum().backward()
    first = {name: p.grad.clone() for name, p in model.named_parameters()}
    model(*batch).sum().backward()
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, 2 * first[name], rtol=1e-5, atol=1e-6), name


def test_a_graph_is_walked_twice_only_when_retained(model, batch):
    out = model(*batch).sum()
    out.backward(retain_graph=True)
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_weights_changed_before_backward_are_noticed(model, batch):
    """Torch's version counters hold: a gradient computed with other weights would be silently wrong."""
    out = model(*batch).square().sum()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_a_second_derivative_is_the_courses(oracle, model, batch):
    theirs = oracle.DiffusionUNet(**TINY).eval()
    theirs.load_state_dict(model.state_dict())
    products = []
    for network in (model, theirs):
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(network(x, batch[1]).square().sum(), x, create_graph=True)
        products.append(torch.autograd.grad(slope.square().sum(), x)[0])
    assert relative_l2(*products) <= 1e-3


def test_hooks_on_the_module_are_called(model, batch):
    seen = []
    handles = [
        model.register_forward_pre_hook(lambda module, args: seen.append(("before", args[0].shape))),
        model.register_forward_hook(lambda module, args, out: seen.append(("after", out.shape)) or out + 1),
        model.register_full_backward_hook(
            lambda module, into, outof: seen.append(("backward", outof[0].shape))
        ),
    ]
    out = model(*batch)
    out.sum().backward()
    assert seen == [(when, batch[0].shape) for when in ("before", "after", "backward")]
    for handle in handles:
        handle.remove()
    assert torch.allclose(model(*batch) + 1, out)


def test_hooks_on_parameters_see_their_gradient(model, batch):
    seen = []
    model.init.weight.register_hook(lambda grad: seen.append(grad.shape))
    model(*batch).sum().backward()
    assert seen == [model.init.weight.shape]


def test_functional_call_uses_the_weights_it_is_given(oracle, model, batch):
    theirs = oracle.DiffusionUNet(**TINY).eval()
    weights = dict(theirs.named_parameters())
    out = torch.func.functional_call(model, weights, batch)
    assert max_error(out, theirs(*batch)) <= 1e-5
    out.sum().backward()
    assert all(p.grad is not None for p in weights.values())
    assert all(p.grad is None for p in model.parameters())


def test_a_checkpointed_forward_has_the_same_gradient(model, batch):
    model(*batch).square().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    out = torch.utils.checkpoint.checkpoint(model, *batch, use_reentrant=False)
    out.square().sum().backward()
    assert all(torch.allclose(p.grad, g, atol=1e-6) for p, g in zip(model.parameters(), plain, strict=True))


def test_optimizers_train_it(model, batch):
    x, t = batch
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.mse_loss(model(x, t), x)
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) > 0
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_threads_can_share_one_model(model, batch):
    with torch.no_grad():
        expected = model(*batch)
    wrong = []

    def work():
        for _ in range(10):
            with torch.no_grad():
                if not torch.equal(model(*batch), expected):
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_a_subclass_works_as_its_parent(rd, batch):
    class Scaled(rd.DiffusionUNet):
        def forward(self, x, t):
            return 2 * super().forward(x, t)

    scaled = Scaled(**TINY).eval()
    plain = rd.DiffusionUNet(**TINY).eval()
    plain.load_state_dict(scaled.state_dict())
    assert torch.equal(scaled(*batch), 2 * plain(*batch))


def test_a_replaced_submodule_is_refused_rather_than_ignored(rd):
    model = rd.DiffusionUNet(**TINY)
    model.out_act = torch.nn.ReLU()
    with pytest.raises(TypeError, match="out_act is a ReLU where the architecture has a SiLU"):
        model(torch.randn(1, 1, 16, 16), torch.tensor([3]))


def test_hooks_on_submodules_are_said_once_not_to_be_called(rd):
    model = rd.DiffusionUNet(**TINY)
    model.mid_attn.register_forward_hook(lambda *_: None)
    x, t = torch.randn(1, 1, 16, 16), torch.tensor([3])
    with pytest.warns(UserWarning, match="hooks on submodules"):
        model(x, t)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x, t)
