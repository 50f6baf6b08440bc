"""Everything that a run is made of, and the checkpoint as its written form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rust_diffusion import _native
from rust_diffusion.data.variance import DataVariance
from rust_diffusion.files import checkpoint
from rust_diffusion.model.card import ModelCard, card_of
from rust_diffusion.model.ema import EMA
from rust_diffusion.model.network import Network
from rust_diffusion.support.images import as_values
from rust_diffusion.training.network import trained_parameters
from rust_diffusion.training.plan.budget import Length
from rust_diffusion.training.settings import Settings

#: Images widened to float64 at a time.
_AT_A_TIME = 256


def _zeros(size: int, device: torch.device) -> Tensor:
    return torch.zeros(size, dtype=torch.float32, device=device)


class State:
    """The tensors that the engine changes in place, and what has been measured."""

    def __init__(
        self, model: nn.Module, ema: EMA[Any], settings: Settings, options: dict[str, Any], card: ModelCard
    ) -> None:
        self.model, self.ema, self.settings = model, ema, settings
        #: The settings as the engine takes them.
        self.options = options
        trained, shadow = trained_parameters(model), dict(ema.shadow.named_parameters())
        self.parameters: list[Tensor] = list(trained.values())
        #: Their averages, in the same order.
        self.averages: list[Tensor] = [shadow[name] for name in trained]
        #: Running means of gradient and squared gradient, all parameters one behind the other.
        size, device = sum(p.numel() for p in self.parameters), self.parameters[0].device
        self.moments = _zeros(size, device), _zeros(size, device)
        self.history: list[float] = []
        self.val_history: list[float | None] = []
        self.best_loss = float("inf")
        self.timesteps = 0 if card.betas is None else len(card.betas)
        #: What is known of the model, for itself, its average and the files.
        self.cards = [card, card_of(ema.shadow) or card]
        self._variance: DataVariance | None = DataVariance()
        #: How far the run has come; the engine's own, only read here.
        self.position: dict[str, Any] = _native.first_position()

    @property
    def is_open(self) -> bool:
        """Whether nobody knows yet how long the run will be."""
        return bool(self.options["open"])

    def settle(self, length: Length) -> None:
        """Fix the length of a run that was open, as the engine does for itself."""
        self.settings.epochs, self.settings.max_steps = length["epochs"], length["updates"]
        self.options.update(
            epochs=length["epochs"], max_steps=length["updates"], updates=length["updates"], open=False
        )

    def replan(self, saved: dict[str, Any], batches_per_epoch: int | None) -> None:
        """Let a run that goes on with other data, or batches of another size, end where it now will.

        One that goes on as it was keeps the plan that it had, to the bit.
        """
        if self.is_open or batches_per_epoch is None:
            return
        settings, position, own = self.settings, self.position, saved.get(checkpoint.OWN, {})
        before, per_epoch = own.get("settings", {}), settings.updates_in(batches_per_epoch)
        same = all(before.get(name) == getattr(settings, name) for name in ("batch_size", "accumulate"))
        plan = own.get("plan") or {}
        if settings.minutes is not None and "updates" in plan:
            # what is settled are updates, however many epochs they take
            if same and plan["epochs"] == -(-plan["updates"] // per_epoch):
                return
            assert settings.max_steps is not None
            left = -(-(settings.max_steps - position["updates"]) // per_epoch)
            settings.epochs = self.options["epochs"] = max(settings.epochs, position["epoch"] + left)
            return
        planned, left_of_all = self.options["updates"], self.updates_left(batches_per_epoch)
        if planned is None or left_of_all is None:
            return
        if not same or planned != own.get("planned_updates") or position["updates"] >= planned:
            self.options["updates"] = position["updates"] + left_of_all

    @property
    def last_is_best(self) -> bool:
        """Whether the last epoch is the best so far: on held-out images where there are any."""
        measured = [loss for loss in self.val_history if loss is not None]
        if measured:
            return self.val_history[-1] == min(measured)
        return bool(self.history) and self.history[-1] == self.best_loss

    @property
    def is_finished(self) -> bool:
        """Whether the epochs, or updates, asked for are made."""
        most, position = self.settings.max_steps, self.position
        too_many = most is not None and position["updates"] >= most
        return (not self.is_open and position["epoch"] >= self.settings.epochs) or too_many

    def updates_left(self, batches_per_epoch: int | None) -> int | None:
        """How many the run will make, if nothing stops it; None where neither data nor settings say."""
        return min(self._limits(batches_per_epoch).values(), default=None)

    def what_limits(self, batches_per_epoch: int | None) -> str:
        """Which setting makes a run longer that is too short."""
        limits = self._limits(batches_per_epoch)
        return "minutes" if self.settings.minutes is not None else min(limits, key=lambda name: limits[name])

    def _limits(self, batches_per_epoch: int | None) -> dict[str, int]:
        """Updates that are left, by the setting that says so."""
        settings, position = self.settings, self.position
        limits = {}
        if batches_per_epoch is not None:
            ahead = (settings.epochs - position["epoch"]) * settings.updates_in(batches_per_epoch)
            limits["epochs"] = ahead - position["batch"] // settings.accumulate
        if settings.max_steps is not None:
            limits["max_steps"] = settings.max_steps - position["updates"]
        return limits

    def move_to(self, position: dict[str, Any]) -> None:
        """Take over where the engine has come to."""
        self.position = position
        self.ema.initial_share = position["initial_share"]
        # what is no parameter is not averaged: the statistics of a BatchNorm, for one
        buffers = dict(self.model.named_buffers())
        for name, own in self.ema.shadow.named_buffers():
            if name in buffers and own.shape == buffers[name].shape:
                own.copy_(buffers[name])

    def note_images(self, images: Tensor) -> None:
        """Let the model know what it is trained on; samplers and saved weights carry it on."""
        height, width = images.shape[-2:]
        self._note(image_size=(height, width))
        if self._variance is not None:
            for part in images.split(_AT_A_TIME):
                self._variance.add(as_values(part))

    def note_all_seen(self) -> None:
        """Fix the variance of the data, once each image was noted."""
        if self._variance is not None:
            self._note(data_variance=self._variance.value())
            self._variance = None

    def note_card(self, before: ModelCard | None) -> None:
        """Keep what an earlier run knew of its images."""
        if before is not None and before.image_size is not None:
            self._note(image_size=before.image_size)
        if before is not None and before.data_variance is not None:
            self._note(data_variance=before.data_variance)
            self._variance = None

    def _note(self, **facts: Any) -> None:
        for card in self.cards:
            for name, fact in facts.items():
                setattr(card, name, fact)

    def to_checkpoint(self, random: dict[str, Any], order_seed: int | None) -> dict[str, Any]:
        """The course's keys, and one of ours for what they leave out."""
        optimizer, scheduler = self._torch_states()
        settings = self.settings
        return {
            "epoch": self.position["epoch"] - 1,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": optimizer,
            "scheduler": scheduler,
            "scaler": self._scaler_state(),
            "history": list(self.history),
            "best_loss": self.best_loss,
            "config": {
                "target_epochs": settings.epochs,
                "learning_rate": settings.learning_rate,
                "weight_decay": settings.weight_decay,
                "ema_decay": settings.ema_decay,
                "grad_clip": settings.grad_clip,
                "num_diffusion_steps": self.timesteps,
            },
            checkpoint.OWN: {
                "format": checkpoint.FORMAT,
                "position": dict(self.position),
                "random": random,
                "order_seed": order_seed,
                "settings": settings.of_the_run,
                "time_sampling": settings.time_sampling,
                "min_snr_gamma": settings.min_snr_gamma,
                "model": self.model.config if isinstance(self.model, Network) else None,
                "val_history": list(self.val_history),
                "plan": self._plan(),
                "planned_updates": self.options["updates"],
                **self.cards[-1].to_dict(),
            },
        }

    def _plan(self) -> dict[str, Any] | None:
        """What a run in minutes has settled."""
        settings = self.settings
        if settings.minutes is None:
            return None
        settled = {} if self.is_open else {"epochs": settings.epochs, "updates": settings.max_steps}
        return {"minutes": settings.minutes, **settled}

    def _torch_states(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """State dicts as torch's own classes write them, so that any loop of torch's goes on from them."""
        settings, epoch, updates = self.settings, self.position["epoch"], self.position["updates"]
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=_native.ADAM_BETAS,
            eps=_native.ADAM_EPS,
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=settings.epochs)
        rate = _native.learning_rate(self.options, epoch, updates)
        scheduler.last_epoch, scheduler._step_count, scheduler._last_lr = epoch, epoch + 1, [rate]
        optimizer.param_groups[0]["lr"] = rate
        if updates > 0:
            step = torch.tensor(float(updates))
            views = zip(self.parameters, *(self._views(flat) for flat in self.moments), strict=True)
            for parameter, first, second in views:
                # copies: in the file each tensor is its own, as torch.optim writes them
                optimizer.state[parameter] = {
                    "step": step.clone(),
                    "exp_avg": first.clone(),
                    "exp_avg_sq": second.clone(),
                }
        return optimizer.state_dict(), scheduler.state_dict()

    def _views(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def _scaler_state(self) -> dict[str, Any]:
        """What torch.amp.GradScaler's state dict holds; empty when no scaler is at work."""
        if self.settings.precision != "fp16":
            return {}
        scaler = torch.GradScaler("cpu", init_scale=self.position["scale"])
        return {
            **scaler.state_dict(),
            "scale": self.position["scale"],
            "_growth_tracker": self.position["scale_healthy"],
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint (checked before), the course's or ours."""
        self.model.load_state_dict(saved["model"])
        self.ema.shadow.load_state_dict(saved["ema"]["shadow"])
        state = saved["optimizer"]["state"]
        if state:
            places = [index for index, p in enumerate(self.model.parameters()) if p.requires_grad]
            views = zip(places, *(self._views(flat) for flat in self.moments), strict=True)
            for index, first, second in views:
                first.copy_(state[index]["exp_avg"])
                second.copy_(state[index]["exp_avg_sq"])
        self.history = [float(loss) for loss in saved.get("history", [])]
        self.best_loss = float(saved.get("best_loss", min(self.history, default=float("inf"))))
        own = saved.get(checkpoint.OWN)
        if own is None:
            self.move_to(self._position_of_the_course(saved))
        else:
            self.val_history = list(own["val_history"])
            plan = own.get("plan") or {}
            if self.is_open and "updates" in plan:
                self.settings.minutes = plan["minutes"]
                most = self.settings.max_steps
                updates = plan["updates"] if most is None else min(plan["updates"], most)
                self.settle(Length(epochs=plan["epochs"], updates=updates))
            self.note_card(ModelCard.from_dict(own))
            self.move_to({**self.position, **own["position"]})

    def _position_of_the_course(self, saved: dict[str, Any]) -> dict[str, Any]:
        state, scaler = saved["optimizer"]["state"], saved.get("scaler") or {}
        updates = int(next(iter(state.values()))["step"]) if state else 0
        position = {**self.position, "epoch": saved["epoch"] + 1, "updates": updates, "averaged": updates}
        position["initial_share"] = float(saved["ema"]["decay"]) ** updates
        if "scale" in scaler:
            position["scale"], position["scale_healthy"] = (
                float(scaler["scale"]),
                int(scaler["_growth_tracker"]),
            )
        return position
