"""Classes of a conditional GAN: how often each is proposed, and how many of n samples it gets."""

import functools
import heapq
import itertools
import math
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drs_fast.core.arguments import describe, number
from drs_fast.core.tensors import STANDARD, plain

Rows = dict[str, Tensor]
JOINT, WITHIN = "joint", "within"
CHOICES = (JOINT, WITHIN)
NO_LIST = (str, bytes, Mapping, Set)


def weights(labels: int | None, given: Sequence[float] | Tensor | None) -> tuple[float, ...] | None:
    """The share of each class, or None if all are equal. ValueError unless one for each class."""
    if given is None:
        return None
    if labels is None:
        raise ValueError("got label weights, but this GAN has no labels; build GAN(..., labels=K)")
    listed = _listed(given)
    if not isinstance(listed, Collection) or isinstance(listed, NO_LIST) or len(listed) != labels:
        got = describe(given) + (f" of {len(given)}" if isinstance(given, (list, tuple)) else "")
        raise ValueError(f"label_weights must be {labels} numbers, one per class, got {got}")
    found = [number("label_weights", _listed(value), 0.0, math.inf) for value in listed]
    most = max(found)
    if most == 0.0:
        raise ValueError("label_weights are all 0; give the classes you want a positive weight")
    found = [value / most for value in found]  # their sum may overflow
    total = math.fsum(found)
    return tuple(value / total for value in found)


def _listed(given: Any) -> Any:
    """A tensor or an array as lists of numbers, or a number; everything else as it is."""
    if isinstance(given, Tensor):
        given = plain("label_weights", given)
        if given.dtype in STANDARD:  # of others PyTorch makes no numbers
            return given.tolist()
        raise ValueError(
            f"label_weights must be numbers of a standard dtype, got {describe(given)}"
        )
    return given.tolist() if isinstance(given, np.ndarray) else given


def check(labels: int | None, y: Tensor | None, n: int) -> None:
    """ValueError unless a GAN with so many classes, or none, can take these labels of n rows."""
    if (y is None) != (labels is None):
        raise ValueError(
            "got y, but this GAN has no labels; drop y or build GAN(..., labels=K)"
            if y is not None
            else f"this GAN has {labels} classes; pass y (n,) int64, and real samples as "
            "real=(x, y)"
        )
    if y is None:
        return
    y = plain("y", y, f"({n},) int64")
    if y.shape != (n,) or y.dtype != torch.int64:
        raise ValueError(f"y must be ({n},) int64, got {describe(y)}")
    # On a GPU, looking at the labels would mean waiting for them.
    if y.device.type == "cpu" and len(y):
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= (labels or 0):
            wrong = low if low < 0 else high
            raise ValueError(f"y must be labels in [0, {labels}), got {wrong}")


def only(labels: int | None, chosen: int) -> tuple[float, ...]:
    """The weights that propose a single class."""
    if labels is None:
        raise ValueError(f"got only={chosen}, but this GAN has no labels; build GAN(..., labels=K)")
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not 0 <= chosen < labels:
        raise ValueError(f"only must be a class in [0, {labels}), got {chosen!r}")
    return tuple(float(k == chosen) for k in range(labels))


def shares(labels: int, weighted: Sequence[float] | None) -> tuple[float, ...]:
    """The share of each class, written out even if all are equal."""
    return (1.0 / labels,) * labels if weighted is None else tuple(weighted)


def occurring(labels: int, weighted: Sequence[float] | None) -> list[int]:
    """The classes that proposals can have."""
    return [k for k, share in enumerate(shares(labels, weighted)) if share > 0.0]


def turns(labels: int, weighted: Sequence[float] | None, start: int, n: int) -> Tensor:
    """The labels (n,) of rows from `start` on, where the classes that occur take turns."""
    found = torch.tensor(occurring(labels, weighted), device="cpu")
    return found[torch.arange(start, start + n, device="cpu") % len(found)]


def drawn(u: Tensor, labels: int, weighted: tuple[float, ...] | None) -> Tensor:
    """The labels (n,) int64 of uniforms (n,) float64, by inverting the cumulative shares."""
    if weighted is None:
        return (u * labels).long()
    return torch.searchsorted(_ends(weighted, u.device), u, right=True)


@functools.lru_cache(maxsize=64)  # or a CUDA graph would copy it from the host
def _ends(weighted: tuple[float, ...], device: torch.device) -> Tensor:
    sums = list(itertools.accumulate(weighted))
    ends = torch.tensor(sums, dtype=torch.float64, device="cpu")
    ends[max(occurring(len(weighted), weighted)) :] = 1.0  # the sum is rounded, and u may be near 1
    return ends.to(device)


class Seats:
    """Hands out n samples to classes one by one, so that each always has its share, rounded.

    The next sample goes to the class that lags most: the one with the least (count + 1/2) / share.
    Source: Webster's method of apportionment, as in Balinski and Young, Fair representation (1982).
    """

    def __init__(self, weighted: Sequence[float], n: int = 0) -> None:
        self._shares = weighted
        # Webster's counts are never below these.
        self.counts = [max(0, math.floor((n - len(weighted)) * share)) for share in weighted]
        self._queue = [self._turn(k) for k, share in enumerate(weighted) if share > 0.0]
        heapq.heapify(self._queue)
        for _ in range(n - sum(self.counts)):
            self.take()

    @property
    def next(self) -> int:
        """The class of the next sample."""
        return self._queue[0][1]

    def take(self) -> None:
        """Counts the next sample."""
        k = self.next
        self.counts[k] += 1
        heapq.heapreplace(self._queue, self._turn(k))

    def _turn(self, k: int) -> tuple[float, int]:
        return (self.counts[k] + 0.5) / self._shares[k], k


class Quota:
    """Takes accepted rows, in order, as long as their classes still lack samples.

    n: samples in all. None: without end; a row then waits until it is its class's turn.
    """

    def __init__(self, weighted: Sequence[float], n: int | None) -> None:
        self._seats = Seats(weighted, n or 0)
        self._room = torch.tensor(self._seats.counts, device="cpu")
        self._endless, self._waiting = n is None, list[Rows]()
        self._shares = torch.tensor(weighted, dtype=torch.float64, device="cpu")

    def had(self, y: Tensor) -> None:
        """Counts the labels (n,) of samples that an earlier run already made."""
        classes = len(self._room)
        if ((y < 0) | (y >= classes)).any():
            raise ValueError(
                f"labels must be in [0, {classes}), got {int(y.min())} to {int(y.max())}"
            )
        self._room -= torch.bincount(y.cpu(), minlength=len(self._room))

    def lacks(self, samples: float) -> bool:
        """Whether a class would lack half a sample or more after this many samples of all."""
        return bool((self._room - samples * self._shares > 0.5).any())

    def lacking(self) -> str:
        """The classes that lack samples, in words."""
        rooms = self._room.tolist()
        named = [f"class {k} lacks {room:,}" for k, room in enumerate(rooms) if room > 0]
        return "".join(f"; {line}" for line in named[:5]) + ("; ..." if len(named) > 5 else "")

    def taken(self, pieces: list[Rows]) -> list[Rows]:
        """The rows of a step that are taken, from pieces with a column "y"."""
        if not self._endless:
            return [rows for piece in pieces if len((rows := self._split(piece)[0])["y"])]
        self._waiting += pieces
        if not self._waiting:
            return []
        every = {
            name: torch.cat([piece[name] for piece in self._waiting]) for name in self._waiting[0]
        }
        there = torch.bincount(every["y"].cpu(), minlength=len(self._room)).tolist()
        while there[self._seats.next]:
            there[self._seats.next] -= 1
            self._room[self._seats.next] += 1
            self._seats.take()
        rows, others = self._split(every)
        self._waiting = [others]
        return [rows]

    def _split(self, piece: Rows) -> tuple[Rows, Rows]:
        """The rows there is room for, and the others."""
        y = piece["y"]
        keep = up_to(y, self._room.to(y.device))
        self.had(y[keep])
        return tuple({k: rows[mask] for k, rows in piece.items()} for mask in (keep, ~keep))  # type: ignore[return-value]


def up_to(y: Tensor, room: Tensor) -> Tensor:
    """Which rows of labels y (n,) are among the first room[k] of their class k, (n,) bool."""
    order = y.argsort(stable=True)
    sorted_y = y[order]
    begins = torch.searchsorted(sorted_y, torch.arange(len(room), device=y.device))
    rank = torch.empty_like(y)
    rank[order] = torch.arange(len(y), device=y.device) - begins[sorted_y]
    return rank < room[y]
