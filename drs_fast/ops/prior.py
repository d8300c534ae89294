"""Latents under a callable prior, so that a row's bits are a function of the row alone.

PyTorch computes the numbers of a tensor by vectors and what is left over one by one, with other
code and other bits, and shares large tensors among threads. So the prior is always called on blocks
of one shape, by one thread, and row r is always at place r mod BLOCK of one.
"""

import torch
from torch import Tensor

from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN

BLOCK = 256  # rows


@one_thread()
@torch.no_grad()
def mapped(gan: GAN, normals: Tensor, row: int, ids: Tensor | None, consecutive: bool) -> Tensor:
    """Latents (n, d) float32 of the normals (n, d) of rows row, row + 1, ... or ids.

    consecutive: whether ids are such, too; then the host need not look at them.
    """
    n, d = normals.shape
    places: slice | Tensor
    if ids is None:
        first = row % BLOCK
        places, blocks = slice(first, first + n), -(-(first + n) // BLOCK)
    elif consecutive:
        places = ids - (ids[:1] - ids[:1] % BLOCK)
        blocks = -(-(n + BLOCK - 1) // BLOCK)
    else:
        places, blocks = _places(ids)
    room = normals.new_zeros(blocks * BLOCK, d)
    room[places] = normals
    made = torch.empty_like(room)
    for given, own in zip(torch.split(room, BLOCK), torch.split(made, BLOCK), strict=True):
        own.copy_(gan.from_normals(given.clone()))  # a clone begins where memory is aligned
    return made[places]


def _places(ids: Tensor) -> tuple[Tensor, int]:
    """Where rows go that need not be neighbours, and in how many blocks: as few as will do."""
    place = ids % BLOCK
    ordered, order = place.sort(stable=True)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(ids), device=ids.device) - torch.searchsorted(ordered, ordered)
    blocks = int(number.max()) + 1 if len(ids) else 0
    return number * BLOCK + place, blocks
