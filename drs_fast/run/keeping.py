"""When to keep what there is of a shard."""

import time

SECONDS = 60.0  # of work that an interruption loses at most


class Keeping:
    """Says once a minute that a shard in the making is to be kept, from its beginning on."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def restart(self) -> None:
        """Something is on the disk now."""
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time; then it starts again."""
        if time.monotonic() - self._last < SECONDS:
            return False
        self.restart()
        return True
