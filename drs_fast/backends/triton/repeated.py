"""Repeats launches of compact.single_pass where only numbers and what is read are others."""

from typing import Any

from torch import Tensor

from drs_fast.backends.triton.launcher import ALIGNED, Launched
from drs_fast.backends.workspaces import address

# Places of the arguments: the second are log_m, gamma and s as bits, the seed, and the first row.
LOGIT, SOURCES, NUMBERS = 0, 4, slice(13, 18)
MOST = 64  # launches that are remembered

Key = tuple[Any, ...]


class Launches:
    """Launches by what they depend on; addresses that are written to are part of it."""

    def __init__(self) -> None:
        self._found: dict[Key, Launched] = {}

    def repeat(
        self, key: Key, logit: Tensor, rows: tuple[Tensor, ...], numbers: tuple[int, ...] = ()
    ) -> bool:
        """Whether there was one. numbers: none leaves them as they were."""
        launched = self._found.get(key)
        if launched is None:
            return False
        arguments = launched.arguments.copy()
        arguments[LOGIT] = logit.data_ptr()
        arguments[SOURCES] = tuple([row.data_ptr() for row in rows if row.nbytes])
        if numbers:
            arguments[NUMBERS] = numbers
        launched.run(*arguments)
        return True

    def keep(self, key: Key, launched: Launched | None) -> None:
        if launched is None:  # what Triton must launch every time
            return
        if len(self._found) == MOST:
            self._found.clear()
        self._found[key] = launched


def of(logit: Tensor, rows: tuple[Tensor, ...]) -> Key:
    """What a launch depends on in what it reads."""
    found: list[Any] = [logit.dtype, logit.shape[0], address(logit) % ALIGNED]
    for row in rows:
        found += row.nbytes, row.element_size() * row.stride(0), address(row) % ALIGNED
    return tuple(found)
