"""The denoiser's output and gradients against the course's, float32 on the CPU and elsewhere."""

import copy

import pytest
import torch

from tools import TINY, flat, max_error, relative_l2

# configuration, shape of x
CASES = {
    "tiny": (TINY, (2, 1, 16, 16)),
    "course, 64 x 64, batch 1": ({}, (1, 1, 64, 64)),
    "course, 16 x 16": ({}, (3, 1, 16, 16)),
    "base 32, three channels": (
        dict(in_ch=3, base_ch=32, channel_mults=(1, 2), attn_levels=(0,)),
        (2, 3, 16, 16),
    ),
    "base 48": (dict(base_ch=48, channel_mults=(1, 2), time_dim=48, attn_levels=(1,)), (2, 1, 24, 16)),
    "odd time_dim": ({**TINY, "time_dim": 33, "attn_levels": (0, 1)}, (2, 1, 16, 16)),
    "time_dim 2": ({**TINY, "time_dim": 2}, (2, 1, 16, 16)),
    "one level": ({**TINY, "channel_mults": (1,), "attn_levels": ()}, (2, 1, 17, 15)),
    "two heads": ({**TINY, "num_heads": 2}, (2, 1, 16, 16)),
    "four levels, attention at all": (
        {**TINY, "channel_mults": (1, 2, 2, 3), "attn_levels": (0, 1, 2, 3)},
        (1, 1, 32, 32),
    ),
    "no attention but the middle's": ({**TINY, "attn_levels": ()}, (2, 1, 16, 16)),
    "96 x 80": ({**TINY, "channel_mults": (1, 2, 2), "attn_levels": (2,)}, (1, 1, 96, 80)),
    "narrowing": ({**TINY, "channel_mults": (3, 1), "num_heads": 1}, (2, 1, 16, 16)),
    "prime width": ({**TINY, "base_ch": 37, "channel_mults": (1, 1), "num_heads": 1}, (2, 1, 8, 8)),
    "4 x 4": (TINY, (2, 1, 4, 4)),
    "batch 9": (TINY, (9, 1, 8, 8)),
}


def pair(rd, oracle, configuration):
    """Ours and the course's with the same weights, none of them special (norms and biases start so)."""
    torch.manual_seed(1)
    theirs = oracle.DiffusionUNet(**{"dropout": 0.0, **configuration})
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    ours = rd.DiffusionUNet(**{"dropout": 0.0, **configuration})
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def gradients(model, x, t, weight):
    """(output, gradient to x, [gradient to each parameter]) of the loss <weight, output>."""
    x = x.detach().clone().requires_grad_()
    out = model(x, t)
    grads = torch.autograd.grad((out * weight).sum(), [x, *model.parameters()])
    return out, grads[0], grads[1:]


def assert_same_gradients(ours, theirs, tolerance):
    assert relative_l2(flat(ours), flat(theirs)) <= tolerance
    # Each tensor by itself as well. Some gradients are zero but for rounding (a bias in front of a norm with
    # one channel per group), so a thousandth of the average entry is allowed to everybody.
    entry = flat(theirs).norm() / len(flat(theirs)) ** 0.5
    for got, expected in zip(ours, theirs, strict=True):
        slack = 1e-3 * entry * expected.numel() ** 0.5
        assert (got - expected).double().norm() <= tolerance * expected.double().norm() + slack


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("configuration, shape", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_are_the_courses(rd, oracle, configuration, shape, training):
    ours, theirs = pair(rd, oracle, configuration)
    ours.train(training), theirs.train(training)
    x, weight = torch.randn(2, *shape)
    t = torch.randint(0, 400, shape[:1])
    out, to_x, to_weights = gradients(ours, x, t, weight)
    expected, expected_to_x, expected_to_weights = gradients(theirs, x, t, weight)
    assert max_error(out, expected) <= 1e-5
    assert relative_l2(to_x, expected_to_x) <= 1e-4
    assert_same_gradients(to_weights, expected_to_weights, 1e-4)


def test_the_smallest_image_is_about_as_exact_as_in_the_course(rd, oracle):
    """2 x 2: the inner norms are over two or three values, which amplifies the rounding of both."""
    ours, theirs = pair(rd, oracle, TINY)
    exact = copy.deepcopy(theirs).double()
    x, t = torch.randn(8, 1, 2, 2), torch.arange(8) * 50
    truth = exact(x.double(), t)
    assert max_error(ours(x, t), truth) <= 10 * max_error(theirs(x, t), truth)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("configuration, shape", list(CASES.values())[:6], ids=list(CASES)[:6])
def test_output_without_gradients_is_the_courses(rd, oracle, configuration, shape, context):
    ours, theirs = pair(rd, oracle, configuration)
    ours.eval(), theirs.eval()
    x, t = torch.randn(shape), torch.randint(0, 400, shape[:1])
    with context():
        out = ours(x, t)
        expected = theirs(x, t)
    assert max_error(out, expected) <= 1e-5
    assert not out.requires_grad
    assert out.is_inference() == expected.is_inference()


def test_weights_may_change_after_a_prediction_in_inference_mode(rd, oracle):
    """bfloat16 weights are copies; torch lets nobody write to one that was made in inference mode."""
    ours, _ = pair(rd, oracle, TINY)
    ours.eval()
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 250])
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            before = ours(x, t).clone()
        with torch.no_grad():
            for parameter in ours.parameters():
                parameter.mul_(1.5)
            after = ours(x, t)
            assert torch.equal(after, copy.deepcopy(ours)(x, t))
    assert not torch.equal(after, before)


def test_float64_is_computed_in_float64(rd, oracle):
    ours, theirs = (model.double() for model in pair(rd, oracle, TINY))
    x, weight = torch.randn(2, 2, 1, 16, 16, dtype=torch.float64)
    t = torch.tensor([0, 250])
    out, to_x, to_weights = gradients(ours, x, t, weight)
    expected, expected_to_x, expected_to_weights = gradients(theirs, x, t, weight)
    assert out.dtype == torch.float64
    # The time embedding is float32 by contract, so its rounding is what is left.
    assert max_error(out, expected) <= 1e-6
    assert relative_l2(to_x, expected_to_x) <= 1e-6
    assert_same_gradients(to_weights, expected_to_weights, 1e-6)


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a slice of a larger tensor": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[:, :, 1:-4, 3:-2],
    "every other image of a batch": lambda x: x.repeat_interleave(2, 0)[::2],
    "unaligned": lambda x: torch.cat([torch.zeros(1), x.reshape(-1)])[1:].reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout_gives_the_same_numbers(rd, oracle, layout):
    configuration = {**TINY, "in_ch": 3}
    ours, theirs = pair(rd, oracle, configuration)
    x, weight = torch.randn(2, 2, 3, 16, 16)
    t = torch.tensor([7, 399])
    expected, expected_to_x, expected_to_weights = gradients(theirs, x, t, weight)
    laid_out = layout(x)
    assert torch.equal(laid_out, x)
    leaf = laid_out.detach().requires_grad_()
    out = ours(leaf, t)
    (out * layout(weight)).sum().backward()
    assert max_error(out, expected) <= 1e-5
    assert relative_l2(leaf.grad, expected_to_x) <= 1e-4
    assert_same_gradients([p.grad for p in ours.parameters()], expected_to_weights, 1e-4)
    with torch.no_grad():
        assert max_error(ours(laid_out, t), expected) <= 1e-5


def test_one_image_expanded_to_a_batch(rd, oracle):
    ours, theirs = pair(rd, oracle, TINY)
    x, t = torch.randn(1, 1, 16, 16).expand(3, -1, -1, -1), torch.tensor([5]).expand(3)
    assert max_error(ours(x, t), theirs(x, t)) <= 1e-5


def test_weights_in_channels_last_give_the_same_numbers(rd, oracle):
    ours, theirs = pair(rd, oracle, TINY)
    ours = ours.to(memory_format=torch.channels_last)
    x, weight = torch.randn(2, 2, 1, 16, 16)
    t = torch.tensor([0, 100])
    out, to_x, to_weights = gradients(ours, x, t, weight)
    expected, expected_to_x, expected_to_weights = gradients(theirs, x, t, weight)
    assert max_error(out, expected) <= 1e-5
    assert relative_l2(to_x, expected_to_x) <= 1e-4
    assert_same_gradients(to_weights, expected_to_weights, 1e-4)


@pytest.mark.parametrize("gradient", [False, True], ids=["no_grad", "grad"])
def test_autocast_of_the_caller_holds_inside(rd, oracle, gradient):
    """bf16 both: as close to the float32 course as the course under autocast is, and really in bf16."""
    ours, theirs = pair(rd, oracle, TINY)
    x, weight = torch.randn(2, 4, 1, 16, 16)
    t = torch.tensor([0, 20, 200, 399])
    exact, _, exact_to_weights = gradients(theirs, x, t, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradient):
        out, expected = ours(x, t), theirs(x, t)
    assert out.dtype == expected.dtype == torch.bfloat16
    assert 1e-4 < max_error(out, exact) <= 2 * max_error(expected, exact)
    if not gradient:
        return
    for model, result in ((ours, out), (theirs, expected)):
        (result.float() * weight).sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    ours_error = relative_l2(flat(p.grad for p in ours.parameters()), flat(exact_to_weights))
    theirs_error = relative_l2(flat(p.grad for p in theirs.parameters()), flat(exact_to_weights))
    assert ours_error <= 2 * theirs_error


def test_images_do_not_depend_on_the_batch_they_are_in(rd):
    model = rd.DiffusionUNet(**TINY).eval()
    x, t = torch.randn(5, 1, 16, 16), torch.tensor([0, 1, 50, 200, 399])
    together = model(x, t)
    for i in range(5):
        assert max_error(model(x[i : i + 1], t[i : i + 1]), together[i : i + 1]) <= 1e-5


def test_the_result_repeats_bit_for_bit(rd):
    model = rd.DiffusionUNet(**TINY).eval()
    x, t = torch.randn(3, 1, 16, 16), torch.tensor([0, 100, 399])
    first = gradients(model, x, t, torch.ones_like(x))
    second = gradients(copy.deepcopy(model), x.clone(), t.clone(), torch.ones_like(x))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert all(torch.equal(a, b) for a, b in zip(first[2], second[2], strict=True))


def test_every_integer_dtype_of_t_is_the_same_time(rd):
    model = rd.DiffusionUNet(**TINY).eval()
    x = torch.randn(2, 1, 16, 16)
    expected = model(x, torch.tensor([3, 99]))
    assert torch.equal(model(x, torch.tensor([3, 99], dtype=torch.int32)), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("configuration, shape", CASES.values(), ids=CASES.keys())
def test_output_and_gradients_are_the_courses_on_cuda(rd, oracle, configuration, shape):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ours, theirs = (model.cuda() for model in pair(rd, oracle, configuration))
    x, weight = torch.randn(2, *shape, device="cuda")
    t = torch.randint(0, 400, shape[:1], device="cuda")
    out, to_x, to_weights = gradients(ours, x, t, weight)
    expected, expected_to_x, expected_to_weights = gradients(theirs, x, t, weight)
    assert max_error(out, expected) <= 1e-5
    assert relative_l2(to_x, expected_to_x) <= 1e-4
    assert_same_gradients(to_weights, expected_to_weights, 1e-4)
