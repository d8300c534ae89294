"""A single new file, durably: it is there in full or not there, and replaces no other."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary file to write, which becomes `path` if no error is raised, and else is gone.

    ValueError if there is a file of that name by then, which stays as it is.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # one may write there without being able to read
            _sync(path.parent)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)  # which, unlike a rename, fails where there is a file
    except OSError as error:
        if os.path.lexists(path):
            raise ValueError(
                f"{path} exists by now; choose another name, or delete it first"
            ) from error
        os.replace(temporary, path)  # on a file system without links
    else:
        temporary.unlink()


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
