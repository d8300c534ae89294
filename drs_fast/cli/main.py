"""The command line: demo | plan | generate | doctor | status | verify | export | unweight | ..."""

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from drs_fast.cli import interrupts
from drs_fast.cli.exit_codes import BROKEN_PIPE, OUT_OF_TIME
from drs_fast.cli.failures import PACKAGE, ended, fail
from drs_fast.cli.parser import parsed

AFTERWARDS = {
    "generate": "; nothing had been written yet",
    "export": "; the same command goes on after the last finished file",
    "unweight": "; the output is written whole or not at all, so nothing is left of it",
}
ALONE = {"status": "status"}  # commands whose module needs no PyTorch


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
    options = argparse.Namespace(run=None, told=[])
    try:
        interrupts.are_exceptions()
        given = list(sys.argv[1:] if arguments is None else arguments)
        options = argparse.Namespace(**vars(parsed(given)), told=[])
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        with _tellable(options), _short_warnings():
            return _run(options)
    except Exception as error:
        if told := options.told:  # which C++ that calls Python may turn into an error of its own
            return fail(told[0].code, f"{told[0]}{_afterwards(options, error)}")
        return ended(error, options)
    except KeyboardInterrupt as stop:
        return fail(130, f"interrupted{_afterwards(options, stop)}")
    except _Told as told:
        return fail(told.code, f"{told}{_afterwards(options, told)}")


def _afterwards(options: argparse.Namespace, stop: BaseException) -> str:
    """What an interruption leaves: what the run says of itself, or what the command knows."""
    notes: list[str] = getattr(stop, "__notes__", [])
    return f"; {'; '.join(notes)}" if notes else AFTERWARDS.get(options.run, "")


def _run(options: argparse.Namespace) -> int:
    name = ALONE.get(options.run, "commands")
    if options.run not in ALONE:
        sys.modules["drs_fast"].complete()  # for the user's model too
    module = importlib.import_module(f"drs_fast.cli.{name}")
    try:
        return int(vars(module)[f"run_{options.run}"](options))
    except SystemExit as end:
        raise ValueError(
            f"sys.exit({end.code!r}) was called before the command had finished; a model must "
            "return or raise an error"
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
    if sys.platform != "win32" and options.run == "generate":
        numbers += signal.SIGUSR1, signal.SIGUSR2  # warnings of Slurm and of submitit
    before = {number: signal.getsignal(number) for number in numbers}
    # None: not installed from Python
    numbers = [number for number in numbers if before[number] is not None]
    if threading.current_thread() is not threading.main_thread():
        numbers = []

    def tell(number: int, frame: FrameType | None) -> None:
        options.told.append(_Told(number))
        raise options.told[-1]

    for number in numbers:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


if __name__ == "__main__":
    command()
