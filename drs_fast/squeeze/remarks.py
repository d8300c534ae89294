"""One line on what the bounds of a run bring, or why there are none."""

import math
from typing import NamedTuple

from drs_fast.squeeze import audit
from drs_fast.squeeze.search import HORIZON, MOST_WORK, WORTH, needed
from drs_fast.squeeze.state import SqueezeState
from drs_fast.squeeze.work import in_the_time_of

# Why no bound is used, in a few words.
REFUSED = "use_bound=False"
TOO_LONG = "a search would take too long"
NONE_FOUND = "no bound is known to lose as little as tolerance says"
NO_TIME = "too little to gain to pay for a search"
TOO_LITTLE = "the best bound saves less than 5 % of the work"


class Limits(NamedTuple):
    """What was asked of a bound; low: the precision that may be one, and its cost."""

    tolerance: float
    unseen: float
    use_bound: bool | None
    low: str
    low_cost: float


def unused(limits: Limits, state: SqueezeState) -> str:
    """Why no bound is used, in a few words; "" if one is."""
    _, without, squeezed, _ = state.work.tolist()
    if limits.use_bound is False:
        return REFUSED
    if float(state.high) == 1.0 and not float(state.samples):
        return TOO_LONG
    if float(state.high) > limits.tolerance + limits.unseen:
        return NONE_FOUND
    if not state.used:
        return NO_TIME if squeezed < WORTH * without else TOO_LITTLE
    return ""


def none_found(limits: Limits) -> str:
    beyond = f" + unseen={limits.unseen:g}" if limits.unseen else ""
    return (
        "no bound was found that is known to lose at most "
        f"tolerance={limits.tolerance:g}{beyond} of the samples"
    )


def remark(limits: Limits, state: SqueezeState) -> str:
    """What the bounds bring, or why none is used."""
    calls, without, squeezed, search = state.work.tolist()
    why = unused(limits, state)
    if why == REFUSED:
        return "squeeze: not used, as use_bound=False says"
    if why == TOO_LONG:
        most = in_the_time_of(MOST_WORK, state.log_m.device)
        takes = needed(limits.tolerance, limits.unseen) * calls
        enough = 2.0 * audit.UNSEEN * without / most  # a search may find a larger log_m
        return (
            f"squeeze: not used, for it takes {takes:,.0f} calls of G and D, more than the "
            f"{most:.2g} operations that a search may take, to show that a bound loses at most "
            f"tolerance={limits.tolerance:g} of the samples; unseen={min(enough, 1.0):.2g} "
            "beyond that needs no more, and use_bound=True knows no limit"
        )
    if why == NONE_FOUND:
        return f"squeeze: not used, for {none_found(limits)}"
    if why == NO_TIME:
        return (
            f"squeeze: not used, for the best bound could save {without - squeezed:.2g} of "
            f"{without:.2g} operations a sample, too little to pay for a search within "
            f"{HORIZON:,} samples"
        )
    if why == TOO_LITTLE:
        return (
            f"squeeze: not used, for a sample takes {without:.3g} operations without a bound "
            f"and {squeezed:.3g} with one, which must be at least 5 % less"
        )
    fewer = float(state.calls / state.acceptance)
    pays = "it never pays"
    if squeezed < without:
        pays = f"the search pays from n = {math.ceil(search / (without - squeezed)):,} on"
    return (
        f"squeeze: a sample takes {fewer:,.2f} calls of G and D instead of {calls:,.2f}, and "
        f"{squeezed / without:.2g} of the work{_by_low(limits, state)}; {pays}"
    )


def _by_low(limits: Limits, state: SqueezeState) -> str:
    """What each kind of bound leaves, where low precision is one."""
    if not len(state.low):
        return ""
    share, left = float(state.low[1]), float(state.calls)
    networks = f"networks pass on {share:.3g} of the rows, " if state.numbers.networks else ""
    of = "those" if networks else "the rows"
    return (
        f" ({networks}{limits.low}, at {limits.low_cost:.2g} of a call, passes on "
        f"{min(1.0, left / share):.3g} of {of})"
    )
