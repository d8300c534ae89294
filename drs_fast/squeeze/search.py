"""Finds bounds for a GAN: rows to fit to, margins that keep the tolerance, and what they cost."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import AUDIT, BURN_IN_ROW, TRAINING_ROW, Rng
from drs_fast.ratio.fitting import Draws, one_thread
from drs_fast.ratio.rejection import Rejection, RejectionState, of_rows
from drs_fast.squeeze.audit import Loss, loss, power_of_two, tallied
from drs_fast.squeeze.bound import LARGE, SLICE, TINY, Bound, build, drawn, fit, packed
from drs_fast.squeeze.plan import Margin, Plan, Seen, calls, level, twice_pays
from drs_fast.squeeze.stages import AUDITED, FLOOR, SqueezeState, Stages, score

SEARCH_ROW = TRAINING_ROW + 2**58  # of latents that bounds are fitted to
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
A_ROW = 1.5  # calls: what a row of a round costs, with its share of the fit and of the scan
SCANNED = 64  # rows that a bound looks at for each of those
MOST_SCANNED = 2**23  # of one round
LOOKED = 2.0  # spreads above the mean, where rows for G and D are looked for
MOST = 10.0  # spreads
BISECTIONS = 14
AIM = 0.8  # of the tolerance, that a bound may surely lose: else long runs would find it stale
TINY_SHARE = 0.25  # of that, that the tiny bound may lose
LEAST = 2.0**-60  # share of accepted rows that costs are counted with
WORTH = 0.95  # of the cost a sample without bounds: what does not come below it is not used


class Search:
    """Bounds of what rejects rows; they depend on the seed and the GAN alone.

    free: whether log_m may rise to the largest logit that is seen.
    """

    def __init__(self, decides: Rejection, rng: Rng, tolerance: float, free: bool) -> None:
        self.decides, self.rng, self.tolerance, self.free = decides, rng, AIM * tolerance, free
        self.before = decides.state
        self.draws = Draws(rng.seed, SEARCH_ROW)
        self.spent = len(decides.state.logits)
        self.row = SEARCH_ROW

    def state(self) -> SqueezeState:
        """All that a run needs."""
        start, acceptance = time.perf_counter(), max(float(self.before.acceptance), LEAST)
        draw, call, ask = self._seconds()
        without, squeezed = (draw + call) / acceptance, (draw + ask) / acceptance + call
        plan = Plan.none(tuple(build(self.decides.judge, w, self.draws) for w in (TINY, LARGE)))
        saving = HORIZON * (without - squeezed)
        used = squeezed < WORTH * without and saving > LEAST_S + ROWS[0] * call  # by the best bound
        if used:
            plan = self._plan()
            without, squeezed = (draw + call) / plan.acceptance, math.inf
        if math.isfinite(plan.margins[1]) and plan.high <= self.tolerance:
            state = self._state(plan, self.decides.state)
            row = self._seconds_of_row(Stages(self.decides, state))
            squeezed = row / plan.acceptance + (1.0 + AUDITED) * plan.passing * call
        if not (used and squeezed < WORTH * without):
            state = self._state(Plan.none(plan.networks)._replace(high=plan.high), self.before)
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
            weights=packed(plan.networks),
            margins=number(plan.margins),
            audits=number(self._audits(plan) if used else -math.inf),
            calls=number(calls(plan) if used else 1.0),
            high=number(plan.high),
            checked=plan.checked,
            looked=plan.looked,
            spent=torch.tensor(self.spent, device=base.logits.device),
            seconds=number([0.0, 0.0, 0.0]),
        )

    def _plan(self) -> Plan:
        """The bounds to use."""
        large, seen, fresh = self.large()
        tiny = self.fitted(TINY, seen)
        acceptance = self.acceptance(fresh)
        if not acceptance:
            return Plan.none((tiny, large))._replace(high=1.0)
        above, above_tiny = _above(large, fresh), _above(tiny, fresh)
        alone = self.margin(fresh, above, self.tolerance)
        before = self.margin(fresh, above_tiny, TINY_SHARE * self.tolerance)
        first = above_tiny(before.spreads)
        both = self.margin(fresh, lambda k: torch.minimum(first, above(k)), self.tolerance)
        left = before.passing * acceptance
        margins, chosen, bound = (math.inf, alone.spreads), alone, above(alone.spreads)
        cheaper = twice_pays((tiny, large), left, both.passing, alone.passing)
        if cheaper and both.loss.high <= self.tolerance:
            margins, chosen = (before.spreads, both.spreads), both
            bound = torch.minimum(first, above(both.spreads))
        checked = torch.stack([fresh.logit, bound, fresh.chosen.float()], dim=1)
        high = chosen.loss.high
        return Plan((tiny, large), margins, chosen.passing, acceptance, high, checked, fresh.ids)

    def large(self) -> tuple[Bound, Seen, Seen]:
        """A bound fitted to more and more rows while those pay; they, and unseen ones."""
        seen, before = self.known(), 1.0
        for n in ROWS:
            network = self.fitted(LARGE, seen)
            fresh = self.found(network, n)
            margin = self.margin(fresh, _above(network, fresh), self.tolerance)
            share = margin.passing * self.acceptance(fresh)
            if not share:
                break
            saving = HORIZON * margin.passing * max(LUCK, 1.0 - share / before)  # as last time
            if n == ROWS[-1] or saving < A_ROW * 2 * n:
                break
            before = share
            seen = seen.plus(fresh)
        return network, seen, fresh

    @one_thread()
    def acceptance(self, fresh: Seen) -> float:
        """The expected share of accepted rows."""
        return float((self.accepted(fresh) / fresh.chosen).sum()) / self.scanned

    def known(self) -> Seen:
        """The burn-in of the sampler."""
        judge, state, _ = self.decides
        n, rng = len(state.logits), self.rng.at(BURN_IN_ROW)
        z, y = ops.latents(judge, rng, n), ops.labels(judge, rng, n)
        ids = torch.arange(n, device=z.device) + BURN_IN_ROW
        return Seen(ids, z, state.logits, torch.ones_like(state.logits, dtype=torch.float64), y)

    def fitted(self, widths: tuple[int, ...], seen: Seen) -> Bound:
        """A new bound of these rows."""
        network, seen = build(self.decides.judge, widths, self.draws), seen.valid()
        fit(network, seen.z, seen.y, seen.logit, self.draws)
        return network

    def found(self, network: Bound, n: int) -> Seen:
        """About n new rows, the likelier chosen the higher the bound is."""
        judge, self.scanned = self.decides.judge, min(SCANNED * n, MOST_SCANNED)
        first, self.row = self.rng.at(self.row), self.row + self.scanned
        scores = self.scores(network, LOOKED, first, self.scanned)
        chance = (scores + level(scores, n)).clamp(max=0.0).exp().double()
        chance = chance.clamp(min=FLOOR * n / self.scanned)  # so that no region is never looked at
        u = ops.uniform(first, self.scanned, stream=AUDIT, device=judge.device)
        rows = (u < chance).nonzero().squeeze(1)
        ids = rows + first.row
        z = ops.latents(judge, first, len(ids), ids=ids)
        y = ops.labels(judge, first, len(ids), ids=ids)
        seen = Seen(ids, z, self._logits(z, y), chance[rows], y)
        self.spent += len(ids)
        if self.free:
            self._raise(seen)
        return seen

    def _logits(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Block by block, so that no more samples than those of a block are there."""
        judge = self.decides.judge
        return torch.cat([
            judge.logits(z[own], None if y is None else y[own])[1]
            for own in _slices(len(z), judge.block)
        ])  # fmt: skip

    def scores(self, network: Bound, margin: float, rng: Rng, n: int) -> Tensor:
        """Of n rows."""
        return torch.cat([
            score(self.decides, network.above(margin, z, y), y)[:size]
            for _, size, z, y in drawn(self.decides.judge, rng, n)
        ])  # fmt: skip

    def accepted(self, seen: Seen, bound: Tensor | None = None) -> Tensor:
        """Acceptance probabilities by the logit, or by a bound instead; (n,) float64."""
        judged = seen.logit if bound is None else bound
        return ops.probability(judged, **of_rows(self.decides.state, seen.y, self.decides.eps))

    @one_thread()
    def margin(self, seen: Seen, bound: Callable[[float], Tensor], tolerance: float) -> Margin:
        """The least one that loses no more than the tolerance, with 95 % confidence."""
        accepted = self.accepted(seen)
        mass = float((accepted / seen.chosen).sum())
        if not mass:
            return Margin(MOST, Loss(0.0, 0.0, 1.0), math.inf)
        typical = power_of_two(mass / len(accepted))

        def at(spreads: float) -> Margin:
            passed = self.accepted(seen, bound(spreads))
            sums = tallied(accepted, passed, seen.chosen, typical)
            lost = loss({name: int(total) for name, total in sums.items()})
            return Margin(spreads, lost, float((passed / seen.chosen).sum()) / mass)

        low, high = 0.0, MOST
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if at(middle).loss.high <= tolerance else (middle, high)
        return at(high)

    def _audits(self, plan: Plan) -> float:
        """What to add to scores, so that audits have their share of the calls."""
        n, first = SCANNED * ROWS[0], 0 if math.isfinite(plan.margins[0]) else 1
        scores = self.scores(plan.networks[first], plan.margins[first], self.rng.at(self.row), n)
        return level(scores, (1.0 - FLOOR) * AUDITED / (1.0 + AUDITED) * calls(plan) * n)

    def _raise(self, seen: Seen) -> None:
        state = self.decides.state
        log_m = state.log_m.clone().view(-1)
        for k in range(len(log_m)):
            logit = seen.logit if seen.y is None else seen.logit[seen.y == k]
            if bool(torch.isfinite(logit).any()):
                log_m[k] = torch.maximum(log_m[k], ops.largest(logit))
        state = state._replace(log_m=log_m.view_as(state.log_m))
        self.decides = self.decides._replace(state=state)

    def _seconds(self) -> tuple[float, float, float]:
        """Of a row: to draw it, to call G and D, and to ask the tiny bound."""
        judge, rng = self.decides.judge, self.rng.at(BURN_IN_ROW)
        n, device, tiny = judge.block, judge.device, build(judge, TINY, Draws(0))
        z, y = ops.latents(judge, rng, n), ops.labels(judge, rng, n)
        _, _, some, labels = next(drawn(judge, rng, SLICE))
        draw = _least(lambda: next(drawn(judge, rng, SLICE)), device) / SLICE
        ask = _least(lambda: tiny.above(0.0, some, labels), device) / SLICE
        return draw, _least(lambda: judge.logits(z, y), device) / n, ask

    def _seconds_of_row(self, stages: Stages) -> float:
        """To draw it and to ask the bounds."""
        judge, rng = self.decides.judge, self.rng.at(self.row)
        return (
            _least(lambda: stages.survivors(next(drawn(judge, rng, SLICE))), judge.device) / SLICE
        )


def _above(network: Bound, seen: Seen) -> Callable[[float], Tensor]:
    with torch.inference_mode(), one_thread():
        parts = [
            network(seen.z[own], None if seen.y is None else seen.y[own])
            for own in _slices(len(seen.z), SLICE)
        ]
        mean, spread = (torch.cat(column) for column in zip(*parts, strict=True))
    return lambda spreads: mean + spreads * spread


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, max(1, n), size)]


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
