"""The clock of `max_seconds`: it decides where a call stops, and nothing of what is drawn."""

import math
import time


def now() -> float:
    """Seconds since an arbitrary moment. Nothing else is asked, so a test may put a clock here."""
    return time.monotonic()


class Limit:
    """The time that a call has, from now on.

    advanced: the call has done something that a later one need not do again; only then may it stop,
        so that repeated calls come to an end. stopped: it was told to begin nothing more.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._end = math.inf if seconds is None else now() + seconds
        self.advanced = self.stopped = False

    def over(self) -> bool:
        """Whether the time has passed."""
        return now() >= self._end

    def stops(self) -> bool:
        """Whether to begin nothing more."""
        self.stopped = self.advanced and self.over()
        return self.stopped
