"""One training run as the engine's loop sees it: it asks here for batches, and tells how far it has come."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion import _native, _random, checkpoint
from rust_diffusion.batches import Batches, images_of
from rust_diffusion.model import EMA, DiffusionUNet
from rust_diffusion.result import EpochInfo

#: torch.optim.AdamW's own defaults, which the engine uses too.
ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


@dataclass
class Files:
    """Where a run keeps its files; all None when it keeps none."""

    folder: Path | None
    name: str

    def path(self, suffix: str) -> Path:
        """The path of one of them."""
        assert self.folder is not None
        return self.folder / f"{self.name}{suffix}"

    def paths(self) -> dict[str, Path]:
        """Those that exist, by what they hold."""
        if self.folder is None:
            return {}
        kinds = {"checkpoint": ".ckpt", "ema": ".pth", "raw": "_raw.pth"}
        return {kind: self.path(suffix) for kind, suffix in kinds.items() if self.path(suffix).exists()}


class Run:
    """The state of a run, and the host of the engine's loop (its public methods are called from there)."""

    def __init__(
        self,
        model: DiffusionUNet,
        ema: EMA,
        batches: Batches,
        betas: Tensor,
        options: dict[str, Any],
        files: Files,
        progress: bool,
        callback: Callable[[EpochInfo], Any] | None,
    ) -> None:
        self.model, self.ema, self.batches, self.betas = model, ema, batches, betas
        self.options, self.files, self.progress, self.callback = options, files, progress, callback
        self.parameters = list(model.parameters())
        sizes = [p.numel() for p in self.parameters]
        self.moments = tuple(torch.zeros(sum(sizes), device=self.parameters[0].device) for _ in range(2))
        self.history: list[float] = []
        self.val_history: list[float | None] = []
        self.best_loss = float("inf")
        self.position: dict[str, Any] = _native.first_position()
        self.epochs_run, self.images, self.seconds = 0, 0, 0.0
        self._saved: dict[str, Any] | None = None
        self._resume: dict[str, Any] | None = None
        self._epoch_start: dict[str, Any] | None = None
        self._step_start: dict[str, Any] | None = None
        self._interrupted = self._cannot_save = False
        self._iterator: Iterator[Any] = iter(())
        self._bar: Any = None

    def go(self) -> None:
        """Train from `position` to the end."""
        try:
            _native.train_network(
                self.model._native,
                self.parameters,
                list(self.ema.shadow.parameters()),
                self.moments,
                self.betas,
                self.options,
                self.position,
                self,
            )
        finally:
            self._close_bar()
            self._iterator = iter(())

    # ------------------------------------------------------------------ what the loop asks and tells

    def begin_epoch(self, position: dict[str, Any]) -> None:
        """Make the epoch's iterator; random states are those of the epoch's beginning until the first batch."""
        self.position = position
        resume, self._resume = self._resume, None
        skip = position["batch"]
        if resume is not None:
            _random.restore(resume["epoch_start"], self.batches.generators)
        self._epoch_start = _random.capture(self.batches.generators)

        def ready() -> None:
            if resume is not None and skip > 0:
                _random.restore(resume["now"], self.batches.generators)

        self._open_bar(position)
        self._began = time.perf_counter()
        try:
            self._iterator = iter(self.batches.epoch(position["epoch"], skip, ready))
        except KeyboardInterrupt:
            self._interrupted = True
            raise

    def next_batch(self, fresh: bool) -> tuple[Tensor, int, int] | None:
        """Return (images, images in the whole batch, the first one's place in it), or None at the epoch's end."""
        if fresh:
            self._step_start = _random.capture(self.batches.generators)
        try:
            batch = next(self._iterator, None)
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        if batch is None:
            return None
        images = images_of("data", batch)
        height, width = images.shape[-2:]
        self.model.image_size = self.ema.shadow.image_size = (height, width)
        self.images += len(images)
        return images, len(images), 0

    def show(self, batch: int, loss: float, mean: float, images_per_second: float) -> None:
        """Bring the bar up to date."""
        if self._bar is None:
            return
        self._bar.set_postfix(
            {"loss": f"{loss:.5f}", "avg": f"{mean:.5f}", "img/s": f"{images_per_second:.1f}"}, refresh=False
        )
        self._bar.update(batch - self._bar.n)

    def end_epoch(
        self, epoch: int, loss: float, rate: float, images_per_second: float, position: dict[str, Any]
    ) -> bool:
        """Write the files, then tell the callback; False ends the run."""
        self.seconds += time.perf_counter() - self._began
        self._finish_bar(loss, images_per_second)
        self.history.append(loss)
        self.epochs_run += 1
        self.position, self._epoch_start = position, None
        self._note_share(position)
        with _no_interrupts():
            self._save_epoch(loss)
        if self.callback is None:
            return True
        info = EpochInfo(epoch, loss, rate, images_per_second, self.ema)
        return self.callback(info) is not False

    def stopped(self, position: dict[str, Any], within_step: bool) -> None:
        """Save a run that ends inside an epoch; what was saved last is enough if nothing happened since."""
        self._note_share(position)
        unchanged = position == self._saved
        nothing_done = self._saved is None and position == _native.first_position() and not self._interrupted
        self.position = position
        if self.files.folder is None or self._cannot_save or unchanged or nothing_done:
            return
        now = self._step_start if within_step else None
        with _no_interrupts():
            self._save_checkpoint(now or _random.capture(self.batches.generators))
        if self.progress:
            tqdm.write(f"Stopped; saved {self.files.path('.ckpt')}. The same call goes on from there.")

    # ------------------------------------------------------------------ files

    def _save_epoch(self, loss: float) -> None:
        best = loss < self.best_loss
        self.best_loss = min(self.best_loss, loss)
        if self.files.folder is None:
            return
        self._cannot_save = True
        if best:
            self.save_weights()
        # Last: a run killed before this line does the epoch again, and writes the same weights again.
        self._save_checkpoint(_random.capture(self.batches.generators))
        self._cannot_save = False

    def save_weights(self) -> None:
        """Write the two weight files."""
        checkpoint.save(self.model.state_dict(), self.files.path("_raw.pth"))
        checkpoint.save(self.ema.shadow.state_dict(), self.files.path(".pth"))

    def _save_checkpoint(self, now: dict[str, Any]) -> None:
        random = {"now": now, "epoch_start": self._epoch_start or now}
        checkpoint.save(self._checkpoint(random), self.files.path(".ckpt"))
        self._saved = self.position

    def _checkpoint(self, random: dict[str, Any]) -> dict[str, Any]:
        optimizer, scheduler = self._torch_states()
        options = self.options
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
                "target_epochs": options["epochs"],
                "learning_rate": options["learning_rate"],
                "weight_decay": options["weight_decay"],
                "ema_decay": options["ema_decay"],
                "grad_clip": options["grad_clip"],
                "num_diffusion_steps": len(self.betas),
            },
            checkpoint.OWN: {
                "format": checkpoint.FORMAT,
                "position": dict(self.position),
                "random": random,
                "order_seed": self.batches.order_seed,
                "precision": options["precision"],
                "objective": options["objective"],
                "model": self.model.config,
                "image_size": self.model.image_size,
                "betas": self.model.betas,
                "val_history": list(self.val_history),
                "torch": str(torch.__version__),
            },
        }

    def _torch_states(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """State dicts as torch's own classes write them, so that any loop of torch's goes on from them."""
        options, epoch = self.options, self.position["epoch"]
        optimizer = torch.optim.AdamW(
            self.parameters,
            lr=options["learning_rate"],
            weight_decay=options["weight_decay"],
            betas=ADAM_BETAS,
            eps=ADAM_EPS,
        )
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options["epochs"])
        rate = _native.learning_rate(options, epoch, self.position["updates"])
        scheduler.last_epoch, scheduler._step_count, scheduler._last_lr = epoch, epoch + 1, [rate]
        optimizer.param_groups[0]["lr"] = rate
        if self.position["updates"] > 0:
            step = torch.tensor(float(self.position["updates"]))
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
        if self.options["precision"] != "fp16":
            return {}
        scaler = torch.amp.GradScaler("cpu", init_scale=self.position["scale"])
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
        for index, views in enumerate(zip(*(self._views(flat) for flat in self.moments), strict=True)):
            if state:
                views[0].copy_(state[index]["exp_avg"])
                views[1].copy_(state[index]["exp_avg_sq"])
        self.history = [float(loss) for loss in saved.get("history", [])]
        self.best_loss = float(saved.get("best_loss", min(self.history, default=float("inf"))))
        own = saved.get(checkpoint.OWN)
        if own is None:
            self.position = self._position_of_the_course(saved)
            return
        self.position = {**self.position, **own["position"]}
        self._resume, self.batches.order_seed = own["random"], own["order_seed"]
        self.val_history = list(own["val_history"])
        self._saved = self.position
        self._note_share(self.position)

    def _position_of_the_course(self, saved: dict[str, Any]) -> dict[str, Any]:
        state, scaler = saved["optimizer"]["state"], saved.get("scaler") or {}
        updates = int(state[0]["step"]) if state else 0
        position = {
            **self.position,
            "epoch": int(saved["epoch"]) + 1,
            "updates": updates,
            "averaged": updates,
        }
        position["initial_share"] = float(saved["ema"].get("decay", self.ema.decay)) ** updates
        if "scale" in scaler:
            position["scale"], position["scale_healthy"] = (
                float(scaler["scale"]),
                int(scaler["_growth_tracker"]),
            )
        return position

    def _note_share(self, position: dict[str, Any]) -> None:
        self.ema.shadow._initial_share = position["initial_share"]

    # ------------------------------------------------------------------ the bar

    def _open_bar(self, position: dict[str, Any]) -> None:
        if self.progress:
            self._bar = tqdm(
                total=self.batches.count(),
                initial=position["batch"],
                desc=f"DDPM epoch {position['epoch'] + 1}/{self.options['epochs']}",
                leave=True,
            )

    def _finish_bar(self, loss: float, images_per_second: float) -> None:
        if self._bar is None:
            return
        if self._bar.total is not None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.set_postfix({"avg": f"{loss:.5f}", "img/s": f"{images_per_second:.1f}"})
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C while files are written; it is raised afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *args: came.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])
