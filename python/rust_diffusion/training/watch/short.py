"""Whether a run is long enough for its averaged weights and for what it is to predict, and whether it went well."""

from __future__ import annotations

from rust_diffusion.model.card import MAX_INITIAL_SHARE
from rust_diffusion.support.warning import warn
from rust_diffusion.training.settings import RISING_AT_FIRST, Settings
from rust_diffusion.training.state import State

#: What a well-chosen average leaves of the weights it began with.
_GOOD_SHARE = 0.01
#: Updates in which a network does not learn the noise of nearly pure noise.
_FEW = 2000
#: One in so many updates is enough for a rate to rise over.
_SHARE_OF_RISE = 20
#: No loss is so large unless weights have run away.
_BROKEN = 10.0
#: And images that are not scaled to [-1, 1] have squares so many times their variance.
_SPREAD = 10.0
#: A last loss so many times the best is no chance any more, over epochs of so many updates.
_RISE, _ENOUGH = 2.0, 16


def warn_of_what_is_short(state: State, batches: int | None) -> None:
    """Warn before a run gets far of what it has too few updates for; `batches` are an epoch's, if the data say."""
    _warn_of_accumulation(state.settings.accumulate, batches)
    updates = state.updates_left(batches)
    if updates is None:
        return
    more = state.what_limits(batches)
    if not state.settings.ema_warmup:
        _warn_of_average(state, updates, more)
    updates += state.position["updates"]
    _warn_of_rise(state.settings, updates, more)
    if state.settings.objective == "eps" and updates < _FEW:
        warn(
            f"{updates:,} updates are few for objective='eps': DDIM's first steps, from nearly pure noise, multiply "
            f"its error, and what is drawn may be grey. objective='v' draws with fewer."
        )


def _warn_of_accumulation(accumulate: int, batches: int | None) -> None:
    """Updates that are to have more batches than there are: none reaches into the next epoch."""
    if batches is not None and accumulate > batches:
        warn(
            f"accumulate={accumulate} is more than an epoch's batches, which are {batches}: an update ends with its "
            f"epoch, and has no more than those"
        )


def _warn_of_rise(settings: Settings, updates: int, more: str) -> None:
    """A run that is over before its rate has risen."""
    warmup = settings.warmup_steps
    if settings.lr_schedule in RISING_AT_FIRST and updates <= warmup:
        warn(
            f"the learning rate rises over the first warmup_steps={warmup} updates, and this run has only {updates}: "
            f"it is over before it comes to learning_rate={settings.learning_rate:g}. Take "
            f"warmup_steps={updates // _SHARE_OF_RISE}, or a larger {more}="
        )


def _warn_of_average(state: State, updates: int, more: str) -> None:
    settings = state.settings
    decay = settings.ema_decay
    share = state.position["initial_share"] * decay**updates
    if share > MAX_INITIAL_SHARE:
        if settings.minutes is not None:
            # some are made by the time that the number is settled
            updates += state.position["updates"]
        forgotten = 1 - _GOOD_SHARE ** (1 / max(updates, 1))
        # rounded where digits tell: 0.99954 is not 1
        enough = 1 - float(f"{forgotten:.3g}")
        warn(
            f"after the {updates} updates of this run {100 * share:.0f} % of the averaged weights (EMA) will still be "
            f"the ones that training began with, at ema_decay={decay:g}: take ema_warmup=True, "
            f"ema_decay={enough:.10g} or less, or a larger {more}="
        )


def warn_of_a_rise(state: State, batches: int | None, in_last_epoch: int) -> None:
    """Warn after a run that fell apart on its way; `batches` are an epoch's, if the data say, and those of the last."""
    history, last = state.history, "last epoch"
    scale = (state.settings.min_snr_gamma or 1.0) * max(1.0, _SPREAD * (state.cards[0].data_variance or 0.0))
    if max(history, default=0.0) > _BROKEN * scale:
        worst = max(history)
        warn(
            f"the loss of epoch {history.index(worst) + 1} was {worst:.3g}, where a network that has learnt nothing "
            f"has about 1: training fell apart, most often because of "
            f"learning_rate={state.settings.learning_rate:g}, too high for this network; try a tenth of it, with "
            f"force_restart=True"
        )
        return
    if batches is not None and in_last_epoch < batches / 2:
        # the mean of a few batches is chance
        history, last = history[:-1], "last whole epoch"
    if batches is None or batches < _ENOUGH * state.settings.accumulate or not history:
        return
    best = min(history)
    if history[-1] > _RISE * best:
        warn(
            f"the loss of the {last}, {history[-1]:.3g}, is {history[-1] / best:.1f} times that of epoch "
            f"{history.index(best) + 1}, {best:.3g}: training fell apart on its way, most often because of "
            f"learning_rate={state.settings.learning_rate:g}, too high for this network; try a half or a tenth of it"
        )
