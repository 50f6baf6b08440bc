"""The course's network."""

from __future__ import annotations

from typing import Any

from rust_diffusion import _native
from rust_diffusion.model.network import Network
from rust_diffusion.support import checks

_DEFAULTS = _native.Network.course_defaults()


class DiffusionUNet(Network):
    """Time-conditioned UNet that predicts the noise in x_t (Ho et al. 2020, appendix B, in a compact form).

    A `torch.nn.Module` like any other: its parameters are ordinary torch parameters, its forward runs in Rust on
    those same tensors (nothing is copied) and is recorded by torch's autograd. State-dict keys, shapes, order and
    initial values for a given `torch.manual_seed` are those of the course module.

    Parameters
    ----------
    in_ch : int
        Channels of the images.
    base_ch : int
        Width of the first level.
    channel_mults : sequence of int
        Level i has ``base_ch * channel_mults[i]`` channels; the length is the number of levels. Height and width of
        the images must be multiples of ``2 ** (levels - 1)``.
    time_dim : int
        Length of the time embedding, at least 2.
    dropout : float
        Probability of dropping an activation inside a residual block, in training mode.
    attn_levels : sequence of int
        Levels with self-attention; the middle of the network always has it.
    num_heads : int
        Attention heads; must divide the channels wherever there is attention.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """

    def __init__(
        self,
        in_ch: int = _DEFAULTS["in_ch"],
        base_ch: int = _DEFAULTS["base_ch"],
        channel_mults: tuple[int, ...] = tuple(_DEFAULTS["channel_mults"]),
        time_dim: int = _DEFAULTS["time_dim"],
        dropout: float = _DEFAULTS["dropout"],
        attn_levels: tuple[int, ...] = tuple(_DEFAULTS["attn_levels"]),
        num_heads: int = _DEFAULTS["num_heads"],
    ) -> None:
        super().__init__(
            {
                "in_ch": checks.integer("in_ch", in_ch),
                "base_ch": checks.integer("base_ch", base_ch),
                "channel_mults": checks.integers("channel_mults", channel_mults),
                "time_dim": checks.integer("time_dim", time_dim),
                "dropout": checks.number("dropout", dropout, 0.0, 1.0),
                "attn_levels": checks.integers("attn_levels", attn_levels),
                "num_heads": checks.integer("num_heads", num_heads),
            }
        )

    @staticmethod
    def _plan(config: dict[str, Any]) -> _native.Network:
        return _native.Network.course(**config)
