"""Latents under a callable prior, made so that a row's bits depend on the row alone.

PyTorch computes most numbers of a tensor as vectors and the remainder one by one, with other code
and other bits, and it splits large tensors among threads. So the prior is always called on blocks
of one shape, on one thread, and row r is always at place r mod BLOCK of a block.
"""

import torch
from torch import Tensor

from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.gan.blocks import placed

BLOCK = 256  # rows


@one_thread()
@torch.no_grad()
def mapped(gan: GAN, normals: Tensor, row: int, ids: Tensor | None, consecutive: bool) -> Tensor:
    """Latents (n, d) float32 from the normals (n, d) of rows row, row + 1, ... or ids.

    consecutive: whether ids are consecutive too; then the host need not look at them.
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
        places, blocks = placed(ids, BLOCK)
    room = normals.new_zeros(blocks * BLOCK, d)
    room[places] = normals
    made = torch.empty_like(room)
    for given, own in zip(torch.split(room, BLOCK), torch.split(made, BLOCK), strict=True):
        own.copy_(gan.from_normals(given.clone()))  # a clone starts at an aligned address
    return made[places]
