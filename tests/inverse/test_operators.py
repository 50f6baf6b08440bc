"""Operators: exact adjoints in both dtypes, derivatives of both orders, solutions as dense matrices give them."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from rust_diffusion import operators as ops

SIZE = (8, 12)
KERNEL = torch.tensor([[0.1, 0.3, -0.2], [0.0, 0.5, 0.1], [0.2, 0.4, 0.05], [0.3, 0.0, 0.1]])


def _matrix(m, n, seed=0):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _doubles():
    """An operator as a function, here a shift with loss, whose adjoint autograd finds."""
    return ops.FunctionOperator(lambda x: x[..., 1:] - 0.5 * x[..., :-1], img_shape=SIZE)


MAKERS = {
    "identity": lambda: ops.Identity(SIZE),
    **{
        f"blurring, {boundary}": lambda boundary=boundary: ops.Blurring(
            SIZE, kernel=KERNEL, boundary=boundary
        )
        for boundary in ("zero", "circular", "reflect", "valid")
    },
    "blurring, gaussian": lambda: ops.Blurring(SIZE, kernel_size=5, kernel_variance=2.0),
    "blurring, motion": lambda: ops.Blurring(SIZE, kernel_type="motion", kernel_size=7, motion_angle=20),
    "blurring, larger than the image": lambda: ops.Blurring(SIZE, kernel_size=21, kernel_variance=9.0),
    "means": lambda: ops.DownScaling(SIZE, 4),
    "every other": lambda: ops.DownScaling(SIZE, 2, mode="naive"),
    "inpainting": lambda: ops.Inpainting(SIZE, keep=0.5, seed=3),
    "hole": lambda: ops.Inpainting(SIZE, box=(2, 3, 4, 5)),
    "gradient": lambda: ops.Gradient(SIZE),
    "matrix": lambda: ops.MatrixOperator(_matrix(40, 96), img_shape=SIZE),
    "tall matrix": lambda: ops.MatrixOperator(_matrix(110, 96), img_shape=SIZE),
    "function": _doubles,
    "transposed": lambda: ops.DownScaling(SIZE, 2).T,
    "scaled": lambda: -3.0 * ops.Blurring(SIZE, kernel=KERNEL, boundary="circular"),
    "composed": lambda: ops.DownScaling(SIZE, 2) @ ops.Blurring(SIZE, kernel=KERNEL, boundary="reflect"),
    "gradient of a blur": lambda: ops.Gradient(SIZE) @ ops.Blurring(SIZE, kernel_size=3),
    "stack of rows": lambda: ops.Stack([ops.Identity(SIZE), ops.Blurring(SIZE, kernel=KERNEL)]),
    "stack of numbers": lambda: ops.Stack([ops.Identity(SIZE), ops.DownScaling(SIZE, 2)]),
    "stack with channels": lambda: ops.Stack([ops.Gradient(SIZE), ops.DownScaling(SIZE, 2)]),
}
CLOSED = ("identity", "blurring, circular", "means", "every other", "inpainting", "hole", "matrix", "scaled")


@pytest.fixture(params=MAKERS, ids=str)
def operator(request):
    return MAKERS[request.param]()


def _batch(shape, images=2, seed=0, dtype=torch.float64):
    channels = () if len(shape) == 3 else (1,)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, *channels, *shape, generator=generator, dtype=torch.float64).to(dtype)


def dense(operator):
    """The operator column by column."""
    n = int(np.prod(operator.img_shape))
    shape = operator.img_shape if len(operator.img_shape) == 3 else (1, *operator.img_shape)
    return operator(torch.eye(n, dtype=torch.float64).view(n, *shape)).flatten(1).T


def mismatch(operator, dtype):
    x, y = _batch(operator.img_shape, dtype=dtype), _batch(operator.out_shape, seed=1, dtype=dtype)
    kx, kty = operator(x).double(), operator.T(y).double()
    x, y = x.double(), y.double()
    return (abs((kx * y).sum() - (x * kty).sum()) / (kx.norm() * y.norm())).item()


def test_adjoints_are_exact(operator):
    assert mismatch(operator, torch.float32) <= 1e-6
    assert mismatch(operator, torch.float64) <= 1e-13
    assert operator.adjoint_error() <= 1e-6


class Back(ops.Operator):
    """The identity, with another way back."""

    def __init__(self, size, back):
        super().__init__()
        self.img_shape, self.back = (size, size), back

    def _matvec(self, x):
        return x

    def _adjoint(self, y):
        return self.back(y)


@pytest.mark.parametrize("size", [32, 256])
@pytest.mark.parametrize(
    "back,wrong_by", [(lambda y: 1.1 * y, 0.1), (lambda y: y.roll(1, 3), 0.5), (lambda y: y.flip(3), 0.5)]
)
def test_a_wrong_adjoint_shows_however_large_the_image(size, back, wrong_by):
    assert Back(size, back).adjoint_error() > 0.9 * wrong_by
    with pytest.raises(ValueError, match="adjoint is not the adjoint of forward"):
        ops.FunctionOperator(lambda x: x, back, (size, size))


def test_operators_keep_what_they_were_made_of():
    angles, mask = np.linspace(0, 3, 5), torch.rand(*SIZE) > 0.5
    kernel, matrix = torch.rand(3, 3), torch.rand(7, SIZE[0] * SIZE[1])
    made = [
        ops.CTProjector(SIZE, angles),
        ops.Inpainting(SIZE, mask),
        ops.Blurring(SIZE, kernel=kernel),
        ops.MatrixOperator(matrix, SIZE),
    ]
    x = _batch(SIZE)
    before = [K(x) for K in made]
    angles[:] = angles[::-1].copy()
    mask.logical_not_()
    kernel.mul_(2)
    matrix.zero_()
    for K, y in zip(made, before, strict=True):
        assert torch.equal(K(x), y) and torch.equal(copy.deepcopy(K)(x), y)
        assert torch.equal(pickle.loads(pickle.dumps(K))(x), y)
    assert torch.equal(made[1].mask * x, before[1])


def test_what_is_made_of_operators_is_copied_and_pickled():
    K, blur = ops.CTProjector(SIZE, np.linspace(0, 3, 5)), ops.Blurring(SIZE, kernel_size=3)
    x = _batch(SIZE)
    for made in (2 * K, -K, K @ blur, K.T @ K, 2 * K.on_unit_range(), K.on_unit_range() @ blur, K.T):
        y = made(x if made.img_shape == SIZE else K(x))
        for again in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            assert torch.equal(again(x if made.img_shape == SIZE else K(x)), y)


def test_what_is_imaginary_is_refused():
    K, z = ops.Blurring(SIZE, kernel_size=3), _batch(SIZE)
    for call in (
        lambda: K.prox(z, z + 1j, 1.0),
        lambda: K.sample_gaussian(z + 1j, z, 0.1, 1.0),
        lambda: ops.Blurring(SIZE, kernel=torch.ones(3, 3) * 1j),
        lambda: ops.Inpainting(SIZE, torch.ones(SIZE) + 1j),
        lambda: ops.MatrixOperator(torch.ones(96, 96) * 1j),
    ):
        with pytest.raises(TypeError, match="must hold real numbers"):
            call()


def test_derivatives_of_both_orders(operator):
    x = _batch(operator.img_shape, images=1).requires_grad_()
    y = _batch(operator.out_shape, images=1).requires_grad_()
    for function, at in ((operator, x), (operator.T, y)):
        assert gradcheck(function, at, fast_mode=True)
        assert gradgradcheck(lambda z, f=function: f(z) ** 2, at, fast_mode=True)
    (gradient,) = torch.autograd.grad(operator(x), x, y)
    assert torch.allclose(gradient, operator.T(y))


def test_an_image_is_the_same_in_any_batch(operator):
    x, y = (
        _batch(operator.img_shape, 5, dtype=torch.float32),
        _batch(operator.out_shape, 5, dtype=torch.float32),
    )
    gamma = torch.tensor([0.1, 1.0, 10.0, 0.5, 2.0])
    whole = operator(x), operator.T(y), operator.prox(x, y, gamma), operator.pinv(y)
    for i in range(5):
        x_i, y_i = x[i : i + 1], y[i : i + 1]
        alone = operator(x_i), operator.T(y_i), operator.prox(x_i, y_i, gamma[i]), operator.pinv(y_i)
        for one, all_ in zip(alone, whole, strict=True):
            assert torch.equal(one[0], all_[i])


def test_prox_solves_what_a_dense_matrix_solves(operator):
    a = dense(operator)
    z, y = _batch(operator.img_shape), _batch(operator.out_shape, seed=1)
    gamma = torch.tensor([0.3, 20.0], dtype=torch.float64)
    got = operator.prox(z, y, gamma)
    for i in range(2):
        system = a.T @ a + torch.eye(len(a.T), dtype=torch.float64) / gamma[i]
        want = torch.linalg.solve(system, a.T @ y[i].flatten() + z[i].flatten() / gamma[i])
        assert torch.allclose(got[i].flatten(), want, atol=1e-7)
    single = operator.prox(z.float(), y.float(), gamma)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), got, atol=2e-4)


@pytest.mark.parametrize("name", CLOSED)
def test_pinv_in_closed_form_is_that_of_a_dense_matrix(name):
    operator = MAKERS[name]()
    a, y = dense(operator), _batch(operator.out_shape)
    want = torch.linalg.pinv(a, rtol=1e-3) @ y.flatten(1).T
    assert torch.allclose(operator.pinv(y).flatten(1).T, want, atol=1e-8)


@pytest.mark.parametrize("name", ["blurring, zero", "composed", "function"])
def test_pinv_is_damped_where_singular_values_are_not_known(name):
    operator = MAKERS[name]()
    a, y = dense(operator), _batch(operator.out_shape)
    damping = (1e-3 * torch.linalg.matrix_norm(a, 2)) ** 2
    want = torch.linalg.solve(
        a.T @ a + damping * torch.eye(len(a.T), dtype=torch.float64), a.T @ y.flatten(1).T
    )
    assert torch.allclose(operator.pinv(y).flatten(1).T, want, atol=1e-4)


def test_norm_is_the_largest_singular_value(operator):
    assert operator.norm() == pytest.approx(torch.linalg.matrix_norm(dense(operator), 2).item(), rel=1e-4)


@pytest.mark.parametrize("name", [*CLOSED, "blurring, zero", "composed"])
def test_gaussian_draws_have_the_mean_and_covariance_of_a_dense_matrix(name):
    operator = MAKERS[name]()
    a, n = dense(operator), 2000
    z, y = _batch(operator.img_shape, 1), _batch(operator.out_shape, 1, seed=1)
    sigma, r = 0.4, 0.7
    covariance = torch.linalg.inv(a.T @ a / sigma**2 + torch.eye(len(a.T), dtype=torch.float64) / r**2)
    mean = covariance @ (a.T @ y.flatten() / sigma**2 + z.flatten() / r**2)
    draws = operator.sample_gaussian(
        z.expand(n, -1, -1, -1), y.expand(n, -1, -1, -1), sigma, r, torch.Generator().manual_seed(0)
    ).flatten(1)
    white = (draws - mean) @ torch.linalg.cholesky(torch.linalg.inv(covariance))
    assert white.mean(0).abs().max() < 5 / n**0.5
    assert (torch.cov(white.T) - torch.eye(white.shape[1])).abs().max() < 6 / n**0.5


def test_draws_have_a_stream_for_each_image_and_numbers_of_their_own():
    operator = ops.Blurring(SIZE, kernel_size=3)
    z, y = _batch(SIZE, 3), _batch(SIZE, 3, seed=1)
    sigma, r = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 0.5, 1e-6])
    whole = operator.sample_gaussian(z, y, sigma, r, seed=7)
    for i in range(3):
        alone = operator.sample_gaussian(z[i : i + 1], y[i : i + 1], sigma[i], r[i], seed=7 + i)
        assert torch.equal(alone[0], whole[i])
    assert torch.allclose(whole[2], z[2], atol=1e-4)


def test_correlation_and_motion_are_the_courses():
    x = _batch((16, 16), 1)
    motion = ops.motion_kernel(9, 20)
    assert (motion > 0).sum() == 8 and motion.max() == 0.125
    places = torch.arange(9, dtype=torch.float64) - 4
    assert (motion.sum(1) @ places).item() == pytest.approx(-0.5)
    assert (motion.sum(0) @ places).item() == pytest.approx(-0.5)
    want = torch.nn.functional.conv2d(x, motion[None, None], padding=4)
    got = ops.Blurring((16, 16), kernel_type="motion", kernel_size=9, motion_angle=20)(x)
    assert torch.allclose(got, want)
    line = torch.exp(-(torch.arange(-2.0, 3.0, dtype=torch.float64) ** 2) / (2 * 2.5))
    want = line[:, None] * line
    assert torch.allclose(
        ops.Blurring((16, 16), kernel_size=5, kernel_variance=2.5).kernel, want / want.sum()
    )
    assert torch.allclose(ops.gaussian_kernel(5, 2.5**0.5), want / want.sum())


@pytest.mark.parametrize(
    "boundary, mode", [("circular", "circular"), ("reflect", "reflect"), ("zero", "constant")]
)
def test_boundaries_are_what_padding_makes_of_them(boundary, mode):
    x, kernel = _batch((9, 7), 1), _matrix(5, 3)
    want = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 2, 2), mode=mode), kernel[None, None])
    assert torch.allclose(ops.Blurring((9, 7), kernel=kernel, boundary=boundary)(x), want)


def test_random_motion_is_seeded_and_normalised():
    kernel = ops.random_motion_kernel(61, 0.5, seed=1)
    assert kernel.shape == (61, 61) and kernel.sum().item() == pytest.approx(1.0) and kernel.min() >= 0
    assert torch.equal(kernel, ops.random_motion_kernel(61, 0.5, seed=1))
    assert not torch.equal(kernel, ops.random_motion_kernel(61, 0.5, seed=2))


def test_means_gradients_and_masks_are_what_they_say():
    x = _batch((8, 8), 2)
    blocks = x.view(2, 1, 2, 4, 2, 4).mean((3, 5))
    means = ops.DownScaling((8, 8), 4)
    assert torch.allclose(means(x), blocks) and torch.allclose(means.pinv(blocks), 16 * means.T(blocks))
    assert torch.equal(ops.DownScaling((8, 8), 4, mode="naive")(x), x[..., ::4, ::4])
    gradient = ops.Gradient((8, 8))(x)
    assert gradient.shape == (2, 2, 8, 8)
    assert torch.allclose(gradient[:, 0, :-1], x[:, 0, 1:] - x[:, 0, :-1]) and not gradient[:, 0, -1].any()
    assert (
        torch.allclose(gradient[:, 1, :, :-1], x[:, 0, :, 1:] - x[:, 0, :, :-1])
        and not gradient[:, 1, :, -1].any()
    )
    half = ops.Inpainting((8, 8), keep=0.5)
    assert half.mask.sum() == 32 and torch.equal(half(x), x * half.mask)
    assert ops.Inpainting((8, 8), box=(1, 2, 3, 4)).mask.sum() == 64 - 12


def test_channels_are_pictures_of_their_own():
    x = torch.randn(2, 3, *SIZE)
    for operator in (
        ops.Blurring(SIZE, kernel_size=3),
        ops.DownScaling(SIZE, 2),
        ops.MatrixOperator(_matrix(96, 96), SIZE),
    ):
        y = operator(x)
        assert y.shape[:2] == (2, 3)
        assert torch.allclose(y[:, 1:2], operator(x[:, 1:2]), atol=1e-5)
    with pytest.raises(ValueError, match=r"\(N, 1, 8, 12\)"):
        ops.Gradient(SIZE)(x)


def test_a_flipped_array_goes_in_too():
    x = np.random.default_rng(0).normal(size=(1, 1, *SIZE))
    for K in (ops.Blurring(SIZE, KERNEL), ops.CTProjector(SIZE, np.linspace(1, 0, 5)[::-1])):
        for turned in (x[..., ::-1], x[:, :, ::-1]):
            assert torch.equal(K(turned), K(turned.copy()))


class Shifted(ops.Operator):
    """An operator of a user's own."""

    def __init__(self, by):
        super().__init__()
        self.img_shape, self.by = SIZE, by

    def _matvec(self, x):
        return x.roll(self.by, -1)

    def _adjoint(self, y):
        return y.roll(-self.by, -1)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda K: pickle.loads(pickle.dumps(K))])
def test_operators_can_be_copied_and_pickled(how):
    x = torch.randn(2, 1, *SIZE)
    projector = ops.CTProjector(SIZE, [0.0, 0.5, 1.0], det_size=14)
    for K in (
        ops.Blurring(SIZE, kernel=KERNEL, boundary="reflect"),
        ops.Inpainting(SIZE, keep=0.5, seed=3),
        projector,
        projector.T.T,
        projector.on_unit_range(),
        ops.Stack([ops.Identity(SIZE), projector]),
        Shifted(3),
    ):
        again = how(K)
        assert torch.equal(again(x), K(x)) and torch.equal(again.T(K(x)), K.T(K(x)))
    assert torch.equal(how(projector.T)(projector(x)), projector.T(projector(x)))


def test_numpy_goes_in_without_a_copy():
    x = np.zeros((1, 1, *SIZE))
    operator = ops.Identity(SIZE)
    seen = []
    spy = ops.FunctionOperator(lambda t: (seen.append(t), t * 1.0)[1], lambda t: t * 1.0, img_shape=SIZE)
    y = spy(x)
    assert y.dtype == torch.float64 and seen[-1].data_ptr() == x.ctypes.data
    assert torch.equal(operator @ x, torch.from_numpy(x)) and operator.T(x).dtype == torch.float64


def test_a_subclass_as_the_course_writes_them():
    class Differences(ops.Operator):
        def __init__(self, img_shape):
            super().__init__()
            self.nx, self.ny = img_shape
            self.mx, self.my = img_shape

        def _matvec(self, x):
            assert x.shape == (1, 1, self.nx, self.ny)
            return torch.cat([x.roll(-1, 2) - x, x.roll(-1, 3) - x], 1)

        def _adjoint(self, y):
            return (y[:, :1].roll(1, 2) - y[:, :1]) + (y[:, 1:].roll(1, 3) - y[:, 1:])

    operator = Differences(SIZE)
    x = _batch(SIZE, 3)
    assert operator(x).shape == (3, 2, *SIZE) and (operator.mx, operator.my) == SIZE
    assert operator.img_shape == (1, *SIZE) and operator.out_shape == (2, *SIZE)
    assert operator.T.T is operator and (operator.T @ operator(x)).shape == x.shape
    assert mismatch(operator, torch.float64) <= 1e-13 and operator.adjoint_error() < 1e-6
    assert gradcheck(operator, x[:1].clone().requires_grad_(), fast_mode=True)
    a, y = dense(operator), operator(x)
    want = torch.linalg.solve(a.T @ a + torch.eye(96, dtype=torch.float64) / 2, a.T @ y.flatten(1).T)
    assert torch.allclose(operator.prox(torch.zeros_like(x), y, 2.0).flatten(1).T, want, atol=1e-8)


def test_a_subclass_that_only_knows_img_shape_and_forgets_to_call_init():
    class Halves(ops.Operator):
        def __init__(self):
            self.img_shape = SIZE

        def _matvec(self, x):
            return x[..., ::2]

        def _adjoint(self, y):
            x = torch.zeros(1, 1, *SIZE, dtype=y.dtype)
            x[..., ::2] = y
            return x

    operator = Halves()
    assert (operator.nx, operator.ny, operator.mx, operator.my) == (8, 12, 8, 6)
    assert operator.out_shape == (8, 6) and operator.norm() == pytest.approx(1.0)


def test_composition_and_scaling():
    blur, means = ops.Blurring(SIZE, kernel=KERNEL), ops.DownScaling(SIZE, 2)
    x = _batch(SIZE)
    assert torch.equal((means @ blur)(x), means(blur(x)))
    assert torch.equal((2.5 * blur)(x), 2.5 * blur(x)) and torch.equal((-blur)(x), -blur(x))
    stack = ops.Stack([blur, 2.0 * blur])
    assert stack.out_shape == (16, 12) and torch.equal(stack(x), torch.cat([blur(x), 2 * blur(x)], 2))
    unit = blur.on_unit_range()
    assert torch.allclose(unit(x), blur((x + 1) / 2))
    assert torch.allclose(unit.T(x), blur.T(x) / 2)
    seen = means(blur((x + 1) / 2))
    assert torch.allclose((means @ unit)(x), seen) and torch.allclose((-3 * (means @ unit))(x), -3 * seen)
    both = ops.Stack([unit, ops.Identity(SIZE).on_unit_range()])
    assert torch.allclose(both(x), torch.cat([blur((x + 1) / 2), (x + 1) / 2], 2))
    for mixed in ([unit, blur], [2 * unit, blur]):
        with pytest.raises(ValueError, match="on_unit_range"):
            ops.Stack(mixed)
    invertible = ops.Identity(SIZE).on_unit_range()
    assert torch.allclose(invertible.pinv(invertible(x)), x)
    assert torch.allclose(unit.prox(x, unit(x), 3.0), x)


def test_function_transforms_and_autocast():
    operator = ops.Blurring(SIZE, kernel=KERNEL)
    x = _batch(SIZE, 3, dtype=torch.float32)
    gradient = torch.func.grad(lambda z: (operator(z) ** 2).sum() / 2)(x)
    assert torch.allclose(gradient, operator.T(operator(x)))
    mapped = torch.func.vmap(operator)(x[:, None])
    assert torch.equal(mapped[:, 0], operator(x))
    _, tangent = torch.func.jvp(operator, (x,), (2 * x,))
    assert torch.allclose(tangent, operator(2 * x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator(x), mapped[:, 0])
