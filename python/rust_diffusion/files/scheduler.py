"""How a folder of diffusers says that its network draws: `scheduler_config.json`, read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.files.content import read_object
from rust_diffusion.model.card import FLOW, MAX_STEPS, Carded, ModelCard, schedule_name, schedule_of
from rust_diffusion.support import checks
from rust_diffusion.support.warning import warn

FILE = "scheduler_config.json"
#: The version of diffusers whose layout is written.
VERSION = "0.30.0"

#: diffusers' words for what a network predicts, and ours.
_OBJECTIVES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
#: What a scheduler's configuration means where it leaves something out (DDPMScheduler's own defaults).
_SCHEDULE = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
#: What it says of the drawing alone, which our samplers are told in each call; the same of one for straight paths.
_DRAWING = {"clip_sample": True, "clip_sample_range": 1.0, "variance_type": "fixed_small"}
_DRAWING_STRAIGHT = {"shift": 1.0}
#: Where else one for straight paths may take its steps than flow_sample does; one draws noise in each.
_STEPS_STRAIGHT = (
    *("use_dynamic_shifting", "shift_terminal"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
)
_NOISE_STRAIGHT = "stochastic_sampling"
#: Schedulers for straight paths from noise to image, by how their names begin, and the times that networks are shown.
_STRAIGHT, _STRAIGHT_TIMES = "FlowMatch", 1000
#: Those that follow a schedule of betas as ours do, by how their names begin: the ones that clamp estimates of the
#: clean image unless they say otherwise, and the ones that do not unless they say so.
_CLAMPING = ("DDPM", "DDIM", "RePaint", "UnCLIP")
_UNCLAMPED = ("PNDM", "DPMSolver", "UniPC", "Euler", "Heun", "KDPM2", "LMS", "DEIS", "SASolver", "LCM", "TCD")
#: Those whose networks know other noise, or other times.
_OTHERS = ("IPNDM", "VQDiffusion", "DDPMWuerstchen", "CogVideoX", "ScoreSdeVp", "Amused", "SCM")
#: Those that add noise to an image whose strength stays as it is; their networks want their images scaled.
_EXPLODING = ("EDM", "KarrasVe", "ScoreSdeVe", "CMStochasticIterative", "CosineDPMSolver")
#: What none of our samplers does, and how to do without it.
_REFUSED = {
    "rescale_betas_zero_snr": "take the word out of the file and give rd.load(..., betas=) another schedule",
    "thresholding": "take the word out of the file: estimates are then clamped to [-1, 1]",
}


def _file(folder: Path) -> Path | None:
    """Find the scheduler's configuration: of a pipeline, of a folder with all in it, or beside a pipeline's unet."""
    places = (folder / "scheduler", folder, folder.absolute().parent / "scheduler")
    return next((place / FILE for place in places if (place / FILE).is_file()), None)


def card(folder: Path) -> ModelCard:
    """What the scheduler's configuration says; without one, the family's own schedule is assumed."""
    path = _file(folder)
    card = ModelCard()
    if path is None:
        card.assume(betas=_betas(_SCHEDULE))
        return card
    config = {**_SCHEDULE, **read_object(path)}
    _check_scheduler(path, config)
    if _is_straight(config):
        card.objective = FLOW
        # straight paths have none; samplers that follow one may be given any
        card.assume(betas=_betas(_SCHEDULE))
        return card
    said = config.get("prediction_type", "epsilon")
    if said not in _OBJECTIVES:
        raise ValueError(f"{path}: prediction_type must be one of {', '.join(_OBJECTIVES)}, got {said!r}")
    try:
        betas = _betas(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    if _is_known(config):
        card.objective, card.betas = _OBJECTIVES[said], betas
    else:
        card.assume(objective=_OBJECTIVES[said], betas=betas)
    return card


def _kind(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", "DDPMScheduler"))


def _is_straight(config: Mapping[str, Any]) -> bool:
    return _kind(config).startswith(_STRAIGHT)


def _is_known(config: Mapping[str, Any]) -> bool:
    return _kind(config).startswith((*_CLAMPING, *_UNCLAMPED, _STRAIGHT))


def _check_scheduler(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would silently draw other images here."""
    elsewhere = "draw with diffusers' own pipeline"
    kind = _kind(config)
    if kind.startswith(_OTHERS):
        raise ValueError(
            f"{path}: {kind} is for networks that are shown other noise, or other times, than ours are: {elsewhere}"
        )
    if kind.startswith(_EXPLODING) or config.get("sigma_min") is not None:
        raise ValueError(
            f"{path}: {kind} adds noise to images that keep their strength; our samplers and schedules are for images "
            f"that fade as noise comes in: {elsewhere}"
        )
    if config.get("invert_sigmas"):
        raise ValueError(
            f"{path}: invert_sigmas must be false, got {config['invert_sigmas']!r}: such a network is shown times that "
            f"run the other way than ours; {elsewhere}"
        )
    for word, remedy in _REFUSED.items():
        if config.get(word):
            raise ValueError(f"{path}: {word} must be false, got {config[word]!r}: {elsewhere}, or {remedy}")
    if str(config.get("variance_type")).startswith("learned"):
        raise ValueError(
            f"{path}: variance_type must be a fixed one, got {config['variance_type']!r}: networks that predict "
            f"variances are not computed here; {elsewhere}"
        )
    if _is_straight(config) and config["num_train_timesteps"] != _STRAIGHT_TIMES:
        raise ValueError(
            f"{path}: num_train_timesteps of a {kind} must be {_STRAIGHT_TIMES}, the times that networks for "
            f'"{FLOW}" are shown here, got {config["num_train_timesteps"]!r}: {elsewhere}'
        )


def drawing(folder: Path) -> dict[str, Any]:
    """What the scheduler says of the drawing, with a warning where our samplers must be told, or cannot be."""
    path = _file(folder)
    if path is None:
        return {}
    config = read_object(path)
    said = _said(config)
    if not _is_known(config):
        warn(
            f"{path}: {_kind(config)} is no scheduler that is known here, and what it says of objective and schedule "
            f"is only assumed to mean what it would elsewhere: if it does not, give rd.load(..., objective=, betas=)"
        )
    advice = [*_advice_straight(config, said)] if _is_straight(config) else [*_advice(config, said)]
    if advice:
        warn(f"{path} asks for what our samplers do not do by themselves: {'; '.join(advice)}")
    return said


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """What it says of the drawing that is not as usual."""
    said: dict[str, Any]
    usual: Mapping[str, Any]
    if _is_straight(config):
        said = {_NOISE_STRAIGHT: True} if _kind(config).endswith("LCMScheduler") else {}
        said |= {name: config[name] for name in (*_STEPS_STRAIGHT, _NOISE_STRAIGHT) if config.get(name)}
        usual = _DRAWING_STRAIGHT
    else:
        said = {"clip_sample": False} if _kind(config).startswith(_UNCLAMPED) else {}
        usual = _DRAWING
    said |= {name: config[name] for name in usual if name in config}
    said = {name: value for name, value in said.items() if value != usual.get(name)}
    if said.get("variance_type", "") is None:  # so say solvers, which have none
        del said["variance_type"]
    return said


def _advice(config: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[str]:
    """What to do where a scheduler that follows a schedule draws otherwise than ours do by themselves."""
    if not said.get("clip_sample", True):
        why = "clip_sample is false" if "clip_sample" in config else f"{_kind(config)} never clamps"
        yield f"{why}, so draw with clip=False"
    elif "clip_sample_range" in said:
        yield f"clip_sample_range is {said['clip_sample_range']!r}, and clip=True clamps to [-1, 1]"
    if said.get("variance_type", "fixed_small_log") != "fixed_small_log":  # another name for the small one
        yield f"variance_type is {said['variance_type']!r}, and ddpm_sample draws with the small one"


def _advice_straight(config: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[str]:
    """The same of one for straight paths."""
    if "shift" in said:
        yield f'shift is {said["shift"]!r}, so draw with sampler="flow", shift={said["shift"]!r}'
    for name in _STEPS_STRAIGHT:
        if name in said:
            yield f"{name} is {said[name]!r}, and flow_sample takes equal strides, shifted"
    if _NOISE_STRAIGHT in said:
        yield f"fresh noise is drawn in each step ({_NOISE_STRAIGHT}), and flow_sample draws none"


def _betas(config: Mapping[str, Any]) -> Tensor:
    steps = checks.integer("num_train_timesteps", config["num_train_timesteps"], 1, MAX_STEPS)
    if config.get("trained_betas") is not None:
        betas = checks.schedule("trained_betas", config["trained_betas"])
        if len(betas) != steps:
            raise ValueError(
                f"trained_betas must be as many as num_train_timesteps, {steps}, got {len(betas)}"
            )
        return betas
    start, end = (checks.number(name, config[name], 0.0, 1.0) for name in ("beta_start", "beta_end"))
    kind = config["beta_schedule"]
    if kind == "linear":
        return _native.linear_beta_schedule(steps, start, end)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32).square()
    if kind == "squaredcos_cap_v2":
        return _native.cosine_beta_schedule(steps)
    raise ValueError(f"beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {kind!r}")


def config_of(model: Carded, betas: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a scheduler that draws as the model was trained, and as was `said` where it came from."""
    words = {ours: theirs for theirs, ours in _OBJECTIVES.items()}
    checks.choice("objective", model.objective, (*words, FLOW))

    def drawing(usual: Mapping[str, Any], *unusual: str) -> dict[str, Any]:
        told = {name: said[name] for name in (*usual, *unusual) if name in said}
        return {**usual, **told}

    if model.objective == FLOW:
        return {
            "_class_name": f"{_STRAIGHT}EulerDiscreteScheduler",
            "_diffusers_version": VERSION,
            "num_train_timesteps": _STRAIGHT_TIMES,
            **drawing(_DRAWING_STRAIGHT, *_STEPS_STRAIGHT, _NOISE_STRAIGHT),
        }
    schedule = schedule_of(model, betas)
    config: dict[str, Any] = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": len(schedule),
        "prediction_type": words[model.objective],
        **drawing(_DRAWING),
    }
    if schedule_name(schedule) == "linear":
        return {**config, **{name: _SCHEDULE[name] for name in ("beta_schedule", "beta_start", "beta_end")}}
    return {**config, "trained_betas": schedule.tolist()}
