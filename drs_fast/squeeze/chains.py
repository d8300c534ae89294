"""Margins that keep the tolerance, for the chains of bounds that a search chooses from."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.core.threads import one_thread
from drs_fast.samplers.common.intervals import Share
from drs_fast.squeeze.audit import loss, power_of_two, tallied
from drs_fast.squeeze.bounds.bound import known
from drs_fast.squeeze.bounds.latent import LatentBound
from drs_fast.squeeze.bounds.precision import PrecisionBound
from drs_fast.squeeze.plan import Margin, Seen, twice_pays
from drs_fast.squeeze.proposals import Proposals, lifted
from drs_fast.tune.lowered import differences

MOST = 10.0  # spreads
BISECTIONS = 14
TINY_SHARE = 0.25  # share of the large bound's allowed loss on seen rows that the tiny one may use
BEFORE_LOW = 0.5  # the same for a network that comes before low precision


class Chain(NamedTuple):
    """Bounds that a row must pass one after the other.

    margins: of the tiny network, the large one and low precision; inf for one that is not used.
    looked_at: the share of rows that each looks at. found: what they lose and let pass together.
    bound: the least one of each row of the search, (n,).
    """

    margins: tuple[float, float, float]
    looked_at: tuple[float, float, float]
    found: Margin
    bound: Tensor


class Trial(NamedTuple):
    """Rows that a search has seen, to check bounds on.

    total: limit of all loss, if no row stands for more than `largest`.
    """

    proposals: Proposals
    seen: Seen
    tolerance: float
    total: float = 1.0
    largest: float = 0.0

    def by_networks(self, networks: tuple[LatentBound, ...], acceptance: float) -> Chain:
        """The large network, behind the tiny one if that is cheaper."""
        of_tiny, of_large = (lifted(network, self.seen) for network in networks)
        alone = self.margin(of_large)
        before = self.margin(of_tiny, TINY_SHARE * alone.seen)
        first = of_tiny(before.spreads)

        def twice(spreads: float) -> Tensor:
            return torch.minimum(first, of_large(spreads))

        both, share = self.margin(twice), before.passing * acceptance
        cheaper = twice_pays(networks, share, both.passing, alone.passing)
        if cheaper and both.loss.high <= self.total:
            margins = before.spreads, both.spreads, math.inf
            return Chain(margins, (1.0, share, 0.0), both, twice(both.spreads))
        margins = math.inf, alone.spreads, math.inf
        return Chain(margins, (0.0, 1.0, 0.0), alone, of_large(alone.spreads))

    def by_low(
        self,
        low: PrecisionBound,
        logit: Tensor,
        networks: tuple[LatentBound, ...] = (),
        chain: Chain | None = None,
        acceptance: float = 1.0,
    ) -> Chain:
        """Low precision, given its logits, alone or behind the networks of a chain."""
        margins, looked_at, first = (math.inf, math.inf), (0.0, 0.0, 1.0), None
        if chain is not None:
            of_tiny, of_large = (lifted(network, self.seen) for network in networks)
            large = self.margin(of_large, BEFORE_LOW * chain.found.seen)
            margins, first = (chain.margins[0], large.spreads), of_large(large.spreads)
            if math.isfinite(margins[0]):
                first = torch.minimum(first, of_tiny(margins[0]))
            looked_at = *chain.looked_at[:2], min(1.0, self.passing(first) * acceptance)
        error = differences(self.seen.logit.double(), logit.double())[0]

        def behind(nats: float) -> Tensor:
            bound = known(low.raised(nats, logit))
            return bound if first is None else torch.minimum(first, bound)

        found = self.margin(behind, most=MOST * error if math.isfinite(error) else None)
        return Chain((*margins, found.spreads), looked_at, found, behind(found.spreads))

    @one_thread()
    def margin(
        self,
        bound: Callable[[float], Tensor],
        tolerance: float | None = None,
        most: float | None = None,
    ) -> Margin:
        """The least margin that loses no more, by the upper limit of its loss.

        tolerance: limit of the loss where rows were seen, if it alone counts.
        """
        total, largest = (self.total, self.largest) if tolerance is None else (1.0, 0.0)
        limit, at = self.tolerance if tolerance is None else tolerance, self._measured(largest)
        low, high = 0.0, MOST if most is None else most
        for _ in range(BISECTIONS):
            middle = at((low + high) / 2, bound((low + high) / 2))
            enough = middle.seen <= limit and middle.loss.high <= total
            low, high = (low, middle.spreads) if enough else (middle.spreads, high)
        return at(high, bound(high))

    @one_thread()
    def passing(self, bound: Tensor) -> float:
        """Rows that pass a bound (n,), per accepted row."""
        return self._measured(0.0)(0.0, bound).passing

    def _measured(self, largest: float) -> Callable[[float, Tensor], Margin]:
        """A function from a margin and the bound at it to what it loses and lets pass."""
        accepted, chosen = self.proposals.accepted(self.seen), self.seen.chosen
        mass = float((accepted / chosen).sum())
        typical = power_of_two(mass / len(accepted)) if mass else 1.0

        def at(spreads: float, bound: Tensor) -> Margin:
            if not mass:
                return Margin(spreads, Share(0.0, 0.0, 1.0), 1.0, math.inf)
            passed = self.proposals.accepted(self.seen, bound)
            found = tallied(accepted, passed, chosen, typical)
            sums = {name: int(value) for name, value in found.items()}
            passing = float((passed / chosen).sum()) / mass
            return Margin(spreads, loss(sums, largest / typical), loss(sums).high, passing)

        return at
