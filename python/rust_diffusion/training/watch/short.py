"""Whether a run is long enough for its averaged weights, and for what it is to predict."""

from __future__ import annotations

from rust_diffusion.model.card import MAX_INITIAL_SHARE
from rust_diffusion.support.warning import warn
from rust_diffusion.training.state import State

#: What a well-chosen average leaves of the weights it began with.
_GOOD_SHARE = 0.01
#: Updates in which a network does not learn the noise of nearly pure noise.
_FEW = 2000


def warn_of_what_is_short(state: State, batches: int | None) -> None:
    """Warn before a run gets far of what it has too few updates for; `batches` are an epoch's, if the data say."""
    updates = state.updates_left(batches)
    if updates is None:
        return
    if not state.settings.ema_warmup:
        _warn_of_average(state, updates)
    updates += state.position["updates"]
    if state.settings.objective == "eps" and updates < _FEW:
        warn(
            f"{updates:,} updates are few for objective='eps': DDIM's first steps, from nearly pure noise, multiply "
            f"its error, and what is drawn may be grey. objective='v' draws with fewer."
        )


def _warn_of_average(state: State, updates: int) -> None:
    decay = state.settings.ema_decay
    share = state.position["initial_share"] * decay**updates
    if share > MAX_INITIAL_SHARE:
        enough = _GOOD_SHARE ** (1 / max(updates, 1))
        warn(
            f"after the {updates} updates of this run {100 * share:.0f} % of the averaged weights (EMA) will still be "
            f"the ones that training began with, at ema_decay={decay:g}: take ema_warmup=True, "
            f"ema_decay={enough:.3g} or less, or more epochs"
        )
