"""A run as on a GPU, where the host reads late, emulated on the CPU."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from drs_fast import ops
from drs_fast.run import lanes, steps


class Lagging:
    """steps.Readings with lines of plain memory, each of which must be read before its next use."""

    lagging = True
    in_flight = steps.IN_FLIGHT

    def __init__(self):
        self.lines = {}
        self.taken = 0
        self.lags = []  # how many were taken after the one that was read

    def take(self, words):
        number = self.taken
        slot = number % (self.in_flight + 1)
        assert slot not in self.lines, "a line is used again before it is read"
        self.lines[slot] = words.clone()
        self.taken += 1

        def read():
            assert number == len(self.lags), "read out of order, or twice"
            self.lags.append(self.taken - 1 - number)
            return self.lines.pop(slot).tolist()

        return read

    def check(self):
        """Checks that no more was in flight than there are lines, and less only near the end."""
        last = self.taken - 1
        most = [min(self.in_flight, last - k) for k in range(len(self.lags))]
        assert all(lag <= limit for lag, limit in zip(self.lags, most, strict=True))


class Graphs:
    """lanes.captured, whose replays are calls; a capture runs nothing."""

    def __init__(self, fault):
        self.fault = fault
        self.readings, self.rings = [], []
        self.captures = self.replays = 0

    def ring(self, *arguments, **named):
        self.rings.append(ops.ring(*arguments, **named))
        return self.rings[-1]

    def readings_of(self, device, watch):
        self.readings.append(Lagging())
        return self.readings[-1]

    def captured(self, call, device):
        self.captures += 1

        def replay():
            self.replays += 1
            call()

        return replay if self.fault is None else self.fault(call, self.rings[-1])


def drawn_by_the_host(*arguments):
    pytest.fail("latents are drawn for row numbers of the host's")


@contextmanager
def gpu(fault=None):
    """Steps in flight, row numbers that only the ring knows, and a graph."""
    graphs, own = Graphs(fault), SimpleNamespace(**vars(ops))
    own.ring = graphs.ring
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "Readings", graphs.readings_of)
        patch.setattr(lanes, "ops", own)
        patch.setattr(lanes, "captured", graphs.captured)
        patch.setattr(lanes.Drawn, "rows", drawn_by_the_host)
        yield graphs
    for reading in graphs.readings:
        reading.check()
