"""Finds bounds for a GAN: rows to fit to, margins that keep the tolerance, and their cost."""

import functools
import math

import torch

from drs_fast.core import Rng
from drs_fast.core.rows import RATIO_ROW, SEARCH_ROW
from drs_fast.samplers.common.rejection import Rejection, RejectionState
from drs_fast.squeeze.audit import UNSEEN
from drs_fast.squeeze.bounds.latent import (
    LARGE,
    ROWS_A_STEP,
    TINY,
    LatentBound,
    build,
    fit,
    packed,
    steps_of_fit,
)
from drs_fast.squeeze.bounds.precision import PrecisionBound
from drs_fast.squeeze.chains import Chain, Trial
from drs_fast.squeeze.plan import Plan, Seen, calls, joined, level, used
from drs_fast.squeeze.proposals import LEAST, SCANNED, Proposals, Scan, lifted
from drs_fast.squeeze.state import AUDITED, FLOOR, SqueezeState, score
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
LEAST_WORK = 1e12  # about what a search for networks takes, on a CPU
MOST_WORK = 6e13  # for evenly drawn rows, on a CPU: ten minutes of a core
ALL_ROWS = float(RATIO_ROW - SEARCH_ROW)  # that a search may draw
A_ROW = 1.5  # calls: what a row of a round costs, with its share of the fit and of the scan
HIDDEN = 0.75  # share of the tolerance kept for loss that may hide, as less is costly to rule out
WORTH = 0.95  # share of a sample's cost without bounds that a bound must come below


def needed(tolerance: float, unseen: float) -> float:
    """Samples without a bound that it takes to show how little may hide."""
    return UNSEEN / (HIDDEN * tolerance + unseen)


class Search:
    """Finds bounds for a rejection. They depend only on the seed, the GAN and its block.

    tolerance: what they may lose; unseen: and what more, where no row was seen.
    use_bound: whether one is used that is known to lose no more; None: if that is less work.
    latent: whether networks may be used. low: the bound by low precision, if that may be; low_cost:
        what it takes, as a share of full precision.
    """

    def __init__(
        self,
        decides: Rejection,
        rng: Rng,
        tolerance: float,
        unseen: float,
        use_bound: bool | None = None,
        *,
        latent: bool = True,
        low: PrecisionBound | None = None,
        low_cost: float = math.inf,
    ) -> None:
        self.proposals = Proposals(decides, rng)
        self.judge, self.rng, self.before = decides.judge, rng, decides.state
        self.tolerance, self.unseen, self.use_bound = tolerance, unseen, use_bound
        self.latent, self.low, self.low_cost = latent, low, low_cost
        self.draws = Draws(rng.seed, SEARCH_ROW)
        self._passes = 0  # rows through a large network, forwards and backwards
        self._low_calls = 0

    @functools.cached_property
    def costs(self) -> Costs:
        return Costs.of(self.judge, self.low_cost)

    def state(self) -> SqueezeState:
        """The state for a run."""
        plan = Plan.none(tuple(build(self.judge, w, self.draws) for w in (TINY, LARGE)))
        if self.use_bound is False:
            return self._state(plan, self.before)
        acceptance = max(float(self.before.acceptance), LEAST)
        without = self.costs.without(acceptance)
        worth = math.inf if self.use_bound else WORTH
        latent, low, squeezed = self._promising(acceptance, worth)
        used_here = False
        if latent or low:
            plan = self._plan(plan, latent, low)
            acceptance = plan.acceptance
            without = self.costs.without(acceptance)
            if used(plan.margins) and plan.high <= self.tolerance + self.unseen:
                seen = (1.0 + AUDITED) * plan.passing
                squeezed = self.costs.with_bounds(acceptance, seen, plan.looked_at)
                used_here = squeezed < worth * without
        if used_here:
            state = self._state(plan, self.proposals.decides.state)
        else:
            state = self._state(Plan.none(plan.networks, plan.high, plan.samples), self.before)
        work = 1.0 / acceptance, without, squeezed, self._work()
        return state._replace(work=state.log_m.new_tensor(work))

    def _promising(self, acceptance: float, worth: float) -> tuple[bool, bool, float]:
        """Whether networks and low precision, without a flaw, would pay; the work of the better."""
        costs, without = self.costs, self.costs.without(acceptance)
        least = in_the_time_of(LEAST_WORK, self.judge.device) + ROWS[0] * costs.call
        least = -math.inf if self.use_bound else least
        network, low = costs.with_the_best_network(acceptance), costs.with_low_precision(acceptance)
        network, low = network if self.latent else math.inf, low if self.low else math.inf
        pays = network < worth * without and HORIZON * (without - network) > least
        return pays, low < worth * without, min(network, low)

    def _work(self) -> float:
        """The work of the search so far."""
        rows, costs = self.proposals.row - SEARCH_ROW, self.costs
        own = (self.proposals.spent - len(self.before.logits)) * costs.call
        if self._passes:
            own += rows * (costs.row + costs.large) + self._passes * costs.large
        return own + (self._low_calls * costs.low if self._low_calls else 0.0)

    def _state(self, plan: Plan, base: RejectionState) -> SqueezeState:
        bounded, (tiny, large, low) = used(plan.margins), plan.margins
        number = base.log_m.new_tensor
        return SqueezeState(
            log_m=base.log_m,
            gamma=base.gamma,
            acceptance=number(plan.acceptance) if bounded else base.acceptance,
            logits=base.logits,
            proposed=base.proposed,
            weights=packed(plan.networks),
            margins=number((tiny, large)),
            audits=number(self._audits(plan) if bounded else -math.inf),
            calls=number(calls(plan) if bounded else 1.0),
            high=number(plan.high),
            samples=number(plan.samples),
            checked=plan.checked,
            looked=plan.looked,
            spent=torch.tensor(self.proposals.spent, device=base.logits.device),
            low=number((low, plan.looked_at[2]) if math.isfinite(low) else ()),
        )

    def _plan(self, none: Plan, latent: bool, low: bool) -> Plan:
        """The bounds to use, if not too many evenly drawn rows are needed to check them."""
        most = in_the_time_of(MOST_WORK, self.judge.device) / self.costs.call
        most = ALL_ROWS if self.use_bound else most
        acceptance, samples = float(self.before.acceptance), needed(self.tolerance, self.unseen)
        refused = none._replace(high=1.0, acceptance=max(acceptance, LEAST))
        if samples > most * acceptance:
            return refused
        networks: tuple[LatentBound, ...] = ()
        if latent:
            large, seen, fresh, scan = self.large()
            networks = self.fitted(TINY, seen), large
            acceptance = self.proposals.acceptance(fresh, scan)
            # At least as many as were chosen: they then hardly cost more time.
            samples = max(samples, acceptance * min(len(fresh.ids), most / 2))
            fresh, rows = self.proposals.evenly(fresh, scan, samples, most)
            acceptance, chosen_from = self.proposals.acceptance(fresh, scan), scan.rows
        else:
            fresh, rows = self.proposals.alone(samples, most)
            acceptance, chosen_from = len(fresh.ids) / rows if rows else acceptance, rows
            rows = rows if len(fresh.ids) >= samples else 0
        if not rows:
            return refused._replace(acceptance=max(acceptance, LEAST))
        trial = Trial(
            self.proposals, fresh, self.tolerance, self.tolerance + self.unseen, chosen_from / rows
        )
        chain = self._best(trial, networks, low, acceptance)
        return Plan(
            networks=networks or none.networks,
            margins=chain.margins,
            passing=chain.found.passing,
            looked_at=chain.looked_at,
            acceptance=acceptance,
            high=chain.found.loss.high,
            samples=acceptance * rows,
            checked=torch.stack([fresh.logit, chain.bound, fresh.chosen.float()], dim=1),
            looked=fresh.ids,
        )

    def _best(
        self, trial: Trial, networks: tuple[LatentBound, ...], low: bool, acceptance: float
    ) -> Chain:
        """The chain of the least work among those that keep the limits."""
        chains = [trial.by_networks(networks, acceptance)] if networks else []
        if low and self.low is not None:
            (logit,) = self.low.scores(trial.seen.z, trial.seen.y)
            self._low_calls += len(logit)
            if chains:
                chains.append(trial.by_low(self.low, logit, networks, chains[0], acceptance))
            chains.append(trial.by_low(self.low, logit))

        def rank(chain: Chain) -> tuple[bool, float]:
            seen = (1.0 + AUDITED) * chain.found.passing
            work = self.costs.with_bounds(acceptance, seen, chain.looked_at)
            return chain.found.loss.high > trial.total, work

        return min(chains, key=rank)

    def large(self) -> tuple[LatentBound, Seen, Seen, Scan]:
        """A network fitted to more and more rows while this pays; those rows, and unseen ones."""
        seen, before = self.proposals.known(), 1.0
        for n in ROWS:
            network = self.fitted(LARGE, seen)
            fresh, scan = self.proposals.found(network, n)
            trial = Trial(self.proposals, fresh, self.tolerance)
            margin = trial.margin(lifted(network, fresh), self.tolerance)
            share = margin.passing * self.proposals.acceptance(fresh, scan)
            if not share:
                break
            saving = HORIZON * margin.passing * max(LUCK, 1.0 - share / before)  # as last time
            if self.low is not None:  # whose calls alone are saved
                saving *= min(1.0, self.low_cost) if share < WORTH else 0.0
            if n == ROWS[-1] or saving < A_ROW * 2 * n:
                break
            before = share
            seen = joined([seen, fresh])
        return network, seen, fresh, scan

    def fitted(self, widths: tuple[int, ...], seen: Seen) -> LatentBound:
        """A new network, fitted to these rows."""
        network, seen = build(self.judge, widths, self.draws), seen.valid()
        fit(network, seen.z, seen.y, seen.logit, self.draws)
        self._passes += 3 * ROWS_A_STEP * steps_of_fit(len(seen.z))  # a backward pass costs two
        return network

    def _audits(self, plan: Plan) -> float:
        """The shift of scores at which audits have their share of the calls."""
        tiny, large, low = plan.margins
        if math.isfinite(large):
            n, first = SCANNED * ROWS[0], 0 if math.isfinite(tiny) else 1
            rng = self.rng.at(self.proposals.row)
            scores = self.proposals.scores(plan.networks[first], plan.margins[first], rng, n)
        else:
            known = self.proposals.known()
            scores = score(self.proposals.decides, known.logit + low, known.y).nan_to_num()
            n = len(scores)
        return level(scores, (1.0 - FLOOR) * AUDITED / (1.0 + AUDITED) * calls(plan) * n)
