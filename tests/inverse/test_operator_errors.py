"""Operators say in words what does not fit, before anything is computed."""

import numpy as np
import pytest
import torch

from rust_diffusion import operators as ops
from rust_diffusion import utilities

SIZE = (8, 12)
X = torch.zeros(2, 1, *SIZE)


class NoAdjoint(ops.Operator):
    def __init__(self):
        super().__init__()
        self.img_shape = SIZE

    def _matvec(self, x):
        return x


class NoSize(ops.Operator):
    def _matvec(self, x):
        return x

    def _adjoint(self, y):
        return y


CASES = {
    "image of another size": (
        lambda: ops.Identity(SIZE)(torch.zeros(1, 1, 8, 8)),
        ValueError,
        r"\(N, C, 8, 12\).*8, 8",
    ),
    "three dimensions": (lambda: ops.Identity(SIZE)(torch.zeros(1, 8, 12)), ValueError, r"\(N, C, 8, 12\)"),
    "integers": (
        lambda: ops.Identity(SIZE)(torch.zeros(1, 1, *SIZE).long()),
        TypeError,
        "float32 or float64",
    ),
    "half": (lambda: ops.Identity(SIZE)(X.half()), TypeError, "float32 or float64"),
    "text": (lambda: ops.Identity(SIZE)("x"), TypeError, "x must be a torch.Tensor or a NumPy array"),
    "complex array": (
        lambda: ops.Identity(SIZE)(np.zeros((1, 1, 8, 12), complex)),
        TypeError,
        "float32 or float64",
    ),
    "measurement of another size": (
        lambda: ops.DownScaling(SIZE, 2).T(X),
        ValueError,
        r"\(N, C, 4, 6\), got",
    ),
    "prox of another size": (lambda: ops.Identity(SIZE).prox(X, X[:1], 1.0), ValueError, "2 images, y 1"),
    "gamma of zero": (
        lambda: ops.Identity(SIZE).prox(X, X, 0.0),
        ValueError,
        "gamma must be finite and above 0",
    ),
    "three gammas": (
        lambda: ops.Identity(SIZE).prox(X, X, [1.0, 2.0, 3.0]),
        ValueError,
        r"one per image \(2\)",
    ),
    "negative sigma": (
        lambda: ops.Identity(SIZE).sample_gaussian(X, X, -1, 1),
        ValueError,
        "sigma must be finite",
    ),
    "seed and generator": (
        lambda: ops.Identity(SIZE).sample_gaussian(X, X, 1, 1, torch.Generator(), seed=1),
        ValueError,
        "either generator or seed",
    ),
    "mask that keeps nothing": (
        lambda: ops.Inpainting(SIZE, mask=torch.zeros(SIZE)),
        ValueError,
        "keeps no pixel",
    ),
    "keep of zero": (lambda: ops.Inpainting(SIZE, keep=0.0), ValueError, "keeps no pixel"),
    "grey mask": (lambda: ops.Inpainting(SIZE, mask=torch.full(SIZE, 0.5)), ValueError, "1 .or True."),
    "mask of another size": (
        lambda: ops.Inpainting(SIZE, mask=torch.ones(8, 8)),
        ValueError,
        r"mask must have shape \(8, 12\)",
    ),
    "mask and box": (
        lambda: ops.Inpainting(SIZE, keep=0.5, box=(0, 0, 1, 1)),
        ValueError,
        "one of mask, keep and box",
    ),
    "no mask": (lambda: ops.Inpainting(SIZE), ValueError, "one of mask, keep and box"),
    "box outside": (lambda: ops.Inpainting(SIZE, box=(4, 0, 5, 1)), ValueError, "box must lie within"),
    "factor that does not divide": (
        lambda: ops.DownScaling(SIZE, 3),
        ValueError,
        "downscale_factor must divide",
    ),
    "mode": (lambda: ops.DownScaling(SIZE, 2, mode="max"), ValueError, "mode must be one of 'avg', 'naive'"),
    "boundary": (lambda: ops.Blurring(SIZE, boundary="mirror"), ValueError, "boundary must be one of 'zero'"),
    "kernel type": (lambda: ops.Blurring(SIZE, kernel_type="box"), ValueError, "kernel_type must be one of"),
    "kernel of one dimension": (
        lambda: ops.Blurring(SIZE, kernel=torch.ones(3)),
        ValueError,
        r"kernel must have shape \(k, l\)",
    ),
    "kernel that is too large": (
        lambda: ops.Blurring(SIZE, kernel=torch.ones(9, 9), boundary="circular"),
        ValueError,
        "larger than the images",
    ),
    "kernel of nan": (
        lambda: ops.Blurring(SIZE, kernel=torch.full((3, 3), torch.nan)),
        ValueError,
        "kernel must be finite",
    ),
    "variance": (
        lambda: ops.Blurring(SIZE, kernel_variance=0.0),
        ValueError,
        "kernel_variance must be above 0",
    ),
    "size of a blur": (
        lambda: ops.Blurring(SIZE, kernel_size=0),
        ValueError,
        "kernel_size must be at least 1",
    ),
    "angle of a blur": (
        lambda: ops.Blurring(SIZE, kernel_type="motion", motion_angle="up"),
        TypeError,
        "motion_angle must be a number",
    ),
    "size of a Gaussian": (lambda: ops.gaussian_kernel(0, 1.0), ValueError, "^size must be at least 1"),
    "width of a Gaussian": (lambda: ops.gaussian_kernel(3, 0.0), ValueError, "^std must be above 0"),
    "size of a motion": (lambda: ops.motion_kernel(0), ValueError, "^size must be at least 1"),
    "angle of a motion": (lambda: ops.motion_kernel(3, "up"), TypeError, "^angle must be a number"),
    "img_shape": (lambda: ops.Blurring((8, 8, 8)), ValueError, "img_shape must be an integer or"),
    "matrix of another size": (
        lambda: ops.MatrixOperator(torch.ones(3, 5), img_shape=(2, 2)),
        ValueError,
        "A has 5 columns",
    ),
    "matrix that is none": (
        lambda: ops.MatrixOperator(torch.ones(3)),
        ValueError,
        r"A must have shape \(m, n\)",
    ),
    "adjoint that is none": (
        lambda: ops.FunctionOperator(lambda x: 2 * x, lambda y: y, img_shape=SIZE),
        ValueError,
        "adjoint is not the adjoint of forward",
    ),
    "function that is not linear": (
        lambda: ops.FunctionOperator(torch.square, img_shape=SIZE),
        ValueError,
        "not linear",
    ),
    "no img_shape": (lambda: ops.FunctionOperator(torch.neg), TypeError, "needs img_shape"),
    "not a function": (
        lambda: ops.FunctionOperator(3, img_shape=SIZE),
        TypeError,
        "forward must be callable",
    ),
    "no adjoint": (lambda: NoAdjoint()(X), TypeError, "NoAdjoint must define .* it has no _adjoint"),
    "no size": (lambda: NoSize()(X), TypeError, "must set img_shape, or nx and ny"),
    "composition": (
        lambda: ops.Identity((4, 4)) @ ops.Identity(SIZE),
        ValueError,
        r"K1 makes \(N, C, 8, 12\)",
    ),
    "zero times": (lambda: 0 * ops.Identity(SIZE), ValueError, "not 0"),
    "empty stack": (lambda: ops.Stack([]), ValueError, "at least one operator"),
    "stack of sizes": (
        lambda: ops.Stack([ops.Identity(SIZE), ops.Identity((4, 4))]),
        ValueError,
        "operator 1 takes",
    ),
    "stack of tensors": (lambda: ops.Stack([X]), TypeError, r"operators\[0\] must be an Operator"),
    "psnr of shapes": (lambda: utilities.PSNR(X, X[:1]), ValueError, "x_pred must have the shape of x_true"),
    "ssim of integers": (lambda: utilities.SSIM(X.long(), X), TypeError, "x_pred must be a floating-point"),
    "negative noise": (
        lambda: utilities.gaussian_noise(X, -0.1),
        ValueError,
        "noise_level must be at least 0",
    ),
}


def _numpy_only(x):
    return torch.from_numpy(np.flip(x.detach().numpy(), -1).copy())


CASES |= {
    "forward outside of autograd": (
        lambda: ops.FunctionOperator(_numpy_only, img_shape=SIZE),
        TypeError,
        "give adjoint= too",
    ),
    **{
        f"{method} of NaN by {type(K).__name__}": (
            lambda K=K, call=call: call(K, X, torch.full_like(K(X), torch.nan)),
            ValueError,
            "y must be finite",
        )
        for K in (ops.Identity(SIZE), ops.Blurring(SIZE), ops.CTProjector(SIZE, [0.0, 1.0]))
        for method, call in {
            "pinv": lambda K, x, y: K.pinv(y),
            "prox": lambda K, x, y: K.prox(x, y, 1.0),
            "sample_gaussian": lambda K, x, y: K.sample_gaussian(x, y, 0.1, 0.1),
        }.items()
    },
}


@pytest.mark.parametrize("name", CASES)
def test_errors_say_what_does_not_fit(name):
    call, error, text = CASES[name]
    with pytest.raises(error, match=text):
        call()


def test_an_attribute_that_is_not_there_is_told_as_usual():
    with pytest.raises(AttributeError, match="'Identity' object has no attribute 'nz'"):
        _ = ops.Identity(SIZE).nz
