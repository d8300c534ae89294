"""Calls of G and D in blocks of one shape."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from drs_fast.core.arguments import integer

BLOCK_MULTIPLE = 256
MOST_ROWS = 2**31  # no call has as many: GPUs count the rows of a batch in 31 bits
SMALLEST = 128  # rows per call that give the same bits as 256 on CPUs; with many threads 64 do not


def block_rows(rows: int) -> int:
    """The block size for a batch: the next power of two or, from 256 on, multiple of 256."""
    rows = integer("batch_size", rows, 1, MOST_ROWS)
    if rows < BLOCK_MULTIPLE:
        return 1 << (rows - 1).bit_length()
    return -(-rows // BLOCK_MULTIPLE) * BLOCK_MULTIPLE


def placed(ids: Tensor, block: int) -> tuple[Tensor, int]:
    """Places for rows, each at its id modulo `block` in some block, and the least such blocks."""
    place = ids % block
    ordered, order = place.sort(stable=True)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(ids), device=ids.device) - torch.searchsorted(ordered, ordered)
    blocks = int(number.max()) + 1 if len(ids) else 0
    return number * block + place, blocks


def called(
    function: Callable[..., Iterator[Tensor]],
    rows: tuple[Tensor, ...],
    block: int,
    room: Callable[[int], int],
    differentiate: bool,
) -> list[Tensor]:
    """What the function yields for all rows; it gets copies of at most one block at a time.

    function: takes the number of its first row, and the rows, zero-padded to room(size) rows.
    """
    n, whole = len(rows[0]), list[Tensor]()
    # Inference mode marks what G or D keeps of a call, which is how fingerprints know it.
    with torch.inference_mode(not differentiate), torch.set_grad_enabled(differentiate):
        for start in range(0, max(1, n), block):
            size = min(block, n - start)
            full = room(size)
            parts = function(start, *(_padded(tensor, start, size, full) for tensor in rows))
            for i, part in enumerate(parts):
                part = part.detach() if part.requires_grad else part
                own = part if size == full else part.narrow(0, 0, size)
                with torch.inference_mode(False):
                    if size == n:
                        whole.append(own.clone(memory_format=torch.contiguous_format))
                        continue
                    if start == 0:
                        whole.append(part.new_empty((n, *part.shape[1:])))
                whole[i].narrow(0, start, size).copy_(own)
    return whole


def _padded(rows: Tensor, start: int, size: int, full: int) -> Tensor:
    """A copy of `size` rows, zero-padded to `full` rows."""
    own = rows.narrow(0, start, size)
    if size == full:
        return own.clone()
    return torch.cat([own, rows.new_zeros((full - size, *rows.shape[1:]))])
