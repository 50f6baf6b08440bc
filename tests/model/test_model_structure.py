"""What the denoiser is made of: names, shapes, order, initial weights and the printed tree."""

import inspect

import pytest
import torch
from torch import nn

from tools import TINY, same_state

CONFIGURATIONS = {
    "defaults": {},
    "tiny": TINY,
    "base 32, three channels": dict(in_ch=3, base_ch=32, channel_mults=(1, 2), time_dim=64, attn_levels=(0,)),
    "base 48": dict(base_ch=48, channel_mults=(1, 2), time_dim=48, attn_levels=(1,)),
    "odd time_dim": dict(base_ch=16, channel_mults=(1, 2), time_dim=33, attn_levels=(0, 1)),
    "one level": dict(base_ch=16, channel_mults=(1,), time_dim=16, attn_levels=()),
    "four levels": dict(base_ch=16, channel_mults=(1, 2, 2, 3), time_dim=16, attn_levels=(0, 1, 2, 3)),
    "narrowing": dict(base_ch=24, channel_mults=(3, 1), time_dim=20, attn_levels=(1,), num_heads=2),
    "prime width": dict(base_ch=37, channel_mults=(1, 1), time_dim=8, attn_levels=(), num_heads=1),
}


def pair(rd, oracle, configuration, seed=3):
    """The same configuration from both, after the same seed."""
    torch.manual_seed(seed)
    ours = rd.DiffusionUNet(**configuration)
    torch.manual_seed(seed)
    return ours, oracle.DiffusionUNet(**configuration)


@pytest.fixture(params=CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def both(request, rd, oracle):
    return pair(rd, oracle, request.param)


def test_the_course_configuration_has_the_known_size(rd):
    model = rd.DiffusionUNet(in_ch=1, base_ch=64, channel_mults=(1, 2, 4), time_dim=256, attn_levels=(1, 2))
    assert sum(p.numel() for p in model.parameters()) == 12_356_161
    assert len(model.state_dict()) == 198


def test_keys_shapes_and_order_are_the_courses(both):
    ours, theirs = both
    assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in theirs.state_dict().items()
    ]
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def test_initial_weights_are_equal_bit_for_bit(both):
    ours, theirs = both
    assert same_state(ours.state_dict(), theirs.state_dict())


def test_building_leaves_the_random_state_where_the_course_leaves_it(rd, oracle):
    torch.manual_seed(5)
    rd.DiffusionUNet(**TINY)
    after_ours = torch.rand(4)
    torch.manual_seed(5)
    oracle.DiffusionUNet(**TINY)
    assert torch.equal(after_ours, torch.rand(4))


def test_print_shows_the_courses_tree(both):
    ours, theirs = both
    assert repr(ours) == repr(theirs)


def test_submodules_are_registered_in_the_courses_order(rd):
    names = [name for name, _ in rd.DiffusionUNet(**TINY).named_children()]
    assert names == [
        *("init", "time_mlp", "down_blocks", "downsamples", "mid_block1", "mid_attn", "mid_block2"),
        *("up_blocks", "upsamples", "out_norm", "out_act", "out_conv"),
    ]
    block = rd.DiffusionUNet(**TINY).mid_block1
    assert [name for name, _ in block.named_children()] == [
        *("norm1", "act1", "conv1", "time_proj", "norm2", "act2", "dropout", "conv2", "skip")
    ]


def test_the_layers_are_torchs_own(rd):
    model = rd.DiffusionUNet(**TINY)
    assert isinstance(model, nn.Module)
    assert isinstance(model.init, nn.Conv2d)
    assert isinstance(model.mid_block1.dropout, nn.Dropout)
    assert isinstance(model.mid_attn.attn, nn.MultiheadAttention)
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.is_leaf for p in model.parameters())


def test_the_signature_is_the_contracts(rd):
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(rd.DiffusionUNet).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    }
    assert defaults == dict(
        in_ch=1,
        base_ch=64,
        channel_mults=(1, 2, 4),
        time_dim=256,
        dropout=0.1,
        attn_levels=(1, 2),
        num_heads=4,
    )


def test_lists_and_ranges_serve_as_tuples(rd):
    as_lists = {**TINY, "channel_mults": [1, 2], "attn_levels": [1]}
    assert list(rd.DiffusionUNet(**as_lists).state_dict()) == list(rd.DiffusionUNet(**TINY).state_dict())
    as_range = {**TINY, "attn_levels": range(2)}
    assert "down_blocks.0.2.norm.weight" in rd.DiffusionUNet(**as_range).state_dict()


def test_group_norm_takes_the_largest_divisor_up_to_32(rd):
    for width, groups in ((16, 16), (48, 24), (64, 32), (40, 20), (37, 1)):
        model = rd.DiffusionUNet(
            **{**TINY, "base_ch": width, "channel_mults": (1,), "attn_levels": (), "num_heads": 1}
        )
        assert model.mid_block1.norm1.num_groups == groups
        assert model.mid_block1.norm1.eps == 1e-5
