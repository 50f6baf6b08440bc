"""Where the parts of a network stand: looked up once, so that a call of a small network is not mostly looking up."""

from __future__ import annotations

from torch import Tensor, nn

from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn


class Structure:
    """The places of a network's parameters, children and rates of dropout.

    Parameters
    ----------
    model : Module
        The network.
    kinds : list of type
        What its modules were when it was made; each must still be of that kind.
    before : Structure, optional
        What was known of it before a part was replaced.

    Raises
    ------
    TypeError
        If a part is of another kind than the architecture has there.
    """

    def __init__(
        self, model: nn.Module, kinds: list[type[nn.Module]], before: Structure | None = None
    ) -> None:
        modules = list(model.modules())
        _check_kinds(model, modules, kinds)
        self._parameters = [
            (module._parameters, name)
            for module in modules
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._children = [
            (module._modules, name, child, type(child))
            for module in modules
            for name, child in module._modules.items()
        ]
        self._parts = modules[1:]
        # Residual blocks have theirs by this name; diffusers' attention has one that never drops anything.
        self._dropouts = [
            child
            for _, name, child, _ in self._children
            if isinstance(child, nn.Dropout) and name == "dropout"
        ]
        self._warned_of_hooks: bool = before is not None and before._warned_of_hooks

    def is_stale(self) -> bool:
        """Whether a part was replaced since."""
        return any(
            children.get(name) is not child or type(child) is not kind
            for children, name, child, kind in self._children
        )

    def parameters(self) -> list[Tensor]:
        """All parameters in state-dict order.

        Raises
        ------
        TypeError
            If one is not there any more, as under torch's parametrizations.
        """
        found = [parameters.get(name) for parameters, name in self._parameters]
        if any(parameter is None for parameter in found):
            raise TypeError(
                "model has lost parameters that its architecture has (pruning, weight_norm, another "
                "parametrization?); the forward pass runs in Rust on the architecture of the configuration"
            )
        return found  # type: ignore[return-value]

    def dropout_rate(self) -> float:
        """What the Dropout modules say now: zero for those in eval mode."""
        rates = {
            checks.number("p of a Dropout module", rate, 0.0, 1.0)
            for rate in {module.p if module.training else 0.0 for module in self._dropouts}
        }
        if len(rates) > 1:
            raise ValueError(
                f"the Dropout modules of the model have several rates, {sorted(rates)}; all blocks share one, "
                "which is 0 in eval mode: call train() or eval() on the whole model"
            )
        return rates.pop() if rates else 0.0

    def warn_of_hooks(self) -> None:
        """Say once that hooks on parts, which the engine does not call, are left out."""
        if not self._warned_of_hooks and any(m._forward_hooks or m._forward_pre_hooks for m in self._parts):
            self._warned_of_hooks = True
            warn(
                "hooks on submodules of this network are not called: its forward pass runs in Rust as a "
                "whole. Hooks on the model itself are."
            )


def _check_kinds(model: nn.Module, modules: list[nn.Module], kinds: list[type[nn.Module]]) -> None:
    """Refuse what the forward pass in Rust, which does not call the submodules, would silently leave out."""
    for module, kind in zip(modules, kinds, strict=False):
        if type(module) is not kind:
            name = next(name for name, found in model.named_modules() if found is module)
            raise TypeError(
                f"{name or 'model'} is a {type(module).__name__} where the architecture has a {kind.__name__}; "
                f"the forward pass runs in Rust on the architecture of the configuration"
            )
