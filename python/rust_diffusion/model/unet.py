"""The denoiser as a `torch.nn.Module`: its tree is built from the engine's plan, its forward runs in the engine."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.model import autograd, verbs
from rust_diffusion.model.card import Carded, ModelCard
from rust_diffusion.support import checks

_DEFAULTS = _native.UNet.defaults()


class ResBlock(nn.Module):
    """Weights of a residual block; the forward pass is the engine's."""


class SelfAttention2d(nn.Module):
    """Weights of self-attention over the positions of an image; the forward pass is the engine's."""


class Downsample(nn.Module):
    """Weights of a convolution of stride 2; the forward pass is the engine's."""


class Upsample(nn.Module):
    """Weights of the convolution after nearest doubling; the forward pass is the engine's."""


def _attention(embed_dim: int, num_heads: int) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)


# The engine's plan names modules by the class that `print(model)` shows.
_CLASSES: dict[str, Any] = {
    "Conv2d": nn.Conv2d,
    "Dropout": nn.Dropout,
    "Downsample": Downsample,
    "GroupNorm": nn.GroupNorm,
    "Identity": nn.Identity,
    "Linear": nn.Linear,
    "ModuleList": nn.ModuleList,
    "MultiheadAttention": _attention,
    "ResBlock": ResBlock,
    "SelfAttention2d": SelfAttention2d,
    "Sequential": nn.Sequential,
    "SiLU": nn.SiLU,
    "Upsample": Upsample,
}


class DiffusionUNet(Carded, nn.Module):
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
        super().__init__()
        self.config = {
            "in_ch": checks.integer("in_ch", in_ch),
            "base_ch": checks.integer("base_ch", base_ch),
            "channel_mults": checks.integers("channel_mults", channel_mults),
            "time_dim": checks.integer("time_dim", time_dim),
            "dropout": checks.number("dropout", dropout, 0.0, 1.0),
            "attn_levels": checks.integers("attn_levels", attn_levels),
            "num_heads": checks.integer("num_heads", num_heads),
        }
        self.card = ModelCard()
        self._native = _native.UNet(**self.config)
        for path, class_name, arguments in self._native.modules():
            parent, _, name = path.rpartition(".")
            self.get_submodule(parent).add_module(name, _CLASSES[class_name](**arguments))
        self._kinds = [type(module) for module in self.modules()]
        self._warned_of_hooks = False

    def _has_own_forward(self) -> bool:
        """Whether a subclass or a patched instance computes something else than the engine does."""
        return type(self).forward is not DiffusionUNet.forward or "forward" in self.__dict__

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in `x` at timesteps `t`.

        Parameters
        ----------
        x : Tensor
            Noisy images, (B, in_ch, H, W), on the model's device.
        t : Tensor
            One timestep per image, (B,), on the same device.

        Returns
        -------
        Tensor
            The prediction, of the shape of `x`.

        Raises
        ------
        ValueError, TypeError
            If shape, dtype or device do not fit; the message names the argument.
        """
        self._check_submodules()
        parameters: list[Tensor] = list(self.parameters())
        dropout = self._dropout_rate()
        if autograd.applies(x, t, parameters, dropout):
            return autograd.predict(self._native, parameters, x, t, dropout)
        _check_dtype(x, parameters[0].dtype)
        return self._native.forward(parameters, x, t, dropout, False)

    def _check_submodules(self) -> None:
        """Refuse what the forward pass in Rust, which does not call the submodules, would silently leave out."""
        for module, kind in zip(self.modules(), self._kinds, strict=False):
            if type(module) is not kind:
                name = next(name for name, found in self.named_modules() if found is module)
                raise TypeError(
                    f"{name or 'model'} is a {type(module).__name__} where the architecture has a {kind.__name__}; "
                    f"the forward pass runs in Rust on the architecture of the configuration"
                )
            hooked = module._forward_hooks or module._forward_pre_hooks
            if hooked and module is not self and not self._warned_of_hooks:
                self._warned_of_hooks = True
                warnings.warn(
                    "hooks on submodules of a DiffusionUNet are not called: its forward pass runs in Rust as a "
                    "whole. Hooks on the model itself are.",
                    stacklevel=2,
                )

    def _dropout_rate(self) -> float:
        """What the Dropout modules say now: zero for those in eval mode."""
        modules = (module for module in self.modules() if isinstance(module, nn.Dropout))
        rates = {
            checks.number("p of a Dropout module", module.p, 0.0, 1.0) if module.training else 0.0
            for module in modules
        }
        if len(rates) > 1:
            raise ValueError(
                f"the Dropout modules of the model have several rates, {sorted(rates)}; all blocks share one, "
                "which is 0 in eval mode: call train() or eval() on the whole model"
            )
        return rates.pop() if rates else 0.0

    def sample(
        self,
        num_samples: int,
        sampler: str = "ddim",
        *,
        seed: int | None = None,
        batch_size: int | None = None,
        image_size: Any = None,
        **options: Any,
    ) -> Tensor:
        """Draw images with the schedule, size and objective that the model carries.

        Parameters
        ----------
        num_samples : int
            How many images.
        sampler : {"ddim", "ddpm"}
            See `ddim_sample` and `ddpm_sample`.
        seed : int, optional
            Image k is drawn with seed ``seed + k``, whatever the batch size. Default: torch's random state.
        batch_size : int, optional
            Images drawn at a time. Default: all of them.
        image_size : int or (int, int), optional
            Height and width. Default: what the model was trained on.
        **options
            Keywords of the sampler: `sample_steps`, `eta`, `spacing`, `timesteps` (DDIM),
            `progress`, `callback`. Default: 50 steps of DDIM, or T if that is fewer.

        Returns
        -------
        Tensor
            Images in [-1, 1], float32, (num_samples, in_ch, H, W), on the model's device.

        Raises
        ------
        ValueError, TypeError
            If an argument cannot be used, or the model knows neither schedule nor size and none is given.
        """
        return verbs.lent("sample")(
            self,
            num_samples,
            sampler,
            seed=seed,
            batch_size=batch_size,
            image_size=image_size,
            **options,
        )

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, betas: Any = None, image_size: Any = None
    ) -> Path:
        """Write weights (safetensors) and all that sampling needs (config.json) into a folder; no pickle.

        Parameters
        ----------
        directory : str or path
            Made if it does not exist.
        betas : Tensor or array, optional
            The schedule, (T,). Default: the one the model was trained with by `train`.
        image_size : int or (int, int), optional
            Height and width in pixels. Default: what the model was trained on by `train`.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ValueError
            If schedule or size are neither known nor given.
        """
        return verbs.lent("save_pretrained")(self, directory, betas=betas, image_size=image_size)

    @staticmethod
    def from_pretrained(directory: str | os.PathLike[str]) -> DiffusionUNet:
        """Load a folder written by `save_pretrained`, in eval mode, with schedule, size and objective.

        Raises
        ------
        FileNotFoundError
            If config.json or model.safetensors is missing.
        ValueError
            If one of them is damaged or they do not fit together; the message names the file.
        """
        return verbs.lent("from_pretrained")(directory)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # A plan without weights: cheaper to make again than to store.
        del state["_native"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._native = _native.UNet(**self.config)


def _check_dtype(x: Any, dtype: torch.dtype) -> None:
    """Images of another dtype than the weights are torch's to convert under autocast, and nobody's otherwise."""
    if not (isinstance(x, Tensor) and x.is_floating_point()) or x.dtype == dtype:
        return
    if not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x must be {dtype}, as the model's weights are, got {x.dtype}")
