"""Writes parts on several threads: some write files, and the others make what they write."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from drs_fast.exporting.format import Format, Part
from drs_fast.exporting.source import Source
from drs_fast.run.progress import Progress
from drs_fast.store.once import written


class Bar(Progress):
    """The progress of an export."""

    def _words(self) -> str:
        return self.note


class Stopped(Exception):
    """Another thread has failed, or the user has interrupted the export."""


class Engine:
    """Writes parts on several threads: some write files, and the others make what they write."""

    def __init__(self, made: Format, source: Source, bar: Bar, threads: int) -> None:
        self.format, self.source = made, source
        self._bar, self._threads = bar, threads
        self._main = "x" if "x" in source.rows else "ids"
        self._showing = threading.Lock()
        self._stop = threading.Event()

    def skip(self, parts: list[Part]) -> None:
        """Counts parts that are there."""
        self._bar.skip(sum(part.stop - part.start for part in parts if part.shows))

    def write(self, folder: Path, parts: list[Part]) -> None:
        """Writes all parts; each appears under its name when it is complete."""
        writers = max(1, min(self._threads, len(parts)))
        ahead = writers < self._threads  # a single writer mostly waits, for makers and the disk
        with (
            ThreadPoolExecutor(self._threads, "drs_fast maker") as makers,
            ThreadPoolExecutor(writers, "drs_fast export") as pool,
        ):
            todo: list[Future[None]] = []
            try:
                todo.extend(
                    pool.submit(self._write, folder, part, makers if ahead else None)
                    for part in parts
                )
                done, _ = wait(todo, return_when=FIRST_EXCEPTION)
            finally:
                if len(todo) < len(parts) or not all(future.done() for future in todo):
                    self._stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
            for future in done:
                future.result()

    def _write(self, folder: Path, part: Part, makers: ThreadPoolExecutor | None) -> None:
        def pieces(*columns: str) -> Iterator[Any]:
            shows = part.shows and self._main in columns
            ranges = self.source.ranges(part.start, part.stop, columns)
            calls = [(start, stop, columns) for start, stop in ranges]
            for (start, stop, _), piece in zip(calls, self._made(calls, makers), strict=True):
                if self._stop.is_set():
                    raise Stopped
                yield piece
                if shows:
                    with self._showing:
                        self._bar.advance(stop - start, 0)

        with written(folder / part.name) as temporary:
            self.format.write(temporary, part, pieces)

    def _made(
        self, calls: list[tuple[int, int, tuple[str, ...]]], makers: ThreadPoolExecutor | None
    ) -> Iterator[Any]:
        """What the format makes of each piece, in order, a few ahead of the one that is written."""
        if makers is None:
            yield from map(self._make, calls)
            return
        waiting: deque[Future[Any]] = deque()
        for call in calls:
            waiting.append(makers.submit(self._make, call))
            if len(waiting) > self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _make(self, call: tuple[int, int, tuple[str, ...]]) -> Any:
        if self._stop.is_set():
            raise Stopped
        return self.format.made(self.source.read(*call))
