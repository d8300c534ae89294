"""Steps through a seed's rows. On a GPU several are in flight, and the host reads counts late."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from drs_fast.run.collected import Rows
from drs_fast.run.stopwatch import WAITING, Stopwatch

IN_FLIGHT = 3  # steps queued on the GPU while the host reads the counts of the one before them


@dataclass(frozen=True)
class Step:
    """Rows [row, row + size). last: they end their chunk. short: the run should end with them."""

    row: int
    size: int
    chunk: int = 0
    last: bool = False
    short: bool = False


class Landed(NamedTuple):
    """The result of a step. Later steps may overwrite its rows.

    rows: "ids" and those of "logit", "x", "z" and "y" that are wanted, in pieces. keeps: what there
    is of its shard is to be kept; all sums are in the tallies.
    """

    step: Step
    rows: list[Rows]
    accepted: int
    invalid: int
    above: int
    calls: int  # calls of G and D, in rows
    tallies: Mapping[str, int] = MappingProxyType({})
    keeps: bool = False


class Lane(Protocol):
    """A way to run steps. `launch` enqueues a step and returns a function that waits for it.

    in_flight: steps to launch before waiting for the first. most_rows: most rows in a step.
    """

    in_flight: int
    most_rows: int

    def launch(self, step: Step) -> Callable[[], Landed]: ...


def landed(lane: Lane, steps: Iterable[Step | None]) -> Iterator[Landed]:
    """Yields each step's result in order, after launching up to `in_flight` further steps.

    steps: None where the next step, if any, is to be asked for when one in flight has landed.
    """
    left, flying = iter(steps), deque[Callable[[], Landed]]()
    while True:
        while len(flying) <= lane.in_flight and (step := next(left, None)) is not None:
            flying.append(lane.launch(step))
        if not flying:
            return
        yield flying.popleft()()


class Readings:
    """Copies a few int64 words from a device; the host reads them some steps later."""

    def __init__(self, device: torch.device, watch: Stopwatch) -> None:
        self._watch = watch
        self.lagging = device.type == "cuda"
        self.in_flight = IN_FLIGHT if self.lagging else 0
        self._device = device
        self._lines: list[tuple[Tensor, torch.cuda.Event]] = []
        self._taken = 0

    def take(self, words: Tensor) -> Callable[[], list[int]]:
        """Queues a copy of the words; the returned function reads them, and may wait for that."""
        if not self.lagging:
            values: list[int] = words.tolist()
            return lambda: values
        if len(self._lines) < self.in_flight + 1:
            line = torch.empty_like(words, device="cpu", pin_memory=True)
            self._lines.append((line, torch.cuda.Event()))
        line, event = self._lines[self._taken % (self.in_flight + 1)]
        self._taken += 1
        line.copy_(words, non_blocking=True)
        event.record(torch.cuda.current_stream(self._device))

        def read() -> list[int]:
            with self._watch.on(WAITING):
                event.synchronize()
            values: list[int] = line.tolist()
            return values

        return read
