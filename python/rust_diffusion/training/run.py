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

from torch import Tensor
from tqdm.auto import tqdm

from rust_diffusion import _native
from rust_diffusion.files import checkpoint, weights
from rust_diffusion.support import graphs, guards, random
from rust_diffusion.training.batches import Batches
from rust_diffusion.training.distributed import Group
from rust_diffusion.training.log import COLUMNS, RunLog
from rust_diffusion.training.result import EpochInfo
from rust_diffusion.training.state import State
from rust_diffusion.training.validation import validation_loss


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


@dataclass
class Surroundings:
    """What a run has around it."""

    batches: Batches
    betas: Tensor
    files: Files
    group: Group
    progress: bool = True
    callback: Callable[[EpochInfo], Any] | None = None
    val_batches: Batches | None = None
    log_dir: Path | None = None


class Run:
    """The host of the engine's loop, which calls the methods of the first section."""

    def __init__(self, state: State, around: Surroundings) -> None:
        self.state, self.around = state, around
        self.batches, self.files, self.group = around.batches, around.files, around.group
        self.device = state.parameters[0].device
        self.epochs_run, self.images, self.seconds = 0, 0, 0.0
        self._began = 0.0
        self._running_since: float | None = None
        self._largest_batch = 0
        self._first_batch = 0
        self._saved: dict[str, Any] | None = None
        self._resume: dict[str, Any] | None = None
        self._epoch_start: dict[str, Any] | None = None
        self._step_start: dict[str, Any] | None = None
        self._interrupted = self._cannot_save = False
        self._iterator: Iterator[Any] = iter(())
        self._bar: Any = None
        self._log: RunLog | None = None

    def resume(self, own: dict[str, Any] | None) -> None:
        """Go on from the state's position, with what a checkpoint of ours says beyond it."""
        if own is not None:
            self._saved = self.state.position
            self._resume = own["random"]
            # None where other data made the order; a tensor brings a seed of its own.
            if own["order_seed"] is not None:
                self.batches.order_seed = own["order_seed"]
            self._complete_weights()

    def go(self) -> None:
        """Train from the state's position to the end."""
        state = self.state
        if self.around.log_dir is not None and self.group.rank == 0:
            self._log = RunLog(self.around.log_dir, self.files.name, state.position["epoch"])
        try:
            _native.train_network(
                state.model._native,
                list(state.parameters),
                list(state.ema.shadow.parameters()),
                state.moments,
                self.around.betas,
                state.options,
                state.position,
                self,
                (graphs.new(self.device), graphs.new(self.device)),
            )
        finally:
            self._close_bar()
            self._stop_clock()
            self._iterator = iter(())
            if self._log is not None:
                self._log.close()

    # ------------------------------------------------------------------ what the loop asks and tells

    def begin_epoch(self, position: dict[str, Any]) -> None:
        """Make the epoch's iterator. Nothing is drawn before the first batch is asked for."""
        self.state.move_to(position)
        resume, self._resume = self._resume, None
        skip = position["batch"]
        if resume is not None:
            self._restore(resume["epoch_start"])
        self._epoch_start = self._random_state()

        def ready() -> None:
            if resume is not None and skip > 0:
                self._restore(resume["now"])

        self._open_bar(position)
        self._began = self._running_since = time.perf_counter()
        with self._noting_interrupts():
            share = (self.group.rank, self.group.processes)
            self._iterator = iter(self.batches.epoch(position["epoch"], skip, ready, share))

    def next_batch(self, fresh: bool) -> tuple[Tensor, int, int] | None:
        """Return (own images, images in the whole batch, place of the first); None at the epoch's end."""
        if fresh:
            torch_only = not self.batches.runs_code
            self._step_start = random.capture(self.device, self.batches.generators, torch_only)
        with self._noting_interrupts():
            share = next(self._iterator, None)
        if share is None:
            return None
        self.state.note_images(share.images)
        self.images += share.total
        self._largest_batch = max(self._largest_batch, share.total)
        return graphs.sent(share.images, self.device), share.total, share.first

    def all_reduce(self, flat: Tensor) -> None:
        """Sum over the processes."""
        self.group.all_reduce(flat)

    def show(self, batch: int, loss: float, mean: float, images_per_second: float) -> None:
        """Bring the bar up to date."""
        if self._bar is not None:
            numbers = {"loss": f"{loss:.5f}", "avg": f"{mean:.5f}", "img/s": f"{images_per_second:.1f}"}
            self._bar.set_postfix({**numbers, **self._time_left(batch)}, refresh=False)
            self._bar.update(batch - self._bar.n)

    def end_epoch(
        self, epoch: int, loss: float, rate: float, images_per_second: float, position: dict[str, Any]
    ) -> bool:
        """Validate, write the files, tell the callback; False ends the run."""
        self._stop_clock()
        self._finish_bar(loss, images_per_second)
        self.state.history.append(loss)
        self.epochs_run += 1
        self.state.note_all_seen()
        self.state.move_to(position)
        self._epoch_start = None
        info = EpochInfo(epoch, loss, rate, images_per_second, self.state.ema)
        return self.group.share(lambda: self._conclude(info))

    def stopped(self, position: dict[str, Any], within_step: bool) -> None:
        """Save a run that ends inside an epoch; what was saved last is enough if nothing happened since."""
        unchanged = position == self._saved
        nothing_done = self._saved is None and position == _native.first_position() and not self._interrupted
        self.state.move_to(position)
        if self.files.folder is None or self._cannot_save or unchanged or nothing_done:
            return
        now = self._step_start if within_step else None
        with _no_interrupts():
            self._save_checkpoint(now or self._random_state())
        self.say(f"Stopped; saved {self.files.path('.ckpt')}. The same call goes on from there.")

    def advice(self) -> str:
        """What to do when a batch does not fit into memory."""
        half = "batch_size={0}, and accumulate=2 to make the same updates"
        where = half if self.batches.sized_here else "a DataLoader, or batches, of {0}"
        return guards.try_batch_of(self._largest_batch, where)

    # ------------------------------------------------------------------ the end of an epoch, on rank 0

    def _conclude(self, info: EpochInfo) -> bool:
        try:
            if self.around.val_batches is not None:
                info = info._replace(val_loss=self._validate(self.around.val_batches))
        finally:
            # also if the validation was interrupted: the epoch is over, and is not lost
            if self.around.val_batches is not None:
                self.state.val_history.append(info.val_loss)
            with _no_interrupts():
                self._save_epoch(info)
        return self.around.callback is None or self.around.callback(info) is not False

    def _validate(self, batches: Batches) -> float:
        return validation_loss(self.state.model, batches, self.around.betas, self.state.options["objective"])

    def _save_epoch(self, info: EpochInfo) -> None:
        state = self.state
        best = info.loss < state.best_loss
        state.best_loss = min(state.best_loss, info.loss)
        if self._log is not None:
            row = (info.epoch, info.loss, info.val_loss, info.lr, info.images_per_second)
            self._log.write(dict(zip(COLUMNS, (*row, state.position["updates"]), strict=True)))
        if self.files.folder is None:
            return
        self._cannot_save = True
        # The checkpoint first: averaged weights without one would pass for a run that is finished.
        self._save_checkpoint(self._random_state())
        if best:
            self.save_weights()
        self._cannot_save = False

    def save_weights(self) -> None:
        """Write the two weight files."""
        weights.save(self.state.model, self.files.path("_raw.pth"))
        weights.save(self.state.ema.shadow, self.files.path(".pth"))

    def _complete_weights(self) -> None:
        """Write the best epoch's weights if a run may have been killed between its checkpoint and them."""
        state = self.state
        best_is_last = bool(state.history) and state.history[-1] == state.best_loss
        if best_is_last and state.position["batch"] == 0 and self.group.rank == 0:
            self.save_weights()

    def _save_checkpoint(self, now: dict[str, Any]) -> None:
        random = {"now": now, "epoch_start": self._epoch_start or now}
        value = self.state.to_checkpoint(random, self.batches.order_seed)
        checkpoint.save(value, self.files.path(".ckpt"))
        self._saved = self.state.position

    # ------------------------------------------------------------------ random states and interrupts

    def _random_state(self) -> dict[str, Any]:
        return random.capture(self.device, self.batches.generators)

    def _restore(self, state: dict[str, Any]) -> None:
        random.restore(state, self.device, self.batches.generators)

    @contextlib.contextmanager
    def _noting_interrupts(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._interrupted = True
            raise

    # ------------------------------------------------------------------ the bar

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.around.progress and self.group.rank == 0:
            tqdm.write(text)

    def _stop_clock(self) -> None:
        if self._running_since is not None:
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None

    def _open_bar(self, position: dict[str, Any]) -> None:
        self._first_batch = position["batch"]
        if self.around.progress and self.group.rank == 0:
            self._bar = tqdm(
                total=self.batches.count(),
                initial=position["batch"],
                desc=f"DDPM epoch {position['epoch'] + 1}/{self.state.options['epochs']}",
                leave=True,
            )

    def _time_left(self, batch: int) -> dict[str, str]:
        """How long all the epochs will take, at the speed of this one."""
        count, done = self.batches.count(), batch - self._first_batch
        if count is None or done <= 0:
            return {}
        left = (self.state.options["epochs"] - self.state.position["epoch"]) * count - batch
        return {"left": tqdm.format_interval(left * (time.perf_counter() - self._began) / done)}

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
