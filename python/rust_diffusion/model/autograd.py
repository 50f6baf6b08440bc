"""The engine's forward pass as one node of torch's autograd graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, FunctionCtx

from rust_diffusion import _native


def applies(x: Any, t: Any, parameters: list[Tensor], dropout: float) -> bool:
    """Whether the CPU engine can stand in for libtorch's operations without a visible difference.

    Other devices and dtypes, autocast to anything but bfloat16, tensor subclasses and torch's function transforms keep
    the operations.
    """
    return (
        type(x) is Tensor
        and issubclass(type(t), Tensor)  # torch ends the process at an object that only says so
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and (not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") is torch.bfloat16)
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch.autograd.forward_ad._current_level < 0
        and _native.UNet.runs_on_engine(parameters, dropout)
    )


def predict(native: Any, parameters: list[Tensor], x: Tensor, t: Tensor, dropout: float) -> Tensor:
    """Run the forward pass, recorded if gradients are wanted."""
    bf16 = torch.is_autocast_enabled("cpu")
    wanted = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in parameters))
    if wanted:
        out = _Predict.apply(  # type: ignore[no-untyped-call]
            native, dropout, bf16, x, t, *parameters
        )
    else:
        out = native.run(parameters, x, t, dropout, False, bf16)[0]
    # under autocast a convolution, the network's last layer, answers in the shorter dtype
    return out.bfloat16() if bf16 else out


class _Predict(Function):
    @staticmethod
    def forward(
        ctx: Any, native: Any, dropout: float, bf16: bool, x: Tensor, t: Tensor, *parameters: Tensor
    ) -> Tensor:
        out, ctx.recording = native.run(list(parameters), x, t, dropout, True, bf16)
        ctx.native, ctx.dropout = native, dropout
        # torch checks at the backward pass that these were not changed in place
        ctx.save_for_backward(x, t, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, d_prediction: Tensor) -> tuple[Tensor | None, ...]:
        x, t, *parameters = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():
            if ctx.dropout > 0:
                raise RuntimeError(
                    "second derivatives (create_graph=True) need dropout off: call model.eval() or set dropout=0"
                )
            d_x, d_parameters = _differentiable_gradients(ctx, d_prediction, x, t, parameters)
        else:
            d_x, d_parameters = ctx.recording.backward(d_prediction, wanted[3])
        chosen = [d if want else None for d, want in zip(d_parameters, wanted[5:], strict=True)]
        return None, None, None, d_x, None, *chosen


def _differentiable_gradients(
    ctx: FunctionCtx, d_prediction: Tensor, x: Tensor, t: Tensor, parameters: list[Tensor]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Compute gradients that can be differentiated again (`create_graph=True`), by libtorch's own operations."""
    inputs = [x, *parameters]
    wanted = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    out = ctx.native.forward(parameters, x, t, 0.0, True)  # type: ignore[attr-defined]
    found = torch.autograd.grad(
        out, [inputs[i] for i in wanted], d_prediction, create_graph=True, allow_unused=True
    )
    gradients: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return gradients[0], gradients[1:]
