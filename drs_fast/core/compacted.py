"""Where accepted rows are written: of one batch, or of batch after batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 1024  # rows that one block of a GPU decides at a time
HEADER = 16  # words of a workspace before the status words of its tiles


@dataclass(frozen=True)
class Compacted:
    """Accepted rows, in row order. Only [0, count) of rows, ids and logit are defined."""

    rows: tuple[Tensor, ...]  # each (capacity, ...)
    ids: Tensor  # (capacity,) int64
    logit: Tensor  # (capacity,)
    count: Tensor  # () int64, rows written
    invalid: Tensor  # () int64, logits that are NaN or +inf
    above: Tensor  # () int64, valid logits greater than log_m

    def tensors(self) -> list[Tensor]:
        """All tensors, rows first: the `out` of an operator of torch.library."""
        return [*self.rows, self.ids, self.logit, self.count, self.invalid, self.above]

    @staticmethod
    def empty(logit: Tensor, rows: tuple[Tensor, ...]) -> "Compacted":
        """A Compacted with space for all of these rows."""
        device = logit.device
        return Compacted(
            tuple(torch.empty(row.shape, dtype=row.dtype, device=device) for row in rows),
            torch.empty(logit.shape[0], dtype=torch.int64, device=device),
            torch.empty_like(logit),
            torch.empty((), dtype=torch.int64, device=device),
            torch.empty((), dtype=torch.int64, device=device),
            torch.empty((), dtype=torch.int64, device=device),
        )


@dataclass(frozen=True)
class Ring:
    """Accepted rows of batch after batch: the k-th of all is at k modulo the capacity.

    What changes from batch to batch is in `state`, on the rows' device, so the host is not needed.
    """

    seed: int
    rows: tuple[Tensor, ...]  # each (capacity, ...); the capacity is a power of two
    ids: Tensor  # (capacity,) int64
    logit: Tensor  # (capacity,)
    state: Tensor  # (6,) int64; the properties below name its words
    workspace: Tensor  # (words,) int64 that a backend keeps between batches
    batch: int  # rows of the largest batch it accepts

    @property
    def cursor(self) -> Tensor:
        """() int64, rows accepted so far; never above limit."""
        return self.state[0]

    @property
    def limit(self) -> Tensor:
        """() int64, how many rows are wanted; further accepted rows are dropped."""
        return self.state[1]

    @property
    def row(self) -> Tensor:
        """() int64, number of the next batch's first row."""
        return self.state[2]

    @property
    def invalid(self) -> Tensor:
        """() int64, logits so far that were NaN or +inf."""
        return self.state[3]

    @property
    def above(self) -> Tensor:
        """() int64, valid logits so far above log_m."""
        return self.state[4]

    @property
    def log_m(self) -> Tensor:
        """() float64, the largest logit that accept_append uses; it may be overwritten."""
        return self.state[5:].view(torch.float64)[0]


def workspace_words(rows: int) -> int:
    """int64 words needed to compact this many rows: counters, tiles, and one index per row."""
    tiles = -(-rows // TILE)
    return HEADER + 2 * (tiles + 1) + tiles * TILE // 2
