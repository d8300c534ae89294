"""Cold-cache timing of interleaved calls, and the description of the machine for result files."""

import functools
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import drs_fast

FLUSH_BYTES = 640 * 10**6


@dataclass(frozen=True)
class Timing:
    """Milliseconds."""

    median: float
    p10: float
    p90: float


def flush() -> None:
    """Empties the caches by reading a larger buffer.

    The buffer is only read, because dirty lines would be written back during the timed call. The
    pause lets the reading threads stop spinning, which would take cores from other thread pools.
    """
    _buffer().sum()
    time.sleep(0.01)


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Times every call once per round, from a flushed cache; each round starts one call later."""
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for i in range(repeats):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            flush()
            start = time.perf_counter()
            result = calls[name]()
            seconds[name].append(time.perf_counter() - start)
            del result
    return {name: _timing(values) for name, values in seconds.items()}


def environment() -> dict[str, Any]:
    """Device, versions and commit, for the top of a result file."""
    return {
        "device": {
            "cpu": _cpu_model(),
            "threads": torch.get_num_threads(),
            "l3": _first_line("/sys/devices/system/cpu/cpu0/cache/index3/size"),
            "flush_bytes": FLUSH_BYTES,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "numba": _version("numba"),
            "drs_fast": drs_fast.__version__,
        },
        "commit": _commit(),
    }


def describe(environment: dict[str, Any]) -> str:
    device, versions = environment["device"], environment["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"{device['cpu']}, {device['threads']} threads; {libraries}; commit {environment['commit']}"
    )


@functools.cache
def _buffer() -> torch.Tensor:
    return torch.ones(FLUSH_BYTES // 4)


def _timing(seconds: list[float]) -> Timing:
    p10, median, p90 = np.percentile(np.array(seconds) * 1e3, [10, 50, 90]).tolist()
    return Timing(median, p10, p90)


def _cpu_model() -> str:
    model = _first_line("/proc/cpuinfo", "model name")
    return model.partition(":")[2].strip() if model else platform.processor()


def _first_line(path: str, beginning: str = "") -> str | None:
    file = Path(path)
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line for line in lines if line.startswith(beginning)), None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
