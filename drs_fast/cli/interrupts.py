"""Ctrl-C while the command starts or ends: exit at once, because no work can be lost then."""

import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


@dataclass(frozen=True)
class Leave:
    """A signal handler that prints the line and ends the process with the code."""

    code: int
    line: bytes = b""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        os.write(2, self.line)
        os._exit(self.code)


def leave_at_once(code: int, line: bytes = b"") -> None:
    """From here on Ctrl-C ends the process with this code, unless another handler is set."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and _may_handle():
        signal.signal(signal.SIGINT, Leave(code, line))


def are_exceptions() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again."""
    if isinstance(signal.getsignal(signal.SIGINT), Leave) and _may_handle():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _may_handle() -> bool:
    return threading.current_thread() is threading.main_thread()


def is_command() -> bool:
    """Whether this process is `drs-fast` or `python -m drs_fast`, and no other program."""
    if sys.argv[:1] == ["-m"]:  # Python is still finding the module; its name precedes the rest
        module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
        return module in ("drs_fast", "drs_fast.cli.main")
    return bool(sys.argv) and Path(sys.argv[0]).stem == "drs-fast"


if is_command():  # PyTorch takes seconds to import
    leave_at_once(130, b"drs-fast: interrupted\n")
    if sys.platform != "win32" and "generate" in sys.argv and _may_handle():
        for _number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(_number, Leave(75, b"drs-fast: told to leave\n"))
