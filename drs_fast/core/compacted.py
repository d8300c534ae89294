"""Where accepted rows are written: of one batch, or of batch after batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 1024  # rows that a block of a GPU decides on at a time
SMALL_TILE = 256  # and of at most FEW_ROWS, which would fill few of its multiprocessors otherwise
FEW_ROWS = 2**18
BLOCKS = 396  # what an H200 runs at once: three blocks on each of 132 multiprocessors
PART_BYTES = 2**15  # of a tile's rows, for which another block is worth its start

# What follows is in csrc/shared/constants.h too.
# Words of a ring's state, and how many there are.
RING_CURSOR, RING_LIMIT, RING_ROW, RING_INVALID, RING_ABOVE, RING_LOG_M, RING_WORDS = range(7)

# Words of a workspace: counters, then from HEADER on a status word per tile.
TICKET, DONE, EPOCH, TOTAL, INVALID, ABOVE = range(6)
HEADER = 16

# A status word holds a count in 31 bits, a flag in 2 (none, this tile's count, the count up to and
# with this tile), and the epoch in 30: words of earlier launches are stale without being cleared.
ALONE, INCLUSIVE = 1, 2
FLAG_SHIFT, EPOCH_SHIFT = 31, 33
COUNT_MASK, EPOCH_MASK = 2**31 - 1, 2**30 - 1


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
    def of(tensors: list[Tensor]) -> "Compacted":
        """What has these `tensors()`."""
        return Compacted(tuple(tensors[:-5]), *tensors[-5:])

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
    state: Tensor  # (RING_WORDS,) int64: what the properties show
    workspace: Tensor  # (words,) int64 that a backend keeps between batches
    batch: int  # rows of the largest batch it accepts

    def tensors(self) -> list[Tensor]:
        """All of them, rows first: the `ring` of an operator of torch.library."""
        return [*self.rows, self.ids, self.logit, self.state, self.workspace]

    @staticmethod
    def of(seed: int, batch: int, tensors: list[Tensor]) -> "Ring":
        """What has these `tensors()`."""
        *rows, ids, logit, state, workspace = tensors
        return Ring(seed, tuple(rows), ids, logit, state, workspace, batch)

    @property
    def cursor(self) -> Tensor:
        """() int64, rows accepted so far; never more than limit."""
        return self.state[RING_CURSOR]

    @property
    def limit(self) -> Tensor:
        """() int64, how many rows are wanted; what is accepted beyond them is dropped."""
        return self.state[RING_LIMIT]

    @property
    def row(self) -> Tensor:
        """() int64, the number of the next batch's first row."""
        return self.state[RING_ROW]

    @property
    def invalid(self) -> Tensor:
        """() int64, logits so far that are NaN or +inf."""
        return self.state[RING_INVALID]

    @property
    def above(self) -> Tensor:
        """() int64, valid logits so far greater than log_m."""
        return self.state[RING_ABOVE]

    @property
    def log_m(self) -> Tensor:
        """() float64, the largest logit, which accept_append goes by; it may be written to."""
        return self.state[RING_LOG_M:].view(torch.float64)[0]


def tiling(rows: int, row_bytes: int) -> tuple[int, int]:
    """Rows of a tile, and how many blocks share the copying of each tile's accepted rows."""
    if rows > FEW_ROWS:
        return TILE, 1  # tiles enough to fill the GPU
    tiles = max(-(-rows // SMALL_TILE), 1)
    worth_it = min(rows, SMALL_TILE) * row_bytes // PART_BYTES
    return SMALL_TILE, max(min(BLOCKS // tiles, worth_it), 1)


def status_words(rows: int) -> int:
    """The most tiles of a batch of at most this many rows."""
    return max(-(-min(rows, FEW_ROWS) // SMALL_TILE), -(-rows // TILE))


def workspace_words(rows: int) -> int:
    """int64 words needed to compact this many rows: counters, tiles, and one index per row."""
    return HEADER + 2 * (status_words(rows) + 1) + -(-rows // TILE) * TILE // 2
