"""Shows how far a run is: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
from typing import Any

from drs_fast.core.words import counted

SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_NOTES = 10.0, 1.0


class Progress:
    """Prints samples per second, acceptance and time left to standard error.

    What goes beyond the n samples is not shown: several workers together make a few more.
    """

    def __init__(self, n: int | None, *, enabled: bool) -> None:
        self.n = n
        self.enabled = enabled
        self.start = self.last = time.monotonic()
        self.accepted = self.proposals = self.before = self.beside = 0
        self._shown = self._said = 0  # samples on the bar, and in the last line
        self.note = ""
        self.bar = _bar(n) if enabled and sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.enabled and self.accepted > max(self.before, self._said):
            self._line()

    def skip(self, accepted: int) -> None:
        """Counts samples that an earlier run already made."""
        self.before += accepted
        self.advance(accepted, 0)

    def others(self, accepted: int) -> None:
        """Counts samples that other workers have made meanwhile."""
        self.beside += accepted
        self.advance(accepted, 0)

    @property
    def due(self) -> bool:
        """Whether to find a new note before the next `advance`, which shows it."""
        between = SECONDS_BETWEEN_LINES if self.bar is None else SECONDS_BETWEEN_NOTES
        return self.enabled and time.monotonic() - self.last >= between

    def advance(self, accepted: int, proposals: int) -> None:
        """Counts new samples, and the proposals they took."""
        self.accepted += accepted
        self.proposals += proposals
        shown = self.accepted if self.n is None else min(self.accepted, self.n)
        new, self._shown = shown - self._shown, shown
        if self.bar is not None:
            if self.due:
                self.last = time.monotonic()
            self.bar.set_postfix_str(self._words(), refresh=False)
            self.bar.update(new)
        elif self.due:
            self._line()

    def _acceptance(self) -> float:
        own = self.accepted - self.before - self.beside
        return own / self.proposals if self.proposals else 0.0

    def _words(self) -> str:
        found = f"{self._acceptance():.2%} accepted"
        return f"{found}, {self.note}" if self.note else found

    def _line(self) -> None:
        self.last, self._said = time.monotonic(), self.accepted
        rate = (self.accepted - self.before) / max(self.last - self.start, 1e-9)
        left = ((self.n or 0) - self._shown) / rate if rate > 0 else float("inf")
        sys.stderr.write(
            f"{self._shown:,} of {counted(self.n or 0, 'sample')}, {rate:,.0f}/s, "
            f"{self._words()}, {left:,.0f} s left\n"
        )
        sys.stderr.flush()


def _bar(n: int | None) -> Any:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return tqdm(total=n, unit=" samples", unit_scale=True, dynamic_ncols=True, smoothing=0.1)
