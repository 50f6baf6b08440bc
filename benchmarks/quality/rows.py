"""Whose pictures are judged: the course's module and loop in eager PyTorch, and recipes on the engine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import rust_diffusion as rd
import torch
from torch import Tensor

from benchmarks.peers.course import DiffusionUNet as CourseUNet
from benchmarks.quality.measure import Trained

EAGER = "course, eager"
#: Updates whose time says how many fit, after as many that do not count.
_MEASURED = 3
#: An average that holds more of its beginning than this is no denoiser yet: then the weights themselves are judged.
_MOST_LEFT = 0.1


def eager(
    recipe: rd.Recipe, images: Tensor, minutes: float, updates: int | None, seed: int, device: str
) -> Trained:
    """The course's loop as it is written in its notebook, its cosine over the epochs that fit into the time."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    options = recipe.training
    model, shadow = (CourseUNet(**recipe.network).to(device) for _ in range(2))
    shadow.eval()
    shadow.load_state_dict(model.state_dict())
    loop = _Loop(model, shadow, options, recipe.betas, images)
    for _ in range(_MEASURED):
        loop.update(options["learning_rate"])
    begun = time.perf_counter()
    for _ in range(_MEASURED):
        loop.update(options["learning_rate"])
    per_update = (time.perf_counter() - begun) / _MEASURED
    left = 60 * minutes - (time.perf_counter() - start)
    total = updates or loop.made + max(1, int(left / per_update))
    per_epoch = math.ceil(len(images) / options["batch_size"])
    epochs = math.ceil(total / per_epoch)
    while loop.made < total:
        turn = math.pi * (loop.made // per_epoch) / epochs
        loop.update(options["learning_rate"] / 2 * (1 + math.cos(turn)))
    seconds = time.perf_counter() - start
    left_of_beginning = options["ema_decay"] ** total
    return Trained(
        model=(shadow if left_of_beginning <= _MOST_LEFT else model).eval(),
        objective="eps",
        betas=recipe.betas,
        seconds=seconds,
        updates=total,
        speed=total * options["batch_size"] / seconds,
        parameters=sum(p.numel() for p in model.parameters()),
        sampling=recipe.sampling,
        device=device,
    )


class _Loop:
    """One update after another, as the course's notebook makes them."""

    def __init__(
        self, model: Any, shadow: Any, options: dict[str, Any], betas: Tensor, images: Tensor
    ) -> None:
        self.model, self.shadow, self.options = model, shadow, options
        self.device = next(model.parameters()).device
        self.images = images.to(self.device)
        self.alpha_bars = torch.cumprod(1 - betas, 0).to(self.device)
        self.optimizer = torch.optim.AdamW(model.parameters(), weight_decay=options["weight_decay"])
        self.order: list[Tensor] = []
        self.made = 0

    def update(self, rate: float) -> None:
        if not self.order:
            self.order = list(torch.randperm(len(self.images)).split(self.options["batch_size"]))
        x0 = self.images[self.order.pop()]
        t = torch.randint(len(self.alpha_bars), (len(x0),), device=self.device)
        eps = torch.randn_like(x0)
        x_t = rd.q_sample(x0, t, eps, self.alpha_bars)
        loss = torch.nn.functional.mse_loss(self.model(x_t, t), eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options["grad_clip"])
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.shadow.parameters(), self.model.parameters(), strict=True)
            for average, weight in pairs:
                average.lerp_(weight, 1 - self.options["ema_decay"])
        loss.item()  # which the course's loop shows, and a card has to be waited for
        self.made += 1


@dataclass(frozen=True)
class First:
    """What a network learns before the recipe: so many updates, with these keywords of `train` changed."""

    updates: int
    changes: dict[str, Any]
    #: Height and width of the images, averaged down; None leaves them.
    size: int | None


def engine(
    recipe: rd.Recipe, images: Tensor, updates: int | None, seed: int, device: str, first: First | None = None
) -> Trained:
    """A recipe on our engine, for its minutes or for so many updates."""
    start = time.perf_counter()
    torch.manual_seed(seed)
    model = rd.DiffusionUNet(**recipe.network)
    if first is not None:
        small = images if first.size is None else torch.nn.functional.adaptive_avg_pool2d(images, first.size)
        options = _for_updates({**recipe.training, **first.changes}, first.updates, len(images))
        rd.train(model, small, betas=recipe.betas, seed=seed, device=device, progress=False, **options)
    options = dict(recipe.training)
    if updates is not None:
        options = _for_updates(options, updates, len(images))
    result = rd.train(model, images, betas=recipe.betas, seed=seed, device=device, progress=False, **options)
    seconds = time.perf_counter() - start
    made = result.updates
    share = result.initial_share or 0.0
    return Trained(
        model=result.ema.shadow if share <= _MOST_LEFT else model.eval(),
        objective=options["objective"],
        betas=recipe.betas,
        seconds=seconds,
        updates=made,
        speed=result.images_per_second,
        parameters=sum(p.numel() for p in model.parameters()),
        sampling=recipe.sampling,
        device=device,
    )


def _for_updates(options: dict[str, Any], updates: int, images: int) -> dict[str, Any]:
    """The same training for so many updates instead of minutes."""
    epochs = math.ceil(updates / math.ceil(images / options["batch_size"]))
    rest = {name: value for name, value in options.items() if name != "minutes"}
    return {**rest, "epochs": epochs, "max_steps": updates}


def course(minutes: float) -> rd.Recipe:
    """The course's recipe, cut to a time."""
    recipe = rd.recipe("course")
    del recipe.training["epochs"]
    recipe.training["minutes"] = minutes
    return recipe
