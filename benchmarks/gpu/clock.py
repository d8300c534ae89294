"""All CUDA calls of the GPU benchmark, and a stand-in that runs its code without a GPU."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common.timing import Timing

Call = Callable[[], Any]


class Clock:
    """Device time of calls and of graph replays, in milliseconds."""

    repeats = 21
    calls = 10  # per warm figure
    host_calls = 200

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._properties: Any = torch.cuda.get_device_properties(self.device)
        self._side = torch.cuda.Stream()
        self._buffer = torch.ones(self._properties.L2_cache_size // 2, device=self.device)

    def launch(self, call: Call) -> Timing:
        """One call from Python, on an idle device with a cold L2."""
        return self._median(lambda: self._between(call, idle=True))

    def cold(self, replay: Call) -> Timing:
        """One replay of a graph with a cold L2; the host is ahead of the device."""
        return self._median(lambda: self._between(replay, idle=False))

    def warm(self, call: Call, *, graph: bool) -> Timing:
        """Time per call of several in a row, in one graph or from Python."""
        many = self.capture(call, self.calls) if graph else lambda: self._repeat(call)
        many()
        return self._median(lambda: self._elapsed(many) / self.calls)

    def host(self, call: Call) -> Timing:
        """Host time of a call, without waiting for the device."""
        call()
        self.synchronize()
        times = []
        for _ in range(self.host_calls):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
        self.synchronize()
        return quantiles(times)

    def capture(self, call: Call, calls: int = 1) -> Call:
        """A function that replays a graph of the calls and returns the last one's result."""
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(self._side)
        graph = torch.cuda.CUDAGraph()
        result = None
        # Relaxed, so that a call that loads code while it is captured still gets its figure.
        with torch.cuda.graph(graph, stream=self._side, capture_error_mode="relaxed"):
            for _ in range(calls):
                result = call()

        def replay() -> Any:
            graph.replay()
            return result

        return replay

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def release(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        return torch.cuda.mem_get_info()[0]

    def describe(self) -> dict[str, Any]:
        return {
            "gpu": self._properties.name,
            "multiprocessors": self._properties.multi_processor_count,
            "l2_bytes": self._properties.L2_cache_size,
            "flush_bytes": self._buffer.nbytes,
            "memory_bytes": self._properties.total_memory,
            "driver": _driver(),
        }

    def _between(self, call: Call, *, idle: bool) -> float:
        # The flush only reads, because dirty lines would be written back during the timed call.
        self._buffer.sum()
        if idle:
            torch.cuda.synchronize()
        return self._elapsed(call)

    def _elapsed(self, call: Call) -> float:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        result = call()
        end.record()
        end.synchronize()
        del result
        return start.elapsed_time(end)

    def _repeat(self, call: Call) -> None:
        for _ in range(self.calls):
            call()

    def _median(self, measure: Callable[[], float]) -> Timing:
        measure()
        return quantiles([measure() for _ in range(self.repeats)])


class HostClock(Clock):
    """The same figures from the host's clock; a replay is a call."""

    repeats = 1
    calls = 1
    host_calls = 1

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def capture(self, call: Call, calls: int = 1) -> Call:
        return call

    def synchronize(self) -> None:
        pass

    def release(self) -> None:
        pass

    def free_bytes(self) -> int:
        return 2**30

    def describe(self) -> dict[str, Any]:
        return {"gpu": None, "flush_bytes": 0}

    def _between(self, call: Call, *, idle: bool) -> float:
        return self._elapsed(call)

    def _elapsed(self, call: Call) -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    def _median(self, measure: Callable[[], float]) -> Timing:
        return quantiles([measure() for _ in range(self.repeats)])


def quantiles(milliseconds: list[float]) -> Timing:
    p10, median, p90 = np.percentile(np.array(milliseconds), [10, 50, 90]).tolist()
    return Timing(median, p10, p90)


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.split("\n")[0].strip()
