"""Which rows G and D have to see: those that pass the bound with their own u, and audited ones."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import AUDIT
from drs_fast.ratio.intervals import Share
from drs_fast.ratio.rejection import Rejection, of_rows
from drs_fast.squeeze.audit import loss, power_of_two
from drs_fast.squeeze.bound import Bound, Slice, padded, unpacked

FLOOR = 0.25  # of the rows that are chosen by their bound: so many are chosen evenly
AUDITED = 0.04  # audits, of all calls of G and D
BLOCK = 2**11  # rows that the second bound is asked for at once


class SqueezeState(NamedTuple):
    """What the sampler found, with log_m perhaps raised, and the bounds; () unless said."""

    log_m: Tensor  # () float64, or (K,) where each class has its own
    gamma: Tensor  # the same
    acceptance: Tensor  # float64, expected share of accepted rows
    logits: Tensor  # (burn_in,) float32
    proposed: Tensor  # as in RejectionState
    weights: Tensor  # (P,) float32, of the tiny and the large bound
    margins: Tensor  # (2,) float64, their spreads above the mean; inf where one is not used
    audits: Tensor  # float64, added to a score: the exponential is the chance of an audit
    calls: Tensor  # float64, expected share of rows that G and D see
    high: Tensor  # float64, the upper limit of what is lost, with what no row has shown
    samples: Tensor  # float64, accepted rows among evenly drawn ones that it is known from
    checked: Tensor  # (m, 3) float32 of the search's last rows: logit, bound, chance to be chosen
    looked: Tensor  # (m,) int64, the ids of those rows
    spent: Tensor  # int64, calls of G and D in burn-in and search
    # (3,) float64: a sample without bounds, a sample with them, the search. Not saved.
    seconds: Tensor = torch.zeros(3, dtype=torch.float64, device="cpu")


class Survivors(NamedTuple):
    """Rows for G and D, (n, ...)."""

    z: Tensor
    ids: Tensor
    passed: Tensor  # float64, the probability to pass the bound
    seen: Tensor  # float64, the probability to be here
    audited: Tensor  # bool, whether the row is here by an audit alone
    y: Tensor | None


class Stages:
    """The bounds of a state."""

    def __init__(self, decides: Rejection, state: SqueezeState) -> None:
        self.decides = decides
        self.networks = unpacked(decides.judge, state.weights)
        self.margins: list[float] = state.margins.tolist()
        self.audits = float(state.audits)
        self.floor = floor(state.calls)

    def survivors(self, rows: Slice) -> Survivors:
        """Of one slice."""
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
        seen = passed + (1.0 - passed) * chance
        return Survivors(z, ids, passed, seen, audited & ~passing, y)

    def _threshold(self, y: Tensor | None) -> dict[str, Any]:
        return of_rows(self.decides.state, y, self.decides.eps)


def lost(sums: Mapping[str, int], state: SqueezeState) -> Share:
    """What a run's sums say, with what may hide: the search and the run both limit that."""
    return loss(sums, 1.0 / (floor(state.calls) * typical(state))).within(float(state.high))


def typical(state: SqueezeState) -> float:
    """About the mass of a row that G and D see."""
    return power_of_two(float(state.acceptance / state.calls))


def floor(calls: Tensor) -> float:
    """The least chance of an audit, where G and D see this share of the rows."""
    return FLOOR * AUDITED / (1.0 + AUDITED) * float(calls)


def score(decides: Rejection, bound: Tensor, y: Tensor | None) -> Tensor:
    """Half the log of what the acceptance probability is about, at most 0; (n,) float32.

    To choose rows in proportion to its exponential is best for estimating what a bound loses
    where its errors have the same law everywhere.
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
