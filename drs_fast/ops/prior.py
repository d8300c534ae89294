"""Latents under a callable prior, so that a row's bits are a function of the row alone.

PyTorch computes the numbers of a tensor by vectors and what is left over one by one, with other
code and other bits. So the prior is always called on blocks of one shape, and row r is always at
place r mod block in one: bits then depend neither on how many rows are asked for, nor with which
others, nor on the number of threads.
"""

import torch
from torch import Tensor

from drs_fast.gan import GAN

ROWS = 256  # of a block, at most
THREADED = 2**15  # numbers from which PyTorch shares a loop over a tensor among threads


def block_rows(d: int) -> int:
    """Rows of a block of latents of that width: a power of two."""
    return min(ROWS, 1 << (max(1, (THREADED - 1) // d).bit_length() - 1))


def mapped(gan: GAN, normals: Tensor, row: int, ids: Tensor | None, consecutive: bool) -> Tensor:
    """Latents (n, d) float32 of the normals (n, d) of rows row, row + 1, ... or ids.

    consecutive: whether ids are such, too; then the host need not look at them.
    """
    n, d = normals.shape
    block = block_rows(d)
    places: slice | Tensor
    if ids is None:
        first = row % block
        places, blocks = slice(first, first + n), -(-(first + n) // block)
    elif consecutive:
        places = ids - (ids[:1] - ids[:1] % block)
        blocks = -(-(n + block - 1) // block)
    else:
        places, blocks = _places(ids, block)
    room = normals.new_zeros(blocks * block, d)
    room[places] = normals
    made = torch.empty_like(room)
    for given, own in zip(torch.split(room, block), torch.split(made, block), strict=True):
        own.copy_(gan.from_normals(given))
    return made[places]


def _places(ids: Tensor, block: int) -> tuple[Tensor, int]:
    """Where rows go that need not be neighbours, and in how many blocks: as few as will do."""
    place = ids % block
    ordered, order = place.sort(stable=True)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(ids), device=ids.device) - torch.searchsorted(ordered, ordered)
    blocks = int(number.max()) + 1 if len(ids) else 0
    return number * block + place, blocks
