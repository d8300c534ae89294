"""Finds bounds for a GAN: rows to fit to, margins that keep the tolerance, and their cost."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from drs_fast.core import Rng
from drs_fast.core.rows import RATIO_ROW, SEARCH_ROW
from drs_fast.core.threads import one_thread
from drs_fast.samplers.common.intervals import Share
from drs_fast.samplers.common.rejection import Rejection, RejectionState
from drs_fast.squeeze.audit import UNSEEN, loss, power_of_two, tallied
from drs_fast.squeeze.bound import LARGE, ROWS_A_STEP, TINY, Bound, build, fit, packed, steps_of_fit
from drs_fast.squeeze.plan import Margin, Plan, Seen, calls, joined, level, twice_pays
from drs_fast.squeeze.proposals import LEAST, SCANNED, Proposals, Scan, above
from drs_fast.squeeze.stages import AUDITED, FLOOR, SqueezeState
from drs_fast.squeeze.work import Costs, in_the_time_of
from drs_fast.training.fitting import Draws

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
LEAST_WORK = 1e12  # about what a search takes, on a CPU
MOST_WORK = 6e13  # for evenly drawn rows, on a CPU: ten minutes of a core
ALL_ROWS = float(RATIO_ROW - SEARCH_ROW)  # that a search may draw
A_ROW = 1.5  # calls: what a row of a round costs, with its share of the fit and of the scan
MOST = 10.0  # spreads
BISECTIONS = 14
HIDDEN = 0.75  # share of the tolerance kept for loss that may hide, as less is costly to rule out
TINY_SHARE = 0.25  # share of the large bound's allowed loss on seen rows that the tiny one may use
WORTH = 0.95  # share of a sample's cost without bounds that a bound must come below


def needed(tolerance: float, unseen: float) -> float:
    """Samples without a bound that it takes to show how little may hide."""
    return UNSEEN / (HIDDEN * tolerance + unseen)


class Search:
    """Finds bounds for a rejection. They depend only on the seed, the GAN and its block.

    tolerance: what they may lose; unseen: and what more, where no row was seen.
    use_bound: whether one is used that is known to lose no more; None: if that is less work.
    """

    def __init__(
        self,
        decides: Rejection,
        rng: Rng,
        tolerance: float,
        unseen: float,
        use_bound: bool | None = None,
    ) -> None:
        self.proposals = Proposals(decides, rng)
        self.judge, self.rng, self.before = decides.judge, rng, decides.state
        self.tolerance, self.unseen, self.use_bound = tolerance, unseen, use_bound
        self.draws = Draws(rng.seed, SEARCH_ROW)
        self._passes = 0  # rows through a large network, forwards and backwards

    @functools.cached_property
    def costs(self) -> Costs:
        return Costs.of(self.judge)

    def state(self) -> SqueezeState:
        """The state for a run."""
        plan = Plan.none(tuple(build(self.judge, w, self.draws) for w in (TINY, LARGE)))
        if self.use_bound is False:
            return self._state(plan, self.before)
        costs, device = self.costs, self.judge.device
        worth, least = WORTH, in_the_time_of(LEAST_WORK, device) + ROWS[0] * costs.call
        most = in_the_time_of(MOST_WORK, device) / costs.call
        if self.use_bound:
            worth, least, most = math.inf, -math.inf, ALL_ROWS
        acceptance = max(float(self.before.acceptance), LEAST)
        without, squeezed = costs.without(acceptance), costs.with_the_best_bound(acceptance)
        used = squeezed < worth * without and HORIZON * (without - squeezed) > least
        if used:
            plan = self._plan(plan, most)
            acceptance, used = plan.acceptance, False
            without = costs.without(acceptance)
            if math.isfinite(plan.margins[1]) and plan.high <= self.tolerance + self.unseen:
                seen, twice = (1.0 + AUDITED) * plan.passing, math.isfinite(plan.margins[0])
                squeezed = costs.with_bounds(acceptance, seen, plan.left, twice)
                used = squeezed < worth * without
        if used:
            state = self._state(plan, self.proposals.decides.state)
        else:
            state = self._state(Plan.none(plan.networks, plan.high, plan.samples), self.before)
        work = 1.0 / acceptance, without, squeezed, self._work()
        return state._replace(work=state.log_m.new_tensor(work))

    def _work(self) -> float:
        """The work of the search so far."""
        calls, rows = (
            self.proposals.spent - len(self.before.logits),
            self.proposals.row - SEARCH_ROW,
        )
        asked = rows * (self.costs.row + self.costs.large) + self._passes * self.costs.large
        return calls * self.costs.call + asked

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
        )

    def _plan(self, none: Plan, most: float) -> Plan:
        """The bounds to use, if at most `most` evenly drawn rows are needed to check them."""
        acceptance, samples = float(self.before.acceptance), needed(self.tolerance, self.unseen)
        refused = none._replace(high=1.0, acceptance=max(acceptance, LEAST))
        if samples > most * acceptance:
            return refused
        large, seen, fresh, scan = self.large()
        tiny, acceptance = self.fitted(TINY, seen), self.proposals.acceptance(fresh, scan)
        # At least as many as were chosen: they then hardly cost more time.
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
        left, margins = 1.0, (math.inf, alone.spreads)
        chosen, bound = alone, of_large(alone.spreads)
        share = before.passing * acceptance
        cheaper = twice_pays((tiny, large), share, both.passing, alone.passing)
        if cheaper and both.loss.high <= total:
            left, margins = share, (before.spreads, both.spreads)
            chosen, bound = both, twice(both.spreads)
        return Plan(
            networks=(tiny, large),
            margins=margins,
            passing=chosen.passing,
            left=left,
            acceptance=acceptance,
            high=chosen.loss.high,
            samples=acceptance * rows,
            checked=torch.stack([fresh.logit, bound, fresh.chosen.float()], dim=1),
            looked=fresh.ids,
        )

    def large(self) -> tuple[Bound, Seen, Seen, Scan]:
        """A bound fitted to more and more rows while this pays; those rows, and unseen ones."""
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
        """A new bound, fitted to these rows."""
        network, seen = build(self.judge, widths, self.draws), seen.valid()
        fit(network, seen.z, seen.y, seen.logit, self.draws)
        self._passes += 3 * ROWS_A_STEP * steps_of_fit(len(seen.z))  # a backward pass costs two
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
        """The least margin that loses no more, by the upper limit of its loss.

        tolerance: limit of the loss where rows were seen. total: limit of all loss, if no row
        stands for more than `largest`.
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
        """The shift of scores at which audits have their share of the calls."""
        n, first = SCANNED * ROWS[0], 0 if math.isfinite(plan.margins[0]) else 1
        rng = self.rng.at(self.proposals.row)
        scores = self.proposals.scores(plan.networks[first], plan.margins[first], rng, n)
        return level(scores, (1.0 - FLOOR) * AUDITED / (1.0 + AUDITED) * calls(plan) * n)
