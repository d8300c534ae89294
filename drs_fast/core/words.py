"""Small helpers for what people read."""

import difflib
from collections.abc import Iterable


def counted(count: int, name: str, several: str | None = None) -> str:
    """The count with its noun: "1 sample", "2,000 samples". several: where an s is not enough."""
    return f"{count:,} {name if count == 1 else several or f'{name}s'}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A question with the name that was probably meant; empty if none is like it."""
    plain = {name.lower().lstrip("-"): name for name in known}
    asked = given.lower().lstrip("-")
    close = [name for name in plain if sorted(name) == sorted(asked)]  # letters changed places
    close += difflib.get_close_matches(asked, plain, n=1, cutoff=0.65)
    return f"; did you mean {plain[close[0]]}?" if close else ""
