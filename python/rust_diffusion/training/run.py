"""One training run as the engine's loop sees it: it asks here for batches, and tells how far it has come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rust_diffusion import _native
from rust_diffusion.support import graphs, guards, interrupts, random
from rust_diffusion.training.batches import Batches
from rust_diffusion.training.distributed import Group
from rust_diffusion.training.keeping import Files, Keeper
from rust_diffusion.training.network import AutogradNetwork, runs_in_engine
from rust_diffusion.training.plan import Budget, Length
from rust_diffusion.training.plan.settling import Settling
from rust_diffusion.training.result import EpochInfo
from rust_diffusion.training.state import State
from rust_diffusion.training.watch import Bar, Looks, RunLog, warn_of_a_rise, warn_of_what_is_short


@dataclass
class Surroundings:
    """What a run has around it."""

    batches: Batches
    betas: Tensor
    files: Files
    group: Group
    looks: Looks
    callback: Callable[[EpochInfo], Any] | None = None
    log_dir: Path | None = None
    budget: Budget | None = None


class Run:
    """The host of the engine's loop, which calls the methods of the first section."""

    def __init__(self, state: State, around: Surroundings) -> None:
        self.state, self.around = state, around
        self.batches, self.files, self.group = around.batches, around.files, around.group
        self.device = state.parameters[0].device
        self.keeper = Keeper(around.files, state, active=self._is_first)
        self.epochs_run, self.images, self.seconds = 0, 0, 0.0
        shown = state.settings.progress and self._is_first
        self._bar = Bar(shown, self._epochs, self.batches.count())
        self._settling: Settling | None = None
        if around.budget is not None:
            save = self._save_now if self.keeper.active else None
            self._settling = Settling(around.budget, state, around.looks, self.batches.count(), save)
        #: Seconds of the last end of an epoch that were the callback's.
        self._in_callback = 0.0
        self._log: RunLog | None = None
        self._running_since: float | None = None
        self._largest_batch = 0
        #: Batches so far of the epoch that is trained, and all those of the last one that ended.
        self._in_epoch = self._in_last_epoch = 0
        self._resume: dict[str, Any] | None = None
        self._epoch_start: dict[str, Any] | None = None
        self._step_start: dict[str, Any] | None = None
        self._interrupted = False
        self._iterator: Iterator[Any] = iter(())

    @property
    def _is_first(self) -> bool:
        return self.group.rank == 0

    @property
    def _epochs(self) -> int | None:
        """How many there are to be; None while the run is open, and where only its updates are settled."""
        settings, counted = self.state.settings, self.batches.count() is not None
        known = not self.state.is_open and (counted or settings.minutes is None)
        return settings.epochs if known else None

    def resume(self, own: dict[str, Any] | None) -> None:
        """Go on from the state's position, with what a checkpoint of ours says beyond it."""
        if self.state.settings.minutes is not None and not self.state.is_open:
            self._settle_bar()
        if own is not None:
            self.keeper.position = self.state.position
            self._resume = own["random"]
            # None where other data made the order; a tensor brings a seed of its own.
            if own["order_seed"] is not None:
                self.batches.order_seed = own["order_seed"]
            self.keeper.complete_weights()
            if self._is_first and self.state.position["batch"] == 0:
                self.around.looks.make_up(self.state)

    def go(self) -> None:
        """Train from the state's position to the end."""
        state = self.state
        if self.around.log_dir is not None and self._is_first:
            self._log = RunLog(self.around.log_dir, self.files.name, state.position["epoch"])
        try:
            with self.group.interrupts():
                self._train()
        finally:
            self._bar.close()
            self._stop_clock()
            self._iterator = iter(())
            if self._log is not None:
                self._log.close()
        self.keeper.ensure_weights()
        if self._is_first:
            warn_of_a_rise(state, self.batches.count(), self._in_last_epoch)

    def _train(self) -> None:
        state, model = self.state, self.state.model
        ours = runs_in_engine(model)
        network = model._native if ours else AutogradNetwork(model, state.settings.precision)
        _native.train_network(
            network,
            state.parameters,
            state.averages,
            state.moments,
            self.around.betas,
            state.options,
            state.position,
            self,
            (graphs.new(self.device) if ours else None, graphs.new(self.device)),
        )

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

        self._in_epoch = skip
        self._bar.open(position["epoch"], skip)
        self._running_since = time.perf_counter()
        with self._noting_interrupts():
            part = (self.group.rank, self.group.processes)
            self._iterator = iter(self.batches.epoch(position["epoch"], skip, ready, part))

    def next_batch(self, fresh: bool) -> tuple[Tensor, int, int] | None:
        """Return (own images, images in the whole batch, place of the first); None at the epoch's end."""
        if fresh:
            torch_only = not self.batches.runs_code
            self._step_start = random.capture(self.device, self.batches.generators, torch_only)
        with self._noting_interrupts():
            share = next(self._iterator, None)
        if share is None:
            return None
        self.batches.check_range(share.images)
        self.state.note_images(share.images)
        self.around.looks.note_images(share.images)
        self.images += share.total
        self._in_epoch += 1
        self._largest_batch = max(self._largest_batch, share.total)
        return graphs.sent(share.images, self.device), share.total, share.first

    def settle(self, position: dict[str, Any]) -> Length | None:
        """The run's length, once the budget can tell; asked after each update while it is open."""
        assert self._settling is not None  # only a run in minutes is open
        self.state.move_to(position)
        length = self.group.share(self._settling.length)
        if length is not None:
            self.state.settle(length)
            self._settle_bar()
            words = self._settling.in_words(length)
            self.group.share(lambda: self._conclude_settling(words))
        return length

    def all_reduce(self, flat: Tensor) -> None:
        """Sum over the processes."""
        self.group.all_reduce(flat)

    def agree(self, interrupted: bool, failed: bool) -> None:
        """End the run here if it ended on another process."""
        with self._noting_interrupts():
            self.group.agree(interrupted, failed)

    def show(self, batch: int, loss: float, mean: float, images_per_second: float) -> None:
        """Bring the bar up to date."""
        self._bar.show(batch, loss, mean, images_per_second)

    def end_epoch(
        self, epoch: int, loss: float, rate: float, images_per_second: float, position: dict[str, Any]
    ) -> bool:
        """Validate, write the files, tell the callback; False ends the run."""
        self._stop_clock()
        self._bar.finish(loss, images_per_second)
        state, self.epochs_run, self._epoch_start = self.state, self.epochs_run + 1, None
        self._in_last_epoch = self._in_epoch
        state.history.append(loss)
        state.best_loss = min(state.best_loss, loss)
        state.note_all_seen()
        state.move_to(position)
        info = EpochInfo(epoch, loss, rate, images_per_second, state.ema, epochs=self._epochs)
        began = Budget.now()
        go_on, val_loss = self.group.share(lambda: self._conclude(info))
        if self._settling is not None:
            self._settling.note_end(Budget.now() - began, self._in_callback)
        if self.around.looks.validates and not self._is_first:
            state.val_history.append(val_loss)
        return go_on

    def stopped(self, position: dict[str, Any], within_step: bool) -> None:
        """Save a run that ends inside an epoch; what was saved last is enough if nothing happened since."""
        keeper = self.keeper
        unchanged = position == keeper.position
        untouched = keeper.position is None and position == _native.first_position() and not self._interrupted
        self.state.move_to(position)
        if not keeper.active or keeper.failed or unchanged or untouched:
            return
        now = self._step_start if within_step else None
        with interrupts.held_back():
            self._save_checkpoint(now or self._random_state())
        path = self.files.path(".ckpt")
        if self.state.is_finished:
            most = self.state.settings.max_steps
            self.say(f"max_steps={most} reached; saved {path}. A larger max_steps= goes on from there.")
        else:
            self.say(f"Stopped; saved {path}. The same call goes on from there.")

    # ------------------------------------------------------------------ the end of an epoch, on rank 0

    def _conclude(self, info: EpochInfo) -> tuple[bool, float | None]:
        """Whether to go on, and the validation loss."""
        looks, state = self.around.looks, self.state
        try:
            info = info._replace(val_loss=looks.validation_loss(state.model))
        finally:
            # also if the validation was interrupted: the epoch is over, and is not lost
            if looks.validates:
                state.val_history.append(info.val_loss)
            with interrupts.held_back():
                self._write_log(info)
                self.keeper.keep_epoch(self._save_now)
        looks.leave_samples(info.epoch, state.ema.shadow)
        began = Budget.now()
        go_on = self.around.callback is None or self.around.callback(info) is not False
        self._in_callback = Budget.now() - began
        return go_on, info.val_loss

    def _conclude_settling(self, words: str) -> None:
        """Keep the length that was settled, and say it."""
        if self.keeper.active:
            self._save_now()
        self.say(words)
        warn_of_what_is_short(self.state, self.batches.count())

    def _write_log(self, info: EpochInfo) -> None:
        if self._log is not None:
            row = {key: value for key, value in info._asdict().items() if key not in ("ema", "epochs")}
            self._log.write({**row, "epoch": info.epoch + 1, "updates": self.state.position["updates"]})

    def _save_now(self) -> None:
        self._save_checkpoint(self._random_state())

    def _save_checkpoint(self, now: dict[str, Any]) -> None:
        states = {"now": now, "epoch_start": self._epoch_start or now}
        self.keeper.save_checkpoint(states, self.batches.order_seed)

    # ------------------------------------------------------------------ random states, interrupts, words

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

    def say(self, text: str) -> None:
        """A line beside the bar, or for the log: once, however many processes there are."""
        if self._is_first:
            self._bar.say(text)

    def _settle_bar(self) -> None:
        """Let the bar know how long the run is, in batches."""
        settings, count = self.state.settings, self.batches.count()
        assert settings.max_steps is not None  # minutes settle updates
        batches = settings.max_steps * settings.accumulate
        if count is not None:
            # the last update of an epoch may have fewer batches than the others
            epochs, updates = divmod(settings.max_steps, settings.updates_in(count))
            batches = epochs * count + updates * settings.accumulate
        self._bar.settle(self._epochs, batches)

    def advice(self) -> str:
        """What to do when a batch does not fit into memory."""
        half = "batch_size={0}, and accumulate=2 to make the same updates"
        where = half if self.batches.sized_here else "a DataLoader, or batches, of {0}"
        return guards.try_batch_of(self._largest_batch, where)

    def _stop_clock(self) -> None:
        if self._running_since is not None:
            self.seconds += time.perf_counter() - self._running_since
            self._running_since = None
