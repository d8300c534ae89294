"""A large file whose bytes go to the disk while others are being made, not all at the end."""

import io
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

BYTES = 2**25  # between two syncs


class Synced(io.FileIO):
    """A new file that is written in full pieces, without a buffer."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self._since = 0
        self._thread = ThreadPoolExecutor(1, "drs_fast sync")
        self._syncing: Future[None] | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            rest = rest[super().write(rest) :]
        self._since += size
        if self._since >= BYTES and (self._syncing is None or self._syncing.done()):
            self._wait()
            self._syncing = self._thread.submit(os.fsync, self.fileno())
            self._since = 0
        return size

    def close(self) -> None:
        if not self.closed:
            self._thread.shutdown()
            super().close()
            self._wait()

    def _wait(self) -> None:
        """Raises what the last sync has raised."""
        if self._syncing is not None:
            self._syncing.result()
