"""The command line: demo | plan | generate | doctor | status | verify | export | unweight | ..."""

import argparse
import contextlib
import errno
import io
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch

from drs_fast import store
from drs_fast.cli import interrupts
from drs_fast.cli.commands import fail, run_export, run_generate, run_unweight
from drs_fast.cli.exit_codes import BROKEN_PIPE, OUT_OF_TIME
from drs_fast.cli.parser import parsed
from drs_fast.core import BadLogits, OutOfTime, Stale, Starvation
from drs_fast.core.errors import OutOfMemory

PACKAGE = Path(store.__file__).parents[1]
AFTERWARDS = {
    run_generate: "; the same command resumes after the last finished shard",
    run_export: "; the same command goes on after the last finished file",
    run_unweight: "; the output is written whole or not at all, so nothing is left of it",
}


def command() -> NoReturn:
    """`drs-fast` and `python -m drs_fast`: main, and an end without a traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the command
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path or a file may hold what is not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
    except SystemExit as end:  # raised by the parser after it has printed
        code = int(end.code or 0)
    except KeyboardInterrupt:  # a second Ctrl-C
        code = 130
    except _Told as told:
        code = told.code
    interrupts.leave_at_once(code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or BROKEN_PIPE
    if code == BROKEN_PIPE:  # else Python complains when it flushes the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code. The parser may raise SystemExit."""
    options = argparse.Namespace(run=None)
    try:
        interrupts.are_exceptions()
        given = list(sys.argv[1:] if arguments is None else arguments)
        options = parsed(given)
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        with _tellable(options), _short_warnings():
            return _run(options)
    except BadLogits as error:
        return fail(3, error)
    except Starvation as error:
        return fail(4, error)
    except Stale as error:
        return fail(9, error)
    except OutOfTime as error:
        return fail(OUT_OF_TIME, error)
    except store.Conflict as error:
        return fail(7, error)
    except store.Corrupt as error:
        return fail(6, error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        smaller = ", try a smaller --batch-size" if "batch_size" in options else ""
        smaller = "" if isinstance(error, OutOfMemory) else smaller  # which says how small
        return fail(1, f"not enough memory{smaller}: {error}")
    except (ValueError, RuntimeError, UserWarning) as error:  # where warnings are errors
        return fail(2, error)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return fail(5 if full or error.filename else 1, error)
    except KeyboardInterrupt:
        return fail(130, f"interrupted{AFTERWARDS.get(options.run, '')}")
    except _Told as told:
        return fail(told.code, f"{told}{AFTERWARDS.get(options.run, '')}")


def _run(options: argparse.Namespace) -> int:
    try:
        return int(options.run(options))
    except SystemExit as end:
        frames = traceback.extract_tb(end.__traceback__)
        place = [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]
        raise ValueError(
            f"sys.exit({end.code!r}) was called in {place.filename}, line {place.lineno}, before "
            "the command had finished; a model must return or raise an error"
        ) from end


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Prints warnings without the place in the source, unless that is the user's own."""
    before, warnings.formatwarning = warnings.formatwarning, _formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


def _formatted(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    ours = Path(filename).is_relative_to(PACKAGE)
    place = "" if ours else f"{filename}, line {lineno}: "
    return f"drs-fast: warning: {place}{message}\n"


class _Told(BaseException):
    """A signal tells the command to leave: with this exit code, after what is being written."""

    def __init__(self, number: int) -> None:
        ends = number == signal.SIGTERM
        super().__init__("terminated" if ends else f"told to leave ({signal.Signals(number).name})")
        self.code = 143 if ends else OUT_OF_TIME


@contextlib.contextmanager
def _tellable(options: argparse.Namespace) -> Iterator[None]:
    """SIGTERM, and SIGUSR1 and 2 while samples are drawn, raise _Told, if they may be set here."""
    numbers = [signal.SIGTERM]
    if sys.platform != "win32" and options.run is run_generate:
        numbers += signal.SIGUSR1, signal.SIGUSR2  # warnings of Slurm and of submitit
    before = {number: signal.getsignal(number) for number in numbers}
    # None: not installed from Python
    numbers = [number for number in numbers if before[number] is not None]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    for number in numbers:
        signal.signal(number, _tell)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def _tell(number: int, frame: FrameType | None) -> None:
    raise _Told(number)


if __name__ == "__main__":
    command()
