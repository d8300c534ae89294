"""Counts samples that do not fit the images they are stored as."""

import torch
from torch import Tensor

from drs_fast.gan.images import OUTSIDE
from drs_fast.run.collected import Rows


class Outside:
    """Counts on the samples' device, so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._count: Tensor = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, pieces: list[Rows]) -> None:
        """Counts the samples of a step."""
        for piece in pieces:
            self._count += piece[OUTSIDE].sum()

    def taken(self) -> dict[str, int]:
        """Returns the count since the last call, and starts again at 0."""
        count = int(self._count)
        self._count.zero_()
        return {OUTSIDE: count}
