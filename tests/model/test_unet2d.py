"""Networks of diffusers' `UNet2DModel` family, judged by diffusers itself, which is plain PyTorch."""

import pytest
import torch

from tools import TINY_UNET2D as TINY
from tools import UNLIKE_THE_COURSE, flat, max_error, relative_l2

diffusers = pytest.importorskip("diffusers")

CIFAR10 = dict(
    sample_size=32,
    block_out_channels=(128, 256, 256, 256),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=None,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
)
CELEBAHQ = {
    **CIFAR10,
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}
# configuration, shape of x
CASES = {
    "tiny": (TINY, (2, 3, 16, 24)),
    "unlike the course": (UNLIKE_THE_COURSE, (2, 3, 16, 16)),
    "zeros after only": ({**TINY, "downsample_padding": 0}, (1, 3, 24, 16)),
    "scale and shift": ({**TINY, "resnet_time_scale_shift": "scale_shift"}, (3, 3, 16, 16)),
    "cosines first, shifted": ({**TINY, "freq_shift": 1}, (2, 3, 16, 16)),
    "two blocks a level, narrow heads": (
        {**TINY, "layers_per_block": 2, "attention_head_dim": 4},
        (2, 3, 16, 16),
    ),
    "heads wider than a level without attention": (
        {
            **TINY,
            "block_out_channels": (32, 64, 128),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 64,
        },
        (2, 3, 16, 16),
    ),
    "one channel in, two out": ({**TINY, "in_channels": 1, "out_channels": 2}, (2, 1, 16, 16)),
    "one level, odd sides": (
        {
            **TINY,
            "block_out_channels": (32,),
            "down_block_types": ("AttnDownBlock2D",),
            "up_block_types": ("UpBlock2D",),
        },
        (2, 3, 9, 7),
    ),
    "cifar10": (CIFAR10, (1, 3, 32, 32)),
    "cifar10, 32 heads": ({**CIFAR10, "attention_head_dim": 8}, (1, 3, 16, 16)),
    "celebahq, a small picture": (CELEBAHQ, (1, 3, 32, 64)),
}
SMALL = {name: case for name, case in CASES.items() if "cifar" not in name and "celeba" not in name}


def pair(rd, configuration):
    """Ours and diffusers' with the same weights, none of them special (norms and biases start so)."""
    torch.manual_seed(1)
    theirs = diffusers.UNet2DModel(**configuration)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.05 * torch.randn_like(weight) * weight.abs().mean().clamp(0.02, 1))
    ours = rd.UNet2DModel(**configuration)
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


def gradients(predict, model, x, t, weight):
    """(output, gradient to x, [gradient to each parameter]) of the loss <weight, output>."""
    x = x.detach().clone().requires_grad_()
    out = predict(x, t)
    grads = torch.autograd.grad((out * weight).sum(), [x, *model.parameters()])
    return out, grads[0], grads[1:]


def inputs(configuration, shape):
    x = torch.randn(shape)
    channels = configuration.get("out_channels", 3)
    return x, torch.randint(0, 1000, shape[:1]), torch.randn(shape[0], channels, *shape[2:])


@pytest.mark.parametrize("configuration, shape", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_are_diffusers(rd, configuration, shape):
    ours, theirs = pair(rd, configuration)
    x, t, weight = inputs(configuration, shape)
    out, to_x, to_weights = gradients(ours, ours, x, t, weight)
    expected, expected_to_x, expected_to_weights = gradients(
        lambda x, t: theirs(x, t).sample, theirs, x, t, weight
    )
    assert max_error(out, expected) <= 1e-5
    assert relative_l2(to_x, expected_to_x) <= 1e-4
    assert relative_l2(flat(to_weights), flat(expected_to_weights)) <= 1e-4
    with torch.no_grad():
        assert max_error(ours(x, t), expected) <= 1e-5


@pytest.mark.parametrize("configuration, shape", SMALL.values(), ids=SMALL.keys())
def test_libtorchs_operations_give_the_same_in_float64(rd, configuration, shape):
    ours, theirs = pair(rd, configuration)
    ours, theirs = ours.double(), theirs.double()
    x, t, weight = inputs(configuration, shape)
    x, weight = x.double(), weight.double()
    out, to_x, to_weights = gradients(ours, ours, x, t, weight)
    expected, expected_to_x, expected_to_weights = gradients(
        lambda x, t: theirs(x, t).sample, theirs, x, t, weight
    )
    # diffusers casts the sinusoids, which are float32, as we do
    assert max_error(out, expected) <= 1e-12
    assert relative_l2(to_x, expected_to_x) <= 1e-12
    assert relative_l2(flat(to_weights), flat(expected_to_weights)) <= 1e-12


@pytest.mark.parametrize("configuration", [TINY, UNLIKE_THE_COURSE], ids=["tiny", "unlike"])
def test_tree_keys_and_initial_weights_are_diffusers(rd, configuration):
    torch.manual_seed(3)
    theirs = diffusers.UNet2DModel(**configuration)
    torch.manual_seed(3)
    ours = rd.UNet2DModel(**configuration)
    assert str(ours) == str(theirs)
    found, expected = ours.state_dict(), theirs.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_under_dropout_the_gradient_is_that_of_the_masks_drawn(rd):
    # The masks are not diffusers' own: there, attention leaves its output with channels last, and what follows draws in
    # that order.
    ours, _ = pair(rd, {**UNLIKE_THE_COURSE, "dropout": 0.3})
    ours.train()
    x, t, weight = inputs(TINY, (2, 3, 16, 16))

    def loss(x):
        torch.manual_seed(5)
        return (ours(x, t) * weight).sum()

    (to_x,) = torch.autograd.grad(loss(x.requires_grad_()), x)
    step = 1e-2 * to_x / to_x.norm()
    with torch.no_grad():
        slope = (loss(x + step) - loss(x - step)) / 2
        assert not torch.equal(loss(x), (ours.eval()(x, t) * weight).sum())
    assert slope.item() == pytest.approx((to_x * step).sum().item(), rel=2e-2)


def test_bfloat16_is_as_near_as_its_rounding(rd):
    ours, theirs = pair(rd, UNLIKE_THE_COURSE)
    x, t, _ = inputs(TINY, (2, 3, 16, 16))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = ours(x, t)
    with torch.no_grad():
        assert max_error(out.float(), theirs(x, t).sample) <= 3e-2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(down_block_types=("DownBlock2D", "AttnSkipDownBlock2D")), "AttnSkipDownBlock2D"),
        (dict(class_embed_type="timestep"), "class_embed_type"),
        (dict(act_fn="gelu"), "act_fn"),
        (dict(time_embedding_type="fourier"), "time_embedding_type"),
        (dict(norm_num_groups=7), "norm_num_groups must divide"),
        (dict(attention_head_dim=5), "attention_head_dim must divide"),
        (
            dict(attention_head_dim=64, up_block_types=("AttnUpBlock2D", "AttnUpBlock2D")),
            "attention_head_dim must divide .* got 64 and 32",
        ),
        (dict(down_block_types=("DownBlock2D",)), "down_block_types must have 2 entries"),
        (dict(downsample_padding=2), "downsample_padding must be 0 or 1"),
        (dict(block_out_channels=(0, 64)), "block_out_channels"),
    ],
)
def test_what_the_engine_has_not_is_refused_by_name(rd, arguments, words):
    with pytest.raises(ValueError, match=words):
        rd.UNet2DModel(**{**TINY, **arguments})


@pytest.mark.parametrize("kinds", [None, 5, "DownBlock2D"])
def test_blocks_that_are_no_sequence_are_refused_by_name(rd, kinds):
    with pytest.raises(TypeError, match=f"down_block_types must be a sequence of names, got {kinds!r}"):
        rd.UNet2DModel(**{**TINY, "down_block_types": kinds})
