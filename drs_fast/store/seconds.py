"""What the time of a run on disk was spent on: a file beside the manifest.

It is the one file that differs between two runs of the same command. Nothing depends on it.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from drs_fast.store.format import SECONDS


def read(path: Path) -> dict[str, float]:
    """The seconds of all calls that wrote to the run; none if the file is missing or damaged."""
    file = path / SECONDS
    if not file.is_file():  # a pipe would be waited for
        return {}
    with contextlib.suppress(OSError, ValueError, OverflowError, RecursionError):
        found = json.loads(file.read_text())
        if isinstance(found, dict) and all(type(value) in (int, float) for value in found.values()):
            return {name: float(value) for name, value in found.items()}
    return {}


def added(path: Path, seconds: Mapping[str, float]) -> bytes:
    """The file's content after a call that took these seconds."""
    total = read(path)
    for name, value in seconds.items():
        total[name] = round(total.get(name, 0.0) + value, 6)
    return (json.dumps(total, sort_keys=True) + "\n").encode()
