"""Where the time of a run goes.

On a CPU everything happens one after another, so the seconds of all parts add up to those that
passed. A GPU works while the host goes on: there `waiting` is the host's wait for it, and what the
GPU does is measured by its own events in one batch, times the number of batches.
"""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

# What a step consists of; "accept" is all that the sampler does itself.
DRAW, GENERATOR, DISCRIMINATOR, ACCEPT = PARTS = ("draw", "generator", "discriminator", "accept")
# What the host does beside them.
LAUNCH, WAITING, DRAIN, DISK, OTHER = "launch", "waiting", "drain", "disk", "other"
TOTAL = "total"
MEASURED = 2  # batches whose parts are measured on a GPU; the last one counts, when all is warm
SHOWN = 0.005  # of the total; less is not worth a word


class Span:
    """A block whose time counts for `name`, and not for what is around it."""

    def __init__(self, begin: Callable[[str], None], end: Callable[[], None], name: str) -> None:
        self._begin, self._end, self._name = begin, end, name

    def __enter__(self) -> None:
        self._begin(self._name)

    def __exit__(self, *error: object) -> None:
        self._end()


class Parts(Protocol):
    """What measures the parts of a step."""

    def on(self, name: str) -> Span: ...

    def batch(self, rows: int) -> AbstractContextManager[None]:
        """A batch of a step that is called."""

    def replayed(self, rows: int) -> None:
        """A batch that was replayed."""


class Stopwatch:
    """The host's seconds since it was made, by what they were spent on."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._spent = defaultdict[str, float](float)
        self._doing = [OTHER]
        self._since = self._begun = now()
        self._device: DeviceParts | None = None

    def on(self, name: str) -> Span:
        return Span(self._begin, self._end, name)

    def parts(self, device: torch.device) -> Parts:
        """What measures the parts of a step on this device."""
        if device.type != "cuda":
            return self
        self._device = DeviceParts(device)
        return self._device

    def batch(self, rows: int) -> AbstractContextManager[None]:
        return nullcontext()

    def replayed(self, rows: int) -> None:
        pass

    def seconds(self) -> dict[str, float]:
        """The seconds so far, and their total."""
        self._mark()
        device = {} if self._device is None else self._device.seconds()
        return {**self._spent, **device, TOTAL: self._since - self._begun}

    def _begin(self, name: str) -> None:
        self._mark()
        self._doing.append(name)

    def _end(self) -> None:
        self._mark()
        self._doing.pop()

    def _mark(self) -> None:
        now = self._now()
        self._spent[self._doing[-1]] += now - self._since
        self._since = now


class DeviceParts:
    """A GPU's seconds for the parts of a step, from events around those of one batch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        self._doing = [OTHER]
        self._open = False
        self._measured = self._rows = self._of = 0  # batches; rows in all, and of the measured one

    def on(self, name: str) -> Span:
        return Span(self._begin, self._end, name)

    @contextmanager
    def batch(self, rows: int) -> Iterator[None]:
        self._rows += rows
        if self._measured == MEASURED:
            yield
            return
        self._marks, self._doing, self._of, self._open = [], [OTHER], rows, True
        self._mark()
        try:
            yield
        finally:
            self._mark()
            self._open = False
            self._measured += 1

    def replayed(self, rows: int) -> None:
        self._rows += rows

    def seconds(self) -> dict[str, float]:
        """The measured batch's, in proportion to all rows; none before there was one."""
        if not self._marks:
            return {}
        self._marks[-1][1].synchronize()
        found = defaultdict[str, float](float)
        for (_, before), (name, after) in itertools.pairwise(self._marks):
            found[name] += 1e-3 * before.elapsed_time(after) * self._rows / self._of
        return {name: found[name] for name in PARTS}

    def _begin(self, name: str) -> None:
        if self._open:
            self._mark()
            self._doing.append(name)

    def _end(self) -> None:
        if self._open:
            self._mark()
            self._doing.pop()

    def _mark(self) -> None:
        """The time since the last mark was spent on what is being done."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append((self._doing[-1], event))


def words(seconds: Mapping[str, float]) -> str:
    """The seconds in one line, longest first."""
    total = seconds.get(TOTAL, 0.0)
    apart = WAITING in seconds  # the parts overlap what the host does
    host = {k: s for k, s in seconds.items() if k != TOTAL and not (apart and k in PARTS)}
    line = f"{total:.3g} s: {_listed(host, total)}"
    device = {k: seconds[k] for k in PARTS if apart and k in seconds}
    return f"{line}; meanwhile on the GPU: {_listed(device, total)}" if device else line


def _listed(seconds: Mapping[str, float], total: float) -> str:
    most = sorted(seconds.items(), key=lambda each: -each[1])
    return ", ".join(f"{name} {s:.3g}" for name, s in most if s > SHOWN * total)
