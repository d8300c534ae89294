"""A large file whose bytes go to the disk while others are being made, not all at the end."""

import io
import os
from pathlib import Path
from typing import Any

BYTES = 2**25  # between two syncs


class Synced(io.FileIO):
    """A new file that is written in full pieces, without a buffer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self._since = 0

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[super().write(rest) :]
        self._since += size
        if self._since >= BYTES:
            os.fsync(self.fileno())
            self._since = 0
        return size
