"""The engine's forward pass as one node of torch's autograd graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function

from rust_diffusion import _native


def applies(x: Any, t: Any, held: _native.Parameters, dropout: float) -> bool:
    """Whether the CPU engine can stand in for libtorch's operations without a visible difference.

    Other devices and dtypes, autocast to anything but bfloat16, tensor subclasses, and whoever wants to see the single
    operations (torch's function transforms, dispatch modes, tracing) keep the operations.
    """
    return (
        type(x) is Tensor
        and issubclass(type(t), Tensor)  # torch ends the process at an object that only says so
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and (not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") is torch.bfloat16)
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and not in_forward_mode()
        and not torch._C._is_tracing()
        and held.runs_on_engine(dropout)
    )


def in_forward_mode() -> bool:
    """Whether derivatives are carried forward (`torch.func.jvp`), which torch's fused attention does not know."""
    return torch.autograd.forward_ad._current_level >= 0


def predict(
    held: _native.Parameters, parameters: list[Tensor], x: Tensor, t: Tensor, dropout: float
) -> Tensor:
    """Run the forward pass, recorded for the gradients that can be asked for: nothing is kept for frozen weights."""
    bf16 = torch.is_autocast_enabled("cpu")
    trainable = [k for k, p in enumerate(parameters) if p.requires_grad] if torch.is_grad_enabled() else []
    if trainable or (x.requires_grad and torch.is_grad_enabled()):
        chosen = [parameters[k] for k in trainable]
        out = _Predict.apply(  # type: ignore[no-untyped-call]
            held, dropout, bf16, trainable, x, t, *chosen
        )
    else:
        out = held.run(x, t, dropout, (False, False), bf16)[0]
    # under autocast a convolution, the network's last layer, answers in the shorter dtype
    return out.bfloat16() if bf16 else out


class _Predict(Function):
    @staticmethod
    def forward(
        ctx: Any,
        held: _native.Parameters,
        dropout: float,
        bf16: bool,
        trainable: list[int],
        x: Tensor,
        t: Tensor,
        *chosen: Tensor,
    ) -> Tensor:
        wanted = (ctx.needs_input_grad[4], bool(trainable))
        out, ctx.recording = held.run(x, t, dropout, wanted, bf16)
        ctx.held, ctx.dropout, ctx.trainable = held, dropout, trainable
        # torch checks at the backward pass that these were not changed in place; the recording looks at frozen weights
        ctx.save_for_backward(x, t, *chosen)
        return out

    @staticmethod
    def backward(ctx: Any, d_prediction: Tensor) -> tuple[Tensor | None, ...]:
        x, t, *chosen = ctx.saved_tensors
        wanted = (ctx.needs_input_grad[4], any(ctx.needs_input_grad[6:]))
        if torch.is_grad_enabled():
            d_x, d_chosen = _differentiable_gradients(ctx, d_prediction, x, t, chosen)
        else:
            d_x, d_all = ctx.recording.backward(d_prediction, wanted)
            d_chosen = [None] * len(chosen) if d_all is None else [d_all[k] for k in ctx.trainable]
        return None, None, None, None, d_x, None, *d_chosen


def _differentiable_gradients(
    ctx: Any, d_prediction: Tensor, x: Tensor, t: Tensor, chosen: list[Tensor]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Compute gradients that can be differentiated again (`create_graph=True`), by libtorch's own operations."""
    if ctx.dropout > 0:
        raise RuntimeError(
            "second derivatives (create_graph=True) need dropout off: call model.eval() or set dropout=0"
        )
    inputs = [x, *chosen]
    wanted = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
    out = ctx.held.forward(x, t, 0.0, True)
    found = torch.autograd.grad(
        out, [inputs[i] for i in wanted], d_prediction, create_graph=True, allow_unused=True
    )
    gradients: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return gradients[0], gradients[1:]
