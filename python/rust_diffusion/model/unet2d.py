"""The `UNet2DModel` family of diffusers: google/ddpm-cifar10-32 and its relatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rust_diffusion import _native
from rust_diffusion.model.network import Network
from rust_diffusion.support import checks

#: Blocks that the engine has, and whether they have attention.
DOWN_BLOCKS = {"DownBlock2D": False, "AttnDownBlock2D": True}
UP_BLOCKS = {"UpBlock2D": False, "AttnUpBlock2D": True}
TIME_ADDITIONS = ("default", "scale_shift")
#: Parts of the family that are taken in one form only.
_ONLY: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1, 1.0),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "attn_norm_num_groups": (None,),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "num_train_timesteps": (None,),
}


class UNet2DModel(Network):
    """A denoiser of diffusers' `UNet2DModel` family (Ho et al. 2020, appendix B), computed by the engine.

    Arguments, defaults, state-dict keys, initial values and the printed tree are diffusers' own. What the engine does
    not compute (cross attention, class embeddings, `AttnSkip` blocks, other activations) is refused by name.

    Parameters
    ----------
    sample_size : int or (int, int), optional
        Height and width of the images.
    in_channels, out_channels : int
        Channels of the images, and of the prediction.
    freq_shift, flip_sin_to_cos
        Of the sinusoids of the timestep.
    down_block_types, up_block_types : sequence of str
        "DownBlock2D" or "AttnDownBlock2D" for each level, and from the deepest level on "UpBlock2D" or "AttnUpBlock2D".
    block_out_channels : sequence of int
        Channels of each level.
    layers_per_block : int
        Residual blocks of a level on the way down; on the way up there is one more.
    downsample_padding : {1, 0}
        Zeros on all sides of what is halved, or after each axis only.
    dropout : float
        Probability of dropping an activation inside a residual block, in training mode.
    attention_head_dim : int, optional
        Channels of an attention head; None means one head.
    norm_num_groups, norm_eps
        Of the group normalisations.
    resnet_time_scale_shift : {"default", "scale_shift"}
        Whether the time embedding shifts, or scales and shifts.
    **others
        The family's other arguments, in the one form that is taken.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used; the message names it.
    """

    def __init__(
        self,
        sample_size: Any = None,
        in_channels: int = 3,
        out_channels: int = 3,
        *,
        freq_shift: float = 0,
        flip_sin_to_cos: bool = True,
        down_block_types: Sequence[str] = (
            "DownBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
            "AttnDownBlock2D",
        ),
        up_block_types: Sequence[str] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels: Sequence[int] = (224, 448, 672, 896),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        dropout: float = 0.0,
        attention_head_dim: int | None = 8,
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        resnet_time_scale_shift: str = "default",
        **others: Any,
    ) -> None:
        for name, value in others.items():
            _check_only(name, value)
        size = None if sample_size is None else checks.pair("sample_size", sample_size)
        super().__init__(
            {
                "sample_size": sample_size,
                "in_channels": checks.integer("in_channels", in_channels),
                "out_channels": checks.integer("out_channels", out_channels),
                "freq_shift": checks.number("freq_shift", freq_shift),
                "flip_sin_to_cos": checks.flag("flip_sin_to_cos", flip_sin_to_cos),
                "down_block_types": _blocks("down_block_types", down_block_types, DOWN_BLOCKS),
                "up_block_types": _blocks("up_block_types", up_block_types, UP_BLOCKS),
                "block_out_channels": checks.integers("block_out_channels", block_out_channels),
                "layers_per_block": checks.integer("layers_per_block", layers_per_block),
                "downsample_padding": checks.integer("downsample_padding", downsample_padding),
                "dropout": checks.number("dropout", dropout, 0.0, 1.0),
                "attention_head_dim": (
                    None
                    if attention_head_dim is None
                    else checks.integer("attention_head_dim", attention_head_dim)
                ),
                "norm_num_groups": checks.integer("norm_num_groups", norm_num_groups),
                "norm_eps": checks.number("norm_eps", norm_eps),
                "resnet_time_scale_shift": checks.choice(
                    "resnet_time_scale_shift", resnet_time_scale_shift, TIME_ADDITIONS
                ),
            }
        )
        self.image_size = size
        #: What the scheduler of a folder of diffusers said of the drawing, to be written there again.
        self._of_scheduler: dict[str, Any] = {}

    @staticmethod
    def _plan(config: dict[str, Any]) -> _native.Network:
        own = {name: value for name, value in config.items() if name not in _SAID_OTHERWISE}
        return _native.Network.diffusers(
            **own,
            down_attention=[DOWN_BLOCKS[kind] for kind in config["down_block_types"]],
            up_attention=[UP_BLOCKS[kind] for kind in config["up_block_types"]],
            scale_and_shift=config["resnet_time_scale_shift"] == "scale_shift",
        )


#: What the engine's plan is told in another form, or need not know.
_SAID_OTHERWISE = ("sample_size", "down_block_types", "up_block_types", "resnet_time_scale_shift")


def _blocks(name: str, kinds: Any, known: dict[str, bool]) -> list[str]:
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise TypeError(f"{name} must be a sequence of names, got {kinds!r}")
    return [checks.choice(f"{name}[{k}]", kind, tuple(known)) for k, kind in enumerate(kinds)]


def _check_only(name: str, value: Any) -> None:
    if name not in _ONLY:
        raise TypeError(f"{name} is no argument of a UNet2DModel")
    if value not in _ONLY[name]:
        raise ValueError(f"{name} must be {_ONLY[name][0]!r} for a network of the engine, got {value!r}")
