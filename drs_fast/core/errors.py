"""Errors of a run that a caller may want to catch."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drs_fast.core.batch import Batch


class BadLogits(RuntimeError):
    """The discriminator's output cannot be sampled from."""


class OutOfTime(RuntimeError):
    """`max_seconds` ended before the run; `partial` holds the samples of a run in memory.

    A run on disk keeps all chunks that were finished, and the same call goes on after them.
    """

    partial: "Batch | None" = None


class Stale(RuntimeError):
    """A squeezed run's bound loses too much; `partial` holds the samples of a run in memory."""

    partial: "Batch | None" = None


class Starvation(RuntimeError):
    """Too few rows were accepted; `partial` holds the samples of a run in memory."""

    partial: "Batch | None" = None


MAX_INVALID_SHARE = 1e-4


def check_invalid(invalid: int, rows: int) -> None:
    """Raises BadLogits if more than 0.01 % of logits are NaN or +inf, with allowance for chance."""
    expected = MAX_INVALID_SHARE * max(rows, 10_000)
    if invalid > expected + 2.0 * math.sqrt(expected):
        raise BadLogits(
            f"{invalid:,} of {rows:,} logits are NaN or +inf, more than {MAX_INVALID_SHARE:.2%}; "
            "run G and D in float32, and look for overflow, for a sigmoid that reaches 1, or for "
            "link='probability' with a D that returns logits"
        )
