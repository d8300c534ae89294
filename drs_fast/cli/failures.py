"""What an error means for the command: its exit code, and a line that says where it came from."""

import argparse
import errno
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from drs_fast.cli.exit_codes import BROKEN_PIPE, OUT_OF_TIME
from drs_fast.core.errors import BadLogits, OutOfTime, Stale, Starvation
from drs_fast.store.format import Conflict, Corrupt

PACKAGE = Path(__file__).parents[1]
STANDARD = Path(sysconfig.get_path("stdlib"))
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib"))
LIBRARIES = {  # which users' code calls, or this package; other packages may hold a model
    *("torch", "torchvision", "triton", "numpy", "safetensors", "tqdm"),
    *("pyarrow", "pandas", "PIL", "datasets", "matplotlib", "sklearn", "scipy"),
}
CODES: dict[type[BaseException], int] = {
    BadLogits: 3,
    Starvation: 4,
    Stale: 9,
    OutOfTime: OUT_OF_TIME,
    Conflict: 7,
    Corrupt: 6,
    ValueError: 2,
    RuntimeError: 2,
    UserWarning: 2,  # where warnings are errors
}


def fail(code: int, error: object) -> int:
    print(f"drs-fast: {error}", file=sys.stderr)
    return code


def ended(error: Exception, options: argparse.Namespace) -> int:
    """Says what went wrong; the exit code. Errors that mean nothing to the command are raised."""
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    code, line = _code(error), str(error)
    if code is None:
        raise error
    if isinstance(error, MemoryError) or _of_a_gpu(error):
        from drs_fast.core.out_of_memory import OutOfMemory  # not before, because of PyTorch

        says = isinstance(error, OutOfMemory) or "batch_size" not in options
        smaller = "" if says else ", try a smaller --batch-size"
        line = f"not enough memory{smaller}: {error}"
    if "traceback" in options and options.traceback:
        traceback.print_exception(error)
    return fail(code, f"{line}{place(error)}")


def _code(error: Exception) -> int | None:
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return 5 if full or error.filename else 1
    if isinstance(error, MemoryError) or _of_a_gpu(error):
        return 1
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), None)


def _of_a_gpu(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # a command that has not imported it has no GPU
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def place(error: BaseException) -> str:
    """Where the user's own code failed, if the error came from there: file, line and function."""
    for one in reversed(list(_chain(error))):
        if isinstance(one, SyntaxError) and one.filename and not _is_ours(one.filename):
            return f" ({one.filename}:{one.lineno})"
        called = list(_called(one.__traceback__))
        if called:
            return f" ({called[-1].filename}:{called[-1].lineno}, in {called[-1].name})"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it was raised from."""
    seen = set[int]()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _called(trace: TracebackType | None) -> Iterator[traceback.FrameSummary]:
    """The frames of the user's code that the package called, directly or not."""
    inside = False
    for frame in traceback.extract_tb(trace):
        ours = _is_ours(frame.filename)
        inside |= ours
        if inside and not ours and not _is_library(frame.filename):
            yield frame


def _is_ours(filename: str) -> bool:
    return Path(filename).is_relative_to(PACKAGE)


def _is_library(filename: str) -> bool:
    """Whether it is of Python, of a package that models use, or of no file."""
    path = Path(filename)
    for folder in INSTALLED:
        if path.is_relative_to(folder):
            return path.relative_to(folder).parts[0] in LIBRARIES
    return filename.startswith("<") or path.is_relative_to(STANDARD)
