"""What a search has found, and what follows from it for every step."""

import math
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from drs_fast.core.layout import Layout, Logits, OfClasses, Proposed, Scalar
from drs_fast.samplers.common.intervals import Share
from drs_fast.samplers.common.rejection import Rejection, RejectionState
from drs_fast.squeeze.audit import loss, power_of_two

FLOOR = 0.25  # share of audits that are chosen evenly rather than by their bound
AUDITED = 0.04  # audits, as a share of all calls of G and D
MOST_READ = 16


class Numbers(NamedTuple):
    """What every step needs of a state, as the host has it."""

    margins: tuple[float, float]
    low: tuple[float, ...]
    audits: float
    calls: float
    acceptance: float
    high: float

    @property
    def networks(self) -> bool:
        """Whether a network rejects rows."""
        return math.isfinite(self.margins[1])

    @property
    def typical(self) -> float:
        """About the mass of a row that G and D see."""
        return power_of_two(self.acceptance / self.calls)

    @property
    def floor(self) -> float:
        """The least chance of an audit."""
        return floor(self.calls)


# Of the last states, with their tensors: reading a number makes the host wait for a GPU.
_read: dict[tuple[int, ...], tuple[tuple[Tensor, ...], Numbers]] = {}


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
    # Of low precision: its margin in nats, and the share of rows that it looks at; (0,) if unused.
    low: Annotated[Tensor, Layout(torch.float64, ((0,), (2,)))] = torch.empty(
        0, dtype=torch.float64, device="cpu"
    )

    @property
    def numbers(self) -> Numbers:
        """The numbers of this state, read once."""
        tensors = self.margins, self.low, self.audits, self.calls, self.acceptance, self.high
        key = tuple(map(id, tensors))
        if key not in _read:
            if len(_read) >= MOST_READ:
                _read.clear()
            (tiny, large), low = self.margins.tolist(), tuple(self.low.tolist())
            _read[key] = tensors, Numbers((tiny, large), low, *map(float, tensors[2:]))
        return _read[key][1]

    @property
    def used(self) -> bool:
        """Whether any bound rejects rows."""
        return self.numbers.networks or bool(self.numbers.low)

    @property
    def unbounded(self) -> RejectionState:
        """What the sampler found, without the bounds."""
        return RejectionState(*self[: len(RejectionState._fields)])


def lost(sums: Mapping[str, int], state: SqueezeState) -> Share:
    """The loss that a run's sums show, with what may hide; both search and run limit the latter."""
    known = state.numbers
    return loss(sums, 1.0 / (known.floor * known.typical)).within(known.high)


def floor(calls: float) -> float:
    """The least chance of an audit if G and D see this share of the rows."""
    return FLOOR * AUDITED / (1.0 + AUDITED) * calls


def score(decides: Rejection, bound: Tensor, y: Tensor | None) -> Tensor:
    """Half the log of the approximate acceptance probability, at most 0; (n,) float32.

    Choosing rows in proportion to its exponential gives the best estimate of what a bound loses, if
    the bound's errors have the same law everywhere.
    """
    log_m, gamma = decides.state.log_m, decides.state.gamma
    top = (log_m + gamma).float()
    return ((bound - (top[y] if top.ndim else top)) / 2).clamp(max=0.0)
