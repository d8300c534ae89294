"""Shows how far a run is: a bar on a terminal, elsewhere a plain line now and then."""

import sys
import time
from typing import Any

SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_NOTES = 10.0, 1.0


class Progress:
    """Prints samples per second, acceptance and time left to standard error."""

    def __init__(self, n: int | None, *, enabled: bool) -> None:
        self.n = n
        self.enabled = enabled
        self.start = self.last = time.monotonic()
        self.accepted = self.proposals = self.before = self.shown = 0
        self.note = ""
        self.bar = _bar(n) if enabled and sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.enabled and self.accepted > max(self.before, self.shown):
            self._line()

    def skip(self, accepted: int) -> None:
        """Counts samples that an earlier run already made."""
        self.before += accepted
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
        if self.bar is not None:
            if self.due:
                self.last = time.monotonic()
            self.bar.set_postfix_str(self._words(), refresh=False)
            self.bar.update(accepted)
        elif self.due:
            self._line()

    def _acceptance(self) -> float:
        return (self.accepted - self.before) / self.proposals if self.proposals else 0.0

    def _words(self) -> str:
        found = f"{self._acceptance():.2%} accepted"
        return f"{found}, {self.note}" if self.note else found

    def _line(self) -> None:
        self.last, self.shown = time.monotonic(), self.accepted
        rate = (self.accepted - self.before) / max(self.last - self.start, 1e-9)
        left = ((self.n or 0) - self.accepted) / rate if rate else float("inf")
        sys.stderr.write(
            f"{self.accepted:,} of {self.n:,} samples, {rate:,.0f}/s, "
            f"{self._words()}, {left:,.0f} s left\n"
        )
        sys.stderr.flush()


def _bar(n: int | None) -> Any:
    try:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    return tqdm(total=n, unit=" samples", unit_scale=True, dynamic_ncols=True, smoothing=0.1)
