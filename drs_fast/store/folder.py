"""Durable writes: a file is either there in full or not there."""

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from drs_fast.store.format import Busy, Conflict

if sys.platform != "win32":
    import fcntl

BINARY = getattr(os, "O_BINARY", 0)
THREADS = 4  # hashing takes as long as a fast disk, and fsync waits
PIECE = 2**20  # bytes that are hashed and written before others, so that a cache holds them
ATTEMPTS, PAUSE = 20, 0.01  # seconds; `being_written` takes the lock for a moment
LOOKS = 5  # of `being_written`
Data = bytes | memoryview  # of bytes
_folders: "weakref.WeakSet[Folder]" = weakref.WeakSet()


class Folder:
    """A directory that only this process writes to, durably. Busy if another process does.

    shared: beside other processes that share it too. locked: Conflict where the file system has no
    locks, as for `shared`. own: what tells the names of unfinished files from those of the others.

    A thread takes the lock, waits for the threads that perform the submitted writes, and releases
    the lock. Signals only interrupt the main thread, so the lock is held until the last write ends.
    """

    def __init__(self, path: Path, *, shared: bool = False, locked: bool = False) -> None:
        self.path = path
        self.own = ""
        self._shared, self._locked = shared, shared or locked
        self._appending = threading.Lock()
        self._directory: int | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "drs_fast lock")
        self._writers = ThreadPoolExecutor(THREADS, "drs_fast writer")
        if not path.is_dir():
            raise Conflict(f"{path} is not a directory")
        _folders.add(self)
        try:
            self._thread.submit(self._begin).result()
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        # If an interruption came before anyone could close it, or even before it was complete.
        try:  # noqa: SIM105, because `suppress` is Python, which can be interrupted itself
            self._unlock()
        except BaseException:  # another interruption, which Python would print
            pass

    def submit(self, write: Callable[..., None], *given: Any) -> Future[None]:
        """Runs `write` in one of the threads; it begins after everything submitted earlier has."""
        return self._writers.submit(write, *given)

    def close(self) -> None:
        """Releases the lock after all submitted writes; interruptions are raised afterwards."""
        interruption: BaseException | None = None
        while not self._closed:
            try:
                self._thread.submit(self._end).result()
            except Exception:  # reported through its own future
                raise
            except BaseException as error:
                interruption = error
        self._thread.shutdown(wait=False)
        self._writers.shutdown(wait=False)
        if interruption is not None:
            raise interruption

    def _begin(self) -> None:
        self._lock()
        # All writers start here, because an interruption of the main thread while it started one
        # would hide that one from `shutdown`, which then would not wait for it.
        started = threading.Barrier(THREADS)
        for _ in range(THREADS):
            self._writers.submit(started.wait)

    def _lock(self) -> None:
        if sys.platform == "win32":
            if self._locked:
                raise self._without_locks()
            return
        self._directory = os.open(self.path, os.O_RDONLY)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._shared:
                    self._share(self._directory)
                else:
                    fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt == ATTEMPTS:
                    raise Busy(
                        f"another process is writing {self.path}; wait for it or end it"
                    ) from None
                time.sleep(PAUSE)
            except OSError:
                if self._locked:
                    raise self._without_locks() from None
                return  # some network file systems have no locks; O_EXCL below still protects

    @staticmethod
    def _share(directory: int) -> None:
        """Takes the shared lock, and finds out whether the other one, which ends a run, exists."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _without_locks(self) -> Conflict:
        return Conflict(
            f"several workers cannot write to {self.path}, because its file system has no locks "
            "(flock); choose a directory on another one, or run the command without a worker"
        )

    def _end(self) -> None:
        self._writers.shutdown(wait=True)
        self._unlock()

    def _unlock(self) -> None:
        directory, self._directory = self._directory, None
        if directory is not None:
            _release(directory)
        self._closed = True

    def _forked(self) -> None:
        """In a forked child: gives up the lock there, without taking it from the parent."""
        if self._directory is not None:
            os.close(self._directory)
        self._directory, self._closed = None, True

    def put(self, name: str, *data: Data) -> str:
        """Replaces a file's content by data, or changes nothing; its sha256.

        OSError names the path.
        """
        temporary = self.path / f"{name}{self.own}.tmp"
        with _explained(self.path / name, sum(map(len, data))):
            self._check_place()
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
            try:
                try:
                    sha256 = _write(file, *data)
                finally:
                    os.close(file)
                os.replace(temporary, self.path / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            self._sync()
        return sha256

    def create(self, name: str) -> bool:
        """Makes an empty file, durably; False if there is one of this name."""
        with _explained(self.path / name, 0):
            self._check_place()
            try:
                os.close(os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            except FileExistsError:
                return False
            self._sync()
        return True

    def append(self, name: str, data: bytes) -> None:
        """Appends data to a file, or changes nothing. OSError names the path."""
        # One thread at a time, because one that fails cuts off all that follows its beginning.
        with self._appending, _explained(self.path / name, len(data)):
            self._check_place()
            file = os.open(self.path / name, os.O_WRONLY | os.O_APPEND | BINARY)
            size = os.fstat(file).st_size
            try:
                _write(file, data)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
                raise
            finally:
                os.close(file)

    def remove(self, names: list[str]) -> None:
        """Removes those of the files that exist."""
        self._check_place()
        for name in names:
            (self.path / name).unlink(missing_ok=True)
        if names:
            self._sync()

    def _check_place(self) -> None:
        """Conflict if the locked directory was moved, and another one stands in its place."""
        if self._directory is None:
            return
        if not os.path.samestat(os.fstat(self._directory), os.stat(self.path)):
            raise Conflict(
                f"{self.path} was moved while it was being written, and another directory stands "
                "there now; to go on, run the same command with the new name"
            )

    def _sync(self) -> None:
        if self._directory is not None:
            os.fsync(self._directory)


def make_directory(path: Path) -> None:
    """Makes a directory and its missing parents, durably."""
    if not path.parent.exists():
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # one may write there without being able to read
            parent = os.open(path.parent, os.O_RDONLY)
            try:
                with _explained(path, 0):
                    os.fsync(parent)
            finally:
                os.close(parent)


def _write(file: int, *data: Data) -> str:
    """Writes all data, durably; its sha256."""
    sha256 = hashlib.sha256()
    for part in data:
        for start in range(0, len(part), PIECE):
            rest = memoryview(part)[start : start + PIECE]
            sha256.update(rest)
            while rest:
                rest = rest[os.write(file, rest) :]
    os.fsync(file)
    return sha256.hexdigest()


def being_written(path: Path) -> bool:
    """Whether a run or a repair holds the lock of a directory, if there are locks."""
    if sys.platform == "win32":
        return False
    try:
        directory = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        for _ in range(LOOKS):  # others that look hold the lock for a moment
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return False
            except BlockingIOError:
                time.sleep(PAUSE)
        return True
    except OSError:
        return False
    finally:
        _release(directory)


def _forget() -> None:
    for folder in _folders:
        folder._forked()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget)


def _release(directory: int) -> None:
    if sys.platform != "win32":
        # A process forked meanwhile may have it open too, and with it the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_UN)
    os.close(directory)


@contextlib.contextmanager
def _explained(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f"cannot write {size:,} bytes: {error.strerror} ({free:,} are free on this disk)",
            str(path),
        ) from error
