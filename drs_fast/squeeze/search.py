"""Finds bounds for a GAN: rows to fit to, margins that keep the tolerance, and what they cost."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.ratio.fitting import Draws
from drs_fast.ratio.intervals import Share
from drs_fast.ratio.rejection import Rejection, RejectionState
from drs_fast.squeeze.audit import UNSEEN, loss, power_of_two, tallied
from drs_fast.squeeze.bound import LARGE, SLICE, TINY, Bound, build, drawn, fit, packed
from drs_fast.squeeze.plan import Margin, Plan, Seen, calls, joined, level, twice_pays
from drs_fast.squeeze.proposals import LEAST, SCANNED, SEARCH_ROW, Proposals, Scan, above
from drs_fast.squeeze.stages import AUDITED, FLOOR, SqueezeState, Stages
from drs_fast.threads import one_thread

ROWS = (
    8_192,
    16_384,
    32_768,
    65_536,
    131_072,
    262_144,
)  # that G and D see for a search, round by round
HORIZON = 300_000  # samples, within which a further round must pay for itself
LUCK = 0.02  # of the calls: what it may bring though the one before it brought nothing
LEAST_S = 10.0  # seconds, about what a search takes
MOST_S = 600.0  # seconds for evenly drawn rows
A_ROW = 1.5  # calls: what a row of a round costs, with its share of the fit and of the scan
MOST = 10.0  # spreads
BISECTIONS = 14
HIDDEN = 0.75  # of the tolerance, for what may hide: that it is less is dear to show
TINY_SHARE = 0.25  # of what the large bound may lose where rows are seen: what the tiny one may
WORTH = 0.95  # of the cost a sample without bounds: what does not come below it is not used


def needed(tolerance: float, unseen: float) -> float:
    """Samples without a bound that show how little may hide."""
    return UNSEEN / (HIDDEN * tolerance + unseen)


class Search:
    """Bounds of what rejects rows; they depend on the seed and the GAN alone.

    tolerance: what they may lose; unseen: and what more, where no row was seen. free: whether
    log_m may rise to the largest logit that is seen.
    """

    def __init__(
        self, decides: Rejection, rng: Rng, tolerance: float, unseen: float, free: bool
    ) -> None:
        self.proposals = Proposals(decides, rng, free)
        self.judge, self.rng, self.before = decides.judge, rng, decides.state
        self.tolerance, self.unseen = tolerance, unseen
        self.draws = Draws(rng.seed, SEARCH_ROW)

    def state(self) -> SqueezeState:
        """All that a run needs."""
        start, acceptance = time.perf_counter(), max(float(self.before.acceptance), LEAST)
        draw, call, ask = self._seconds()
        without, squeezed = (draw + call) / acceptance, (draw + ask) / acceptance + call
        plan = Plan.none(tuple(build(self.judge, w, self.draws) for w in (TINY, LARGE)))
        saving = HORIZON * (without - squeezed)
        used = squeezed < WORTH * without and saving > LEAST_S + ROWS[0] * call  # by the best bound
        if used:
            plan = self._plan(plan, MOST_S / call)
            without, squeezed = (draw + call) / plan.acceptance, math.inf
        if math.isfinite(plan.margins[1]) and plan.high <= self.tolerance + self.unseen:
            state = self._state(plan, self.proposals.decides.state)
            row = self._seconds_of_row(Stages(self.proposals.decides, state))
            squeezed = row / plan.acceptance + (1.0 + AUDITED) * plan.passing * call
        if not (used and squeezed < WORTH * without):
            state = self._state(Plan.none(plan.networks, plan.high, plan.samples), self.before)
        seconds = without, squeezed, time.perf_counter() - start
        return state._replace(seconds=state.log_m.new_tensor(seconds))

    def _state(self, plan: Plan, base: RejectionState) -> SqueezeState:
        used = math.isfinite(plan.margins[1])
        number = base.log_m.new_tensor
        return SqueezeState(
            log_m=base.log_m,
            gamma=base.gamma,
            acceptance=number(plan.acceptance) if used else base.acceptance,
            logits=base.logits,
            proposed=base.proposed,
            weights=packed(plan.networks),
            margins=number(plan.margins),
            audits=number(self._audits(plan) if used else -math.inf),
            calls=number(calls(plan) if used else 1.0),
            high=number(plan.high),
            samples=number(plan.samples),
            checked=plan.checked,
            looked=plan.looked,
            spent=torch.tensor(self.proposals.spent, device=base.logits.device),
            seconds=number([0.0, 0.0, 0.0]),
        )

    def _plan(self, none: Plan, most: float) -> Plan:
        """The bounds to use, if no more than `most` evenly drawn rows are needed for them."""
        acceptance, samples = float(self.before.acceptance), needed(self.tolerance, self.unseen)
        refused = none._replace(high=1.0, acceptance=max(acceptance, LEAST))
        if samples > most * acceptance:
            return refused
        large, seen, fresh, scan = self.large()
        tiny, acceptance = self.fitted(TINY, seen), self.proposals.acceptance(fresh, scan)
        # As many as were chosen, if those are more: they hardly cost more time then.
        samples = max(samples, acceptance * min(len(fresh.ids), most / 2))
        fresh, rows = self.proposals.evenly(fresh, scan, samples, most)
        acceptance = self.proposals.acceptance(fresh, scan)
        if not rows:
            return refused._replace(acceptance=max(acceptance, LEAST))
        largest, total = scan.rows / rows, self.tolerance + self.unseen
        of_large, of_tiny = above(large, fresh), above(tiny, fresh)
        alone = self.margin(fresh, of_large, self.tolerance, total, largest)
        before = self.margin(fresh, of_tiny, TINY_SHARE * alone.seen)
        first = of_tiny(before.spreads)

        def twice(spreads: float) -> Tensor:
            return torch.minimum(first, of_large(spreads))

        both = self.margin(fresh, twice, self.tolerance, total, largest)
        left = before.passing * acceptance
        margins, chosen, bound = (math.inf, alone.spreads), alone, of_large(alone.spreads)
        cheaper = twice_pays((tiny, large), left, both.passing, alone.passing)
        if cheaper and both.loss.high <= total:
            margins, chosen, bound = (before.spreads, both.spreads), both, twice(both.spreads)
        return Plan(
            networks=(tiny, large),
            margins=margins,
            passing=chosen.passing,
            acceptance=acceptance,
            high=chosen.loss.high,
            samples=acceptance * rows,
            checked=torch.stack([fresh.logit, bound, fresh.chosen.float()], dim=1),
            looked=fresh.ids,
        )

    def large(self) -> tuple[Bound, Seen, Seen, Scan]:
        """A bound fitted to more and more rows while those pay; they, and unseen ones."""
        seen, before = self.proposals.known(), 1.0
        for n in ROWS:
            network = self.fitted(LARGE, seen)
            fresh, scan = self.proposals.found(network, n)
            margin = self.margin(fresh, above(network, fresh), self.tolerance)
            share = margin.passing * self.proposals.acceptance(fresh, scan)
            if not share:
                break
            saving = HORIZON * margin.passing * max(LUCK, 1.0 - share / before)  # as last time
            if n == ROWS[-1] or saving < A_ROW * 2 * n:
                break
            before = share
            seen = joined([seen, fresh])
        return network, seen, fresh, scan

    def fitted(self, widths: tuple[int, ...], seen: Seen) -> Bound:
        """A new bound of these rows."""
        network, seen = build(self.judge, widths, self.draws), seen.valid()
        fit(network, seen.z, seen.y, seen.logit, self.draws)
        return network

    @one_thread()
    def margin(
        self,
        seen: Seen,
        bound: Callable[[float], Tensor],
        tolerance: float,
        total: float = 1.0,
        largest: float = 0.0,
    ) -> Margin:
        """The least one that loses no more, by the upper limit of its loss.

        tolerance: of what it loses where rows were seen; total: of all, where no row stands for
        more than `largest`.
        """
        accepted = self.proposals.accepted(seen)
        mass = float((accepted / seen.chosen).sum())
        if not mass:
            return Margin(MOST, Share(0.0, 0.0, 1.0), 1.0, math.inf)
        typical = power_of_two(mass / len(accepted))

        def at(spreads: float) -> Margin:
            passed = self.proposals.accepted(seen, bound(spreads))
            found = tallied(accepted, passed, seen.chosen, typical)
            sums = {name: int(value) for name, value in found.items()}
            passing = float((passed / seen.chosen).sum()) / mass
            return Margin(spreads, loss(sums, largest / typical), loss(sums).high, passing)

        low, high = 0.0, MOST
        for _ in range(BISECTIONS):
            middle = at((low + high) / 2)
            enough = middle.seen <= tolerance and middle.loss.high <= total
            low, high = (low, middle.spreads) if enough else (middle.spreads, high)
        return at(high)

    def _audits(self, plan: Plan) -> float:
        """What to add to scores, so that audits have their share of the calls."""
        n, first = SCANNED * ROWS[0], 0 if math.isfinite(plan.margins[0]) else 1
        rng = self.rng.at(self.proposals.row)
        scores = self.proposals.scores(plan.networks[first], plan.margins[first], rng, n)
        return level(scores, (1.0 - FLOOR) * AUDITED / (1.0 + AUDITED) * calls(plan) * n)

    def _seconds(self) -> tuple[float, float, float]:
        """Of a row: to draw it, to call G and D, and to ask the tiny bound."""
        judge, rng = self.judge, self.rng.at(BURN_IN_ROW)
        n, device, tiny = judge.block, judge.device, build(judge, TINY, Draws(0))
        z, y = ops.latents(judge, rng, n), ops.labels(judge, rng, n)
        _, _, some, labels = next(drawn(judge, rng, SLICE))
        draw = _least(lambda: next(drawn(judge, rng, SLICE)), device) / SLICE
        ask = _least(lambda: tiny.above(0.0, some, labels), device) / SLICE
        return draw, _least(lambda: judge.logits(z, y), device) / n, ask

    def _seconds_of_row(self, stages: Stages) -> float:
        """To draw it and to ask the bounds."""
        judge, rng = self.judge, self.rng.at(self.proposals.row)
        return (
            _least(lambda: stages.survivors(next(drawn(judge, rng, SLICE))), judge.device) / SLICE
        )


def _least(call: Callable[[], object], device: torch.device) -> float:
    """Seconds, the least of a few calls."""
    least = math.inf
    for _ in range(3):
        for wait in (True, False):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if wait:
                start = time.perf_counter()
                call()
        least = min(least, time.perf_counter() - start)
    return least
