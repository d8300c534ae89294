"""Chooses the rows that G and D see: those that pass the bound with their own u, and audits."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import AUDIT
from drs_fast.core.layout import Layout, Logits, OfClasses, Proposed, Scalar
from drs_fast.samplers.common.intervals import Share
from drs_fast.samplers.common.rejection import Rejection, RejectionState, of_rows
from drs_fast.squeeze.audit import loss, power_of_two
from drs_fast.squeeze.bound import Bound, Slice, padded, unpacked

FLOOR = 0.25  # share of audits that are chosen evenly rather than by their bound
AUDITED = 0.04  # audits, as a share of all calls of G and D
BLOCK = 2**11  # rows per call of the second bound


class SqueezeState(NamedTuple):
    """What the sampler found, perhaps with a larger log_m, and the bounds; () if not said."""

    log_m: OfClasses
    gamma: OfClasses
    acceptance: Scalar  # expected share of accepted rows
    logits: Logits  # of the burn-in
    proposed: Proposed  # as in RejectionState
    weights: Annotated[Tensor, Layout(torch.float32, (("P",),))]  # of the tiny and the large bound
    # Their spreads above the mean; inf for a bound that is not used.
    margins: Annotated[Tensor, Layout(torch.float64, ((2,),))]
    audits: Scalar  # added to a score, whose exponential is then the chance of an audit
    calls: Scalar  # expected share of rows that G and D see
    high: Scalar  # the upper limit of the loss, including what no row has shown
    samples: Scalar  # accepted rows, among evenly drawn ones, that show this
    # Rows of the last search round: logit, bound, chance of being chosen.
    checked: Annotated[Tensor, Layout(torch.float32, (("m", 3),))]
    looked: Annotated[Tensor, Layout(torch.int64, (("m",),))]  # the ids of those rows
    spent: Annotated[Tensor, Layout(torch.int64)]  # calls of G and D in burn-in and search
    # Calls of G and D per sample without bounds; then the work (squeeze/work.py) per sample without
    # and with bounds, and of the search; zeros if nothing was counted.
    work: Annotated[Tensor, Layout(torch.float64, ((4,),))] = torch.zeros(
        4, dtype=torch.float64, device="cpu"
    )

    @property
    def unbounded(self) -> RejectionState:
        """What the sampler found, without the bounds."""
        return RejectionState(*self[: len(RejectionState._fields)])


class Survivors(NamedTuple):
    """Rows for G and D, (n, ...)."""

    z: Tensor
    ids: Tensor
    passed: Tensor  # float64, the probability of passing the bound
    chance: Tensor  # float64, the probability of an audit
    audited: Tensor  # bool, whether the row is here only as an audit
    y: Tensor | None


class Stages:
    """Applies the bounds of a state."""

    def __init__(self, decides: Rejection, state: SqueezeState) -> None:
        self.decides = decides
        self.networks = unpacked(decides.judge, state.weights)
        self.margins: list[float] = state.margins.tolist()
        self.audits = float(state.audits)
        self.floor = floor(state.calls)

    def survivors(self, rows: Slice) -> Survivors:
        """The rows of one slice that G and D must see."""
        rng, size, z, y = rows
        (tiny, large), (tiny_margin, large_margin) = self.networks, self.margins
        twice = math.isfinite(tiny_margin)
        first, margin = (tiny, tiny_margin) if twice else (large, large_margin)
        bound = first.above(margin, z, y)[:size]
        y = None if y is None else y[:size]
        chance = (score(self.decides, bound, y) + self.audits).clamp(max=0.0).exp().double()
        if self.audits > -math.inf:
            chance = chance.clamp(min=self.floor)
        audited = ops.uniform(rng, size, stream=AUDIT, device=z.device) < chance
        passing = ops.accept(bound, rng, **self._threshold(y))
        rows_left = (passing | audited).nonzero().squeeze(1)
        ids = rows_left + rng.row
        z, y, bound, chance, audited, passing = _at(
            rows_left, z, y, bound, chance, audited, passing
        )
        if twice:
            bound = torch.minimum(bound, _in_blocks(large, large_margin, z, y))
            passing = ops.accept(bound, rng, ids=ids, **self._threshold(y))
            rows_left = (passing | audited).nonzero().squeeze(1)
            z, y, bound, chance, audited, passing, ids = _at(
                rows_left, z, y, bound, chance, audited, passing, ids
            )
        passed = ops.probability(bound, **self._threshold(y))
        return Survivors(z, ids, passed, chance, audited & ~passing, y)

    def _threshold(self, y: Tensor | None) -> dict[str, Any]:
        return of_rows(self.decides.state, y, self.decides.eps)


def lost(sums: Mapping[str, int], state: SqueezeState) -> Share:
    """The loss that a run's sums show, with what may hide; both search and run limit the latter."""
    return loss(sums, 1.0 / (floor(state.calls) * typical(state))).within(float(state.high))


def typical(state: SqueezeState) -> float:
    """About the mass of a row that G and D see."""
    return power_of_two(float(state.acceptance / state.calls))


def floor(calls: Tensor) -> float:
    """The least chance of an audit if G and D see this share of the rows."""
    return FLOOR * AUDITED / (1.0 + AUDITED) * float(calls)


def score(decides: Rejection, bound: Tensor, y: Tensor | None) -> Tensor:
    """Half the log of the approximate acceptance probability, at most 0; (n,) float32.

    Choosing rows in proportion to its exponential gives the best estimate of what a bound loses, if
    the bound's errors have the same law everywhere.
    """
    log_m, gamma = decides.state.log_m, decides.state.gamma
    top = (log_m + gamma).float()
    return ((bound - (top[y] if top.ndim else top)) / 2).clamp(max=0.0)


def _at(rows: Tensor, *columns: Tensor | None) -> list[Tensor]:
    return [None if column is None else column[rows] for column in columns]  # type: ignore[misc]


def _in_blocks(network: Bound, margin: float, z: Tensor, y: Tensor | None) -> Tensor:
    """The bound of any number of rows, in zero-padded blocks of one shape."""
    found = [z.new_zeros(0)]
    for start in range(0, len(z), BLOCK):
        own = slice(start, start + BLOCK)
        label = None if y is None else padded(y[own], BLOCK)
        found.append(network.above(margin, padded(z[own], BLOCK), label)[: len(z[own])])
    return torch.cat(found)
