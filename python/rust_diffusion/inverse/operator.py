"""Linear operators: what an imaging system does to images, with its exact adjoint, for torch's autograd too."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available
from torch.autograd.function import Function
from typing_extensions import Self

from rust_diffusion import _native
from rust_diffusion.sampling import noise
from rust_diffusion.support import checks

#: Singular values below this share of the largest do not count in `Operator.pinv`.
CUTOFF = 1e-3
#: An adjoint that is off by more than this is none.
MAX_ADJOINT_ERROR = 1e-3

_SIZES = ("img_shape", "out_shape", "nx", "ny", "mx", "my")


class Operator:
    """A linear operator K on batches of images (N, C, H, W), float32 or float64.

    ``K(x)`` and ``K @ x`` apply it, ``K.T`` is its adjoint, an operator too; torch's autograd goes through both, twice
    if asked. NumPy arrays are taken without a copy. ``K2 @ K1`` and ``a * K`` are operators.

    Subclasses of your own define ``_matvec(x)`` and ``_adjoint(y)`` on one image, (1, C, H, W), and set ``img_shape``,
    or ``nx`` and ``ny``, in ``__init__``.

    Attributes
    ----------
    img_shape, out_shape : tuple of int
        Of images and of measurements, without the batch: (H, W) where every channel is treated for itself, (C, H, W)
        where the number of channels is the operator's own.
    nx, ny, mx, my : int
        Height and width of images, and of measurements.
    """

    img_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    nx: int
    ny: int
    mx: int
    my: int
    #: What is added to K x, in the dtype and on the device of its argument: only if the operator is affine.
    _shift: Callable[[Tensor], Tensor] | None = None
    _held: _native.LinearOperator | None = None
    _transposed: Operator | None = None
    _tried: bool
    _made_of: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """Remember the arguments: an operator is pickled and copied by them."""
        made = super().__new__(cls)
        made._made_of = args, keywords
        return made

    def __init__(self) -> None:
        """Nothing is needed here; subclasses say what they are made of."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the arguments; a subclass of the user's, whose attributes may have changed, by those."""
        if type(self)._matvec is Operator._matvec:
            return _remade, (type(self), *self._made_of)
        remade = ("_held", "_transposed", "_made_of")
        own = {name: value for name, value in self.__dict__.items() if name not in remade}
        return object.__new__, (type(self),), own

    def _own(self, name: str, value: Tensor) -> Tensor:
        """A copy of an argument, so that nobody changes what the operator is; pickles and copies are made of it too."""
        own = value.detach().clone()
        args, keywords = self._made_of
        given = inspect.signature(type(self)).bind(*args, **keywords)
        if name in given.arguments:
            given.arguments[name] = own
            self._made_of = given.args, given.kwargs
        return own

    def _hold(self, core: _native.LinearOperator) -> None:
        """Be the engine's operator `core`."""
        self._held = core
        self.img_shape, self.out_shape = core.img_shape, core.out_shape
        self.nx, self.ny = core.img_shape[-2:]
        self.mx, self.my = core.out_shape[-2:]

    @property
    def _core(self) -> _native.LinearOperator:
        """The engine's operator: a subclass of the user's is called back from there."""
        if self._held is None:
            image, out = _shapes(self)
            core = _native.LinearOperator.callback(
                _one_by_one(self._matvec), _one_by_one(self._adjoint), image, out
            )
            self._hold(core)
        assert self._held is not None
        return self._held

    def __getattr__(self, name: str) -> Any:
        """Sizes that a subclass has not set follow from those that it has."""
        if name in _SIZES and self._held is None and "_tried" not in self.__dict__:
            self._tried = True  # what is missing while a subclass is tried out, it must set itself
            try:
                return self._core and self.__dict__[name]
            finally:
                del self._tried
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _matvec(self, x: Tensor) -> Tensor:
        """K x of one image (1, C, H, W); for subclasses to define."""
        return self(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        """K' y of one measurement; for subclasses to define."""
        return self.T(y)

    def __call__(self, x: Any) -> Tensor:
        """K x.

        Parameters
        ----------
        x : Tensor or array
            (N, C, H, W), float32 or float64; NumPy arrays are not copied.

        Returns
        -------
        Tensor
            (N, C, mx, my), of the dtype and device of `x`.

        Raises
        ------
        ValueError, TypeError
            If shape or dtype do not fit.
        """
        x = checks.tensor("x", x)
        y = applied(self._core, x, False)
        return y if self._shift is None else y + self._shift(x)

    def __matmul__(self, other: Any) -> Any:
        """K @ x is K(x); K2 @ K1 applies K1 first."""
        if isinstance(other, Operator):
            return Composed(self, other)
        return self(other)

    def __mul__(self, factor: Any) -> Operator:
        """K * a, as a * K."""
        return Scaled(self, checks.number("a", factor))

    def __rmul__(self, factor: Any) -> Operator:
        """A * K: the measurements times a number."""
        return self * factor

    def __neg__(self) -> Operator:
        return self * -1.0

    @property
    def T(self) -> Operator:
        """The adjoint K', an operator; ``K.T.T is K``."""
        if self._transposed is None:
            self._transposed = Transposed(self)
        return self._transposed

    def pinv(self, y: Any, cutoff: float = CUTOFF) -> Tensor:
        """K^+ y, the shortest x among those that come closest to y.

        In closed form for masks, means, every other pixel, circular blur and matrices: singular values up to `cutoff`
        times the largest count as zero. For other operators they are damped: ``(K'K + (cutoff |K|)^2 I)^-1 K' y`` by
        conjugate gradients. Autograd does not see the operation.

        Parameters
        ----------
        y : Tensor or array
            Measurements, (N, C, mx, my), finite.
        cutoff : float
            Between 0 and 1.

        Returns
        -------
        Tensor
            (N, C, H, W).

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        """
        cutoff = checks.number("cutoff", cutoff, 0.0, 1.0)
        y = checks.finite("y", checks.tensor("y", y))
        return self._core.pinv(self._linear(y), cutoff)

    def prox(self, z: Any, y: Any, gamma: Any) -> Tensor:
        """Find the x that minimises ``1/2 |K x - y|^2 + 1/(2 gamma) |x - z|^2``.

        In closed form for identity, masks, means, every other pixel, circular blur and matrices. Otherwise by conjugate
        gradients, until the residual is 1e-6 of the right-hand side (1e-12 in float64) or for 1,000 steps (2,000): the
        larger ``gamma |K|^2``, the more of what `K` hardly sees stays as it is in `z`. Above some 1e3 in float32, and
        above 1e5 for projections from few angles in float64, that shows. Autograd does not see the operation.

        Parameters
        ----------
        z : Tensor or array
            Images, (N, C, H, W).
        y : Tensor or array
            Measurements, (N, C, mx, my).
        gamma : float or Tensor
            Above 0: one number, or one per image, (N,).

        Returns
        -------
        Tensor
            (N, C, H, W), of the dtype of `z`.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        """
        z, y = self._pair(z, y)
        return self._core.prox(z, y, numbers_per_image("gamma", gamma, z))

    def sample_gaussian(
        self,
        z: Any,
        y: Any,
        sigma: Any,
        r: Any,
        generator: torch.Generator | None = None,
        *,
        seed: Any = None,
    ) -> Tensor:
        """Draw x from the density in proportion to ``exp(-|K x - y|^2 / (2 sigma^2) - |x - z|^2 / (2 r^2))``.

        That is the posterior of an image with prior N(z, r^2 I), measured with noise sigma. Exact: in closed form, or
        by solving with perturbed z and y (Papandreou and Yuille 2010), as far as `prox` solves. Autograd does not see
        the operation.

        Parameters
        ----------
        z : Tensor or array
            Images, (N, C, H, W).
        y : Tensor or array
            Measurements, (N, C, mx, my).
        sigma, r : float or Tensor
            Above 0: one number, or one per image, (N,).
        generator : torch.Generator, optional
            Source of the draws; torch's global one otherwise.
        seed : int or sequence of int, optional
            A stream of its own for each image, as in `ddim_sample`.

        Returns
        -------
        Tensor
            (N, C, H, W), of the dtype of `z`.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit.
        """
        z, y = self._pair(z, y)
        source = noise.source(generator, seed, len(z), z.device)
        sigma, r = numbers_per_image("sigma", sigma, z), numbers_per_image("r", r, z)
        return self._core.sample_gaussian(z, y, sigma, r, source)

    def norm(self) -> float:
        """Return the largest singular value."""
        return self._core.norm()

    def adjoint_error(self) -> float:
        """How far <K x, y> and <x, K' y> are apart, as a share of ``|K x| |y|``; rounding, if the adjoint is one.

        At most, of made-up x and y, of x and K x, and of K' y and y: about as much as K' is wrong by.
        """
        return self._core.adjoint_error()

    def on_unit_range(self) -> Operator:
        """K for images in [-1, 1] of an operator meant for [0, 1]: x -> K((x + 1) / 2)."""
        return UnitRange(self)

    def _linear(self, y: Tensor) -> Tensor:
        """What of the measurements is linear in x."""
        return y if self._shift is None else y - self._shift(y)

    def _pair(self, z: Any, y: Any) -> tuple[Tensor, Tensor]:
        z, y = (checks.finite(name, checks.real(name, value)) for name, value in (("z", z), ("y", y)))
        return z, self._linear(y).to(z.dtype)


def _remade(kind: type[Operator], args: tuple[Any, ...], keywords: dict[str, Any]) -> Operator:
    return kind(*args, **keywords)


class Derived(Operator):
    """An operator made of others; `shift` gives what is added to K x, if they are affine."""

    def __init__(self, core: _native.LinearOperator, shift: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self._hold(core)
        self._shift = shift


class Composed(Derived):
    """K2 K1: `inner`, K1, is applied first."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        before = inner._shift
        shift = outer._shift if before is None else lambda like: outer(before(like))
        super().__init__(inner._core.followed_by(outer._core), shift)


class Scaled(Derived):
    """A K, of an operator K and a number a."""

    def __init__(self, of: Operator, a: float) -> None:
        shift = of._shift
        super().__init__(of._core.scaled(a), None if shift is None else lambda like: a * shift(like))


class Transposed(Derived):
    """K', of an operator K."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of._core.transposed())
        self._transposed = of


class UnitRange(Derived):
    """x -> K((x + 1) / 2): affine; `T` is the adjoint of its linear part, K / 2."""

    def __init__(self, of: Operator) -> None:
        super().__init__(of._core.scaled(0.5), lambda like: of(grey(self, like)))
        self._of = of


def grey(operator: Operator, like: Tensor) -> Tensor:
    """The image (1, C, H, W) of an operator on [0, 1] that is 0 in [-1, 1], with the channels of `like`."""
    channels = [like.shape[1]] if len(operator.img_shape) == 2 else []
    return torch.full((1, *channels, *operator.img_shape), 0.5, dtype=like.dtype, device=like.device)


class _Apply(Function):
    """K or K' as a node of the graph; its derivative is the other one, as a node again."""

    @staticmethod
    def forward(x: Tensor, core: _native.LinearOperator, transposed: bool) -> Tensor:
        return core.adjoint(x) if transposed else core.apply(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.core, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return applied(ctx.core, gradient, not ctx.transposed), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return applied(ctx.core, tangent, ctx.transposed)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, core: _native.LinearOperator, transposed: bool
    ) -> tuple[Tensor, int]:
        batches = x.movedim(in_dims[0], 0)
        made = applied(core, batches.flatten(0, 1), transposed)
        return made.unflatten(0, batches.shape[:2]), 0


def applied(core: _native.LinearOperator, x: Tensor, transposed: bool) -> Tensor:
    """K x or K' x, recorded by autograd; autocast does not reach in."""
    if not isinstance(x, Tensor) or not is_autocast_available(x.device.type):
        return _Apply.apply(x, core, transposed)  # type: ignore[no-untyped-call]
    with torch.autocast(x.device.type, enabled=False):
        return _Apply.apply(x, core, transposed)  # type: ignore[no-untyped-call]


def _one_by_one(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function` of single images as one of batches."""
    return lambda batch: torch.cat([function(batch[i : i + 1]) for i in range(len(batch))])


def _shapes(operator: Operator) -> tuple[list[int], list[int]]:
    """The shapes of a subclass's images and measurements; it is tried out on an empty image."""
    own = operator.__dict__
    kind = type(operator)
    for method in ("_matvec", "_adjoint"):
        if getattr(kind, method) is getattr(Operator, method):
            raise TypeError(f"{kind.__name__} must define _matvec(x) and _adjoint(y); it has no {method}")
    if "img_shape" not in own and not {"nx", "ny"} <= own.keys():
        raise TypeError(f"{kind.__name__} must set img_shape, or nx and ny, in __init__")
    image = checks.integers("img_shape", own.get("img_shape", (own.get("nx"), own.get("ny"))), 1)
    return shapes_of(image, operator._matvec, f"{kind.__name__}._matvec must return one image (1, C, H, W)")


def shapes_of(image: list[int], apply: Callable[[Tensor], Tensor], must: str) -> tuple[list[int], list[int]]:
    """The shapes of images and measurements of `apply`; it is tried out on an empty image, and refused with `must`."""
    channels, plane = (image[0] if len(image) == 3 else 1), image[-2:]
    with torch.no_grad():
        made = apply(torch.zeros(1, channels, *plane, dtype=torch.float32))
    if not isinstance(made, Tensor) or made.ndim != 4 or made.shape[0] != 1:
        got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
        raise ValueError(f"{must}, got {got} for one")
    if len(image) == 2 and made.shape[1] == 1:
        return image, list(made.shape[2:])
    return [channels, *plane], list(made.shape[1:])


def check_adjoint(operator: Operator, what: str, like: Tensor | None = None) -> None:
    """Refuse an operator whose adjoint is none, tried where `like` is; `what` says so in the words of the caller."""
    error = operator._core.adjoint_error(like)
    if not error <= MAX_ADJOINT_ERROR:
        raise ValueError(f"{what}: <K x, y> and <x, K' y> differ by {error:.2g} of |K x| |y|")


def numbers_per_image(name: str, value: Any, images: Tensor, zero: bool = False) -> Tensor:
    """One number above 0 (or 0, if `zero`), or one per image, as a float64 tensor that broadcasts over the batch."""
    try:
        if isinstance(value, bool):
            raise TypeError
        numbers = torch.as_tensor(value, dtype=torch.float64).detach().reshape(-1).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} must be one number or one per image, got {value!r} ({type(value).__name__})"
        ) from None
    if len(numbers) not in (1, len(images)):
        raise ValueError(f"{name} must be one number or one per image ({len(images)}), got {len(numbers)}")

    def fits(number: float) -> bool:
        return math.isfinite(number) and (number >= 0 if zero else number > 0)

    if not all(map(fits, numbers.tolist())):
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    if images.device.type == "mps":  # has no float64
        numbers = numbers.float()
    return numbers.to(images.device).view(-1, 1, 1, 1)
