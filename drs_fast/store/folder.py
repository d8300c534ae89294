"""Durable writes: a file is there whole, or it is not there."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from drs_fast.store.format import Conflict

if sys.platform != "win32":
    import fcntl

BINARY = getattr(os, "O_BINARY", 0)


class Folder:
    """A directory that this process alone writes to, durably. Conflict if another one does."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise Conflict(f"{path} is not a directory")
        self.path = path
        self._directory = None
        if sys.platform != "win32":
            self._directory = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                raise Conflict(
                    f"another process is writing {path}; wait for it or end it"
                ) from None
            except OSError:
                pass  # some network file systems have no locks; O_EXCL below still tells

    def close(self) -> None:
        """Lets go of the lock."""
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    def put(self, name: str, data: bytes) -> None:
        """Makes data the whole content of a file, or changes nothing. OSError names the path."""
        temporary = self.path / f"{name}.tmp"
        with _explained(self.path / name, len(data)):
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
            try:
                try:
                    _write(file, data)
                finally:
                    os.close(file)
                os.replace(temporary, self.path / name)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            self._sync()

    def append(self, name: str, data: bytes) -> None:
        """Adds data to the end of a file, or changes nothing. OSError names the path."""
        with _explained(self.path / name, len(data)):
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
        """Removes files, those that are there."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)
        if names:
            self._sync()

    def _sync(self) -> None:
        if self._directory is not None:
            os.fsync(self._directory)


def make_directory(path: Path) -> None:
    """Makes a directory, and those above it that are not there, durably."""
    if not path.parent.exists():
        make_directory(path.parent)
    path.mkdir(exist_ok=True)
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # to write there one need not be able to read
            parent = os.open(path.parent, os.O_RDONLY)
            try:
                with _explained(path, 0):
                    os.fsync(parent)
            finally:
                os.close(parent)


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    os.fsync(file)


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
