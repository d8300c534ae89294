"""How many rows each stage leaves, known before it runs.

A GPU then never waits for the host: it always gets full blocks of the same number. What finds no
room is counted, and a step that lacked room is done again.
"""

import math
from typing import NamedTuple

from drs_fast.squeeze.slices import SLICE

SURE = 6.0  # standard deviations: one step in 10^9 lacks room


class Rooms(NamedTuple):
    """Rows that the networks leave of a slice, that low precision sees, and that G and D see."""

    slice: int
    low: int
    full: int

    @staticmethod
    def of(n: int, low: float, full: float, low_block: int, block: int) -> "Rooms":
        """For a step of n rows. low, full: the shares that are expected to get there."""
        size = min(n, SLICE)
        first = min(most(size * low), size)
        return Rooms(first, _whole(min(most(n * low), n), low_block), _whole(most(n * full), block))


def most(expected: float) -> int:
    """As many rows as hardly ever come if so many are expected."""
    return math.ceil(expected + SURE * math.sqrt(expected) + SURE**2 / 2)


def expecting(room: int) -> float:
    """How many rows to expect, so that they fill the room and hardly ever need more."""
    return max(1.0, (math.sqrt(max(0.0, room - SURE**2 / 4)) - SURE / 2) ** 2)


def _whole(n: int, block: int) -> int:
    return block * -(-n // block)
