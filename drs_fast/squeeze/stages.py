"""Chooses the rows that G and D see: those that pass all bounds with their own u, and audits."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import AUDIT, Rng
from drs_fast.samplers.common.rejection import Rejection, of_rows
from drs_fast.squeeze.bounds.bound import CERTAIN, above
from drs_fast.squeeze.bounds.latent import LatentBound, unpacked
from drs_fast.squeeze.bounds.precision import PrecisionBound
from drs_fast.squeeze.rooms import Rooms
from drs_fast.squeeze.slices import Slice, padded
from drs_fast.squeeze.state import SqueezeState, score

BLOCK = 2**11  # rows per call of the second network


class Rows(NamedTuple):
    """Rows, (n, ...), and what is known of them. Some may only fill a room, and go nowhere."""

    z: Tensor
    ids: Tensor
    y: Tensor | None
    latent: Tensor  # float32, the least bound by a network
    low: Tensor  # float32, the bound by low precision
    chance: Tensor  # float64, the probability of an audit
    audited: Tensor  # bool, whether the row goes on whatever its bounds say
    passing: Tensor  # bool, whether it passes them

    @property
    def bound(self) -> Tensor:
        """The least bound, (n,) float32."""
        return torch.minimum(self.latent, self.low)

    @property
    def on(self) -> Tensor:
        """Whether each row goes on, (n,) bool."""
        return self.passing | self.audited

    def left(self, room: int | None) -> "tuple[Rows, Tensor]":
        """The rows that go on, and how many of them the room was too small for, () int64.

        room: rows to return, whatever number goes on, so that no host must know it. None: all.
        """
        on = self.on
        if room is None:
            return self._at(on.nonzero().squeeze(1)), on.new_zeros((), dtype=torch.int64)
        place = on.cumsum(0) - 1
        count = on.sum()
        slot = torch.where(on, place, room).clamp(max=room)
        rows = torch.zeros(room + 1, dtype=torch.int64, device=on.device)
        rows.scatter_(0, slot, torch.arange(len(on), device=on.device))
        filled = torch.arange(room, device=on.device) < count
        left = self._at(rows[:room])
        left = left._replace(audited=left.audited & filled, passing=left.passing & filled)
        return left, (count - room).clamp(min=0)

    def _at(self, rows: Tensor) -> "Rows":
        return Rows(*(None if column is None else column[rows] for column in self))  # type: ignore[arg-type]


class Survivors(NamedTuple):
    """Rows for G and D, and what was counted on the way, () int64 each.

    asked: rows that low precision saw. infinite: those whose logit it did not know. beyond: rows
    that found no room, so that all must be done again with more.
    """

    rows: Rows
    asked: Tensor
    infinite: Tensor
    beyond: Tensor


class Stages:
    """Applies the bounds of a state.

    low: the bound by low precision, if the state has a margin for it. rooms: how many rows each
    stage leaves, so that a GPU need not tell the host; None: as many as there are.
    """

    def __init__(
        self,
        decides: Rejection,
        state: SqueezeState,
        rng: Rng,
        low: PrecisionBound | None = None,
        rooms: Rooms | None = None,
    ) -> None:
        self.decides, self.rng, self.low, self.rooms = decides, rng, low, rooms
        self.networks = unpacked(decides.judge, state.weights)
        known = state.numbers
        self.margins, self.latent = known.margins, known.networks
        self.low_margin = math.inf if low is None else known.low[0]
        self.audits, self.floor = known.audits, known.floor

    def survivors(self, slices: Iterable[Slice]) -> Survivors:
        """The rows of some slices that G and D must see in full precision."""
        parts, beyond = zip(*(self._by_latent(one) for one in slices), strict=True)
        columns = zip(*parts, strict=True)
        rows = Rows(*(None if each[0] is None else torch.cat(each) for each in columns))  # type: ignore[arg-type]
        missing = torch.stack(beyond).sum()
        asked = infinite = torch.zeros_like(missing)
        if self.low is not None:
            if self.rooms is not None:
                rows, more = rows.left(self.rooms.low)
                missing = missing + more
            rows = rows._replace(low=above(self.low, self.low_margin, rows.z, rows.y))
            asked, infinite = rows.on.sum(), (rows.on & (rows.low == CERTAIN)).sum()
            if not self.latent:
                rows = self._audited(rows, rows.low)
            rows = self._judged(rows)
        if self.rooms is not None or self.low is not None:
            rows, more = rows.left(None if self.rooms is None else self.rooms.full)
            missing = missing + more
        return Survivors(rows, asked, infinite, missing)

    def _by_latent(self, one: Slice) -> tuple[Rows, Tensor]:
        """The rows of a slice that pass the networks."""
        rng, size, z, y = one
        (tiny, large), (tiny_margin, large_margin) = self.networks, self.margins
        ids = torch.arange(size, device=z.device) + rng.row
        certain = z.new_full((size,), CERTAIN, dtype=torch.float32)
        every = torch.ones_like(certain, dtype=torch.bool)
        label = None if y is None else y[:size]
        rows = Rows(z[:size], ids, label, certain, certain, certain.double(), ~every, every)
        if not self.latent:
            return rows, torch.zeros((), dtype=torch.int64, device=z.device)
        twice = math.isfinite(tiny_margin)
        first, margin = (tiny, tiny_margin) if twice else (large, large_margin)
        rows = rows._replace(latent=above(first, margin, z, y)[:size])
        rows = self._judged(self._audited(rows, rows.latent))
        if twice and self.rooms is None:
            rows, _ = rows.left(None)
        if twice:
            own = _in_blocks(large, large_margin, rows.z, rows.y)
            rows = self._judged(rows._replace(latent=torch.minimum(rows.latent, own)))
        return rows.left(None if self.rooms is None else self.rooms.slice)

    def _audited(self, rows: Rows, bound: Tensor) -> Rows:
        """Chooses audits by a bound."""
        chance = (score(self.decides, bound, rows.y) + self.audits).clamp(max=0.0).exp().double()
        if self.audits > -math.inf:
            chance = chance.clamp(min=self.floor)
        u = ops.uniform(self.rng, len(rows.ids), stream=AUDIT, device=chance.device, ids=rows.ids)
        return rows._replace(chance=chance, audited=u < chance)

    def _judged(self, rows: Rows) -> Rows:
        """Rejects rows by their least bound and their own u."""
        passing = ops.accept(rows.bound, self.rng, ids=rows.ids, **self.thresholds(rows.y))
        return rows._replace(passing=rows.passing & passing)

    def thresholds(self, y: Tensor | None) -> dict[str, Any]:
        return of_rows(self.decides.state, y, self.decides.eps)


def _in_blocks(network: LatentBound, margin: float, z: Tensor, y: Tensor | None) -> Tensor:
    """The bound of any number of rows, in zero-padded blocks of one shape."""
    found = [z.new_zeros(0)]
    for start in range(0, len(z), BLOCK):
        own = slice(start, start + BLOCK)
        label = None if y is None else padded(y[own], BLOCK)
        found.append(above(network, margin, padded(z[own], BLOCK), label)[: len(z[own])])
    return torch.cat(found)
