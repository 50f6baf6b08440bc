"""Networks whose forward pass runs in the engine, on the module's own parameters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.model import autograd, verbs
from rust_diffusion.model.card import Carded, ModelCard
from rust_diffusion.model.layers import module_of
from rust_diffusion.model.structure import Structure

#: What `Network.sample` draws with unless it is told otherwise, in as many steps as that sampler takes by default: the
#: one whose images were the first not to be told from DDPM's, as docs/howto/fewer-steps.md has it.
DEFAULT_SAMPLER = "dpmpp"
#: What torch's autocast computes in for a network that is not the engine's.
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Network(Carded, nn.Module):
    """A `torch.nn.Module` like any other, built from the engine's plan of a network.

    Its parameters are ordinary torch parameters; its forward runs in Rust on those same tensors (nothing is copied) and
    is recorded by torch's autograd. Subclasses say which plan their configuration stands for.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.card = ModelCard()
        self._native = self._plan(config)
        for path, class_name, arguments in self._native.modules():
            parent, _, name = path.rpartition(".")
            self.get_submodule(parent).add_module(name, module_of(class_name, arguments))
        self._kinds = [type(module) for module in self.modules()]
        self._structure: Structure | None = None
        self._held: tuple[list[Tensor], _native.Parameters] | None = None

    @staticmethod
    def _plan(config: dict[str, Any]) -> _native.Network:
        """Return the engine's plan of the network that `config` describes."""
        raise NotImplementedError

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self._native.in_channels

    @property
    def size_multiple(self) -> int:
        """Height and width of the images must be multiples of this."""
        return self._native.size_multiple

    def _has_own_forward(self) -> bool:
        """Whether a subclass or a patched instance computes something else than the engine does."""
        return type(self).forward is not Network.forward or "forward" in self.__dict__

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict what the network was trained for, the noise in `x` unless `objective` says otherwise.

        Parameters
        ----------
        x : Tensor
            Noisy images, (B, C, H, W), on the model's device.
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
        structure = self._seen()
        parameters = structure.parameters()
        dropout = structure.dropout_rate()
        held = self._handed_over(parameters)
        if autograd.applies(x, t, held, dropout):
            return autograd.predict(held, parameters, x, t, dropout)
        _check_dtype(x, parameters[0].dtype)
        return held.forward(x, t, dropout, autograd.in_forward_mode())

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in `x`, (B, C, H, W), whatever the network was trained for; see `as_eps` for `x` and `t`."""
        return verbs.lent("eps")(self, x, t)

    def x0(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the clean images behind `x`, not clamped, whatever the network was trained for: see `as_eps`."""
        return verbs.lent("x0")(self, x, t)

    def _seen(self) -> Structure:
        """Return where everything stands, looked up again after a part was replaced."""
        if self._structure is None or self._structure.is_stale():
            self._structure = Structure(self, self._kinds, self._structure)
        self._structure.warn_of_hooks()
        return self._structure

    def _handed_over(self, parameters: list[Tensor]) -> _native.Parameters:
        """Return the engine's handles on these very parameters."""
        if self._held is None or not _same(self._held[0], parameters):
            self._held = parameters, self._native.hand_over(parameters)
        return self._held[1]

    def _dropout_rate(self) -> float:
        """What the Dropout modules say now: zero for those in eval mode."""
        return self._seen().dropout_rate()

    def sample(
        self,
        num_samples: int,
        sampler: str = DEFAULT_SAMPLER,
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
        sampler : {samplers}
            See `ddim_sample` and its like.
        seed : int, optional
            Image k is drawn with seed ``seed + k``, whatever the batch size. Default: torch's random state.
        batch_size : int, optional
            Images drawn at a time. Default: all of them.
        image_size : int or (int, int), optional
            Height and width. Default: what the model was trained on.
        **options
            Keywords of the sampler, such as `sample_steps`, `spacing`, `clip`, `progress`, `callback`. Default: as many
            steps as the sampler usually takes, or T if that is fewer.

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
        self,
        directory: str | os.PathLike[str],
        *,
        betas: Any = None,
        image_size: Any = None,
        format: str = "rust_diffusion",
    ) -> Path:
        """Write weights (safetensors) and all that sampling needs (config.json) into a folder; no pickle.

        Parameters
        ----------
        directory : str or path
            Made if it does not exist; a model that was saved there in the same format is replaced.
        betas : Tensor or array, optional
            The schedule, (T,). Default: the one the model was trained with by `train`.
        image_size : int or (int, int), optional
            Height and width in pixels. Default: what the model was trained on by `train`.
        format : {"rust_diffusion", "diffusers"}
            "diffusers", for a `UNet2DModel`: as `diffusers.DDPMPipeline.from_pretrained` loads it.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ValueError
            If schedule or size are neither known nor given, or the format is not for this network.
        FileExistsError
            If the folder holds a model in another layout, such as a pipeline with `unet/`; nothing is written.
        """
        return verbs.lent("save_pretrained")(
            self, directory, betas=betas, image_size=image_size, format=format
        )

    @staticmethod
    def from_pretrained(directory: str | os.PathLike[str]) -> Any:
        """Load a folder written by `save_pretrained` or diffusers, or a network by its name on the Hub, in eval mode.

        Raises
        ------
        FileNotFoundError
            If config.json or model.safetensors is missing.
        ValueError
            If one of them is damaged or they do not fit together; the message names the file.
        """
        return verbs.lent("from_pretrained")(directory)

    def __getstate__(self) -> dict[str, Any]:
        # A plan and handles, which hold no weights of their own, are cheaper to make again than to store.
        return {**self.__dict__, "_native": None, "_structure": None, "_held": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._native = self._plan(self.config)


def check_fits(model: Network, shape: Sequence[int], whose: str) -> None:
    """Refuse images (C, H, W) that the network cannot take; `whose` is how the message begins."""
    if shape[0] != model.in_channels:
        raise ValueError(f"{whose} {tuple(shape)}, the model takes {model.in_channels} channels")
    multiple = model.size_multiple
    if shape[1] % multiple or shape[2] % multiple:
        raise ValueError(
            f"{whose} {tuple(shape)}, the model needs heights and widths that are multiples of {multiple}"
        )


def tensor_of(output: Any) -> Tensor:
    """The tensor in what a network returned: diffusers wraps it in `.sample`, others in a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "sample", None), Tensor):
        return output.sample
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise TypeError(f"model must return a torch.Tensor, got {type(output).__name__}")


def answer_to(x_t: Tensor, output: Any) -> Tensor:
    """What a network returned for `x_t`, as a floating-point tensor of its shape."""
    answer = tensor_of(output)
    if answer.shape != x_t.shape:
        raise ValueError(
            f"model must return a tensor of the shape of x_t {tuple(x_t.shape)}, got {tuple(answer.shape)}"
        )
    if not answer.is_floating_point():
        raise TypeError(f"model must return a floating-point tensor, got {answer.dtype}")
    return answer


def _same(held: list[Tensor], parameters: list[Tensor]) -> bool:
    return len(held) == len(parameters) and all(a is b for a, b in zip(held, parameters, strict=True))


def _check_dtype(x: Any, dtype: torch.dtype) -> None:
    """Images of another dtype than the weights are torch's to convert under autocast, and nobody's otherwise."""
    if not (isinstance(x, Tensor) and x.is_floating_point()) or x.dtype == dtype:
        return
    if not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"x must be {dtype}, as the model's weights are, got {x.dtype}")
