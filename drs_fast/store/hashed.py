"""The sha256 of many shards, by several threads: one thread hashes slower than a disk reads."""

import functools
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from drs_fast.store.folder import PIECE, THREADS
from drs_fast.store.format import Record, has_size, shard_name

SMALL = 2**16  # bytes of a file that is hashed sooner than it is handed to a thread


def hashed(
    directory: Path, records: Iterable[Record]
) -> Generator[tuple[Record, str | None], None, None]:
    """Yields each record with its shard's sha256, in the order of the records.

    None for a shard that is missing or has another size, which is not read. Each thread holds one
    piece of a file. Closing the iterator, or an error, ends the threads within a piece.
    """
    stop = threading.Event()
    begun: deque[tuple[Record, Callable[[], str | None]]] = deque()
    threads = ThreadPoolExecutor(THREADS, "drs_fast hash")
    try:
        for record in records:
            work = functools.partial(_sha256, directory, record, stop)
            begun.append((record, work if record.size < SMALL else threads.submit(work).result))
            if len(begun) > 2 * THREADS:  # so many that no thread waits for whoever asks
                first, result = begun.popleft()
                yield first, result()
        for last, result in begun:
            yield last, result()
    finally:
        stop.set()
        threads.shutdown(cancel_futures=True)


def _sha256(directory: Path, record: Record, stop: threading.Event) -> str | None:
    if not has_size(directory, record):
        return None
    sha256, piece = hashlib.sha256(), memoryview(bytearray(min(PIECE, record.size + 1)))
    with (directory / shard_name(record.chunk)).open("rb", buffering=0) as file:
        while (size := file.readinto(piece)) and not stop.is_set():
            sha256.update(piece[:size])
    return sha256.hexdigest()
