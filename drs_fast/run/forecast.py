"""How many rows the samples that are missing are expected to take."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from drs_fast.gan import BLOCK_MULTIPLE, SMALLEST, classes

# More than the expected samples that a last step must be expected to bring: in memory another one
# may follow it, on disk one that falls short is taken again.
DEVIATIONS, AGAIN = 1.0, 3.0
EARNS = 100  # batches: the proof of a graph costs one more, 1 % of these


class Tried(NamedTuple):
    """What a run has done: rows that landed, rows in flight, rows since the last sample."""

    accepted: int
    proposals: int
    flying: int
    idle: int


@dataclass(frozen=True)
class Forecast:
    """What further rows are expected to bring.

    n: samples in all; None: without end. acceptance: the share of rows that burn-in expects.
    draws: whether the sampler draws latents itself, most of them cheaply. call_rows: rows that a
    call of G and D computes for so many.
    """

    n: int | None
    group: int
    step_rows: int
    acceptance: float
    draws: bool
    sequential: bool
    quota: classes.Quota | None
    call_rows: Callable[[int], int]

    def earns_a_graph(self, tried: Tried) -> bool:
        """Whether so many rows are missing that a graph is worth its proof."""
        missing = math.inf if self.n is None else self.n - tried.accepted
        return missing >= EARNS * self.step_rows * self.acceptance

    def needs(self, tried: Tried) -> bool:
        """Whether to launch a step: the ones in flight are expected to bring too few samples.

        What they bring is chance. If it is less, another step follows as soon as the host knows,
        and the device has waited for one launch; if it is more, a step was launched in vain.
        """
        if self.n is None or not tried.flying:
            return True
        if self.quota is not None:
            return self.quota.lacks(tried.flying * self.acceptance)
        # What burn-in expects weighs as much as one step.
        rate = (tried.accepted + self.acceptance * self.step_rows) / (
            tried.proposals + self.step_rows
        )
        return tried.flying * rate < self.n - tried.accepted - 0.5

    def few(self, tried: Tried, again: bool) -> int:
        """Whole groups of rows that should bring all the missing samples.

        again: a step that falls short is taken again.
        """
        if self.n is None or self.sequential or self.draws:
            return self.step_rows
        if self.quota is not None and again:  # a wasted step would have used up rows
            return self.step_rows
        group, wanted, rate = self.group, self.n - tried.accepted, self.acceptance
        if tried.proposals:
            rate = min(rate, (tried.accepted + 1) / tried.proposals)
        luck = max(0.0, 1.0 - group * rate)  # none if every group is sure to bring a sample
        hoped = wanted + (AGAIN if again else DEVIATIONS) * math.sqrt(wanted * luck)
        rows = math.ceil(hoped / (group * rate)) * group
        if self.quota is not None:  # the class that lacks samples may be rare
            rows = max(rows, tried.idle)
        if group > 1:
            return rows
        if not again:  # a call of 128 rows may follow a call of a multiple of 256
            rows = (rows + SMALLEST - 1) // BLOCK_MULTIPLE * BLOCK_MULTIPLE
        return self.call_rows(rows)

    def batches(self, tried: Tried, most: int) -> int:
        """Rows of one batch, or of several if the n-th sample can only come in the last of them."""
        wanted: float = 0 if self.n is None else self.n - tried.accepted
        if self.draws:  # most rows cost little: rather too many than another step
            wanted = math.inf if self.n is None else wanted + 2.0 * math.sqrt(wanted)
            wanted /= self.acceptance
        wanted -= tried.flying
        return self.step_rows * max(1, int(min(most, wanted)) // self.step_rows)
