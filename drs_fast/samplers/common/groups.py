"""Proposals that compete in groups, for samplers whose group has more than one row."""

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Rng
from drs_fast.gan import GAN

BELOW = 2**20  # rows of a group, all of which must fit in one step
BLOCK = 2**16  # groups whose labels are drawn, to number the groups of each class


def proposals(gan: GAN, z: Tensor, y: Tensor | None, size: int) -> Batch:
    """All rows as a batch. With labels, every row of a group takes the label of its first row."""
    y = label_of_first(y, size)
    x, logit = gan.logits(z, y)
    return judged(x, z, y, logit)


def label_of_first(y: Tensor | None, size: int) -> Tensor | None:
    """Labels (n,) in which every row of a group has the label of its first row."""
    return None if y is None else y.view(-1, size)[:, :1].expand(-1, size).reshape(-1)


def judged(x: Tensor, z: Tensor, y: Tensor | None, logit: Tensor) -> Batch:
    """A batch of these rows, with none chosen yet."""
    ids = torch.arange(len(z), device=z.device)
    count = ids.new_full((), len(z))
    invalid = (torch.isnan(logit) | torch.isposinf(logit)).sum()
    return Batch(x, z, y, logit, ids, count, {"invalid": invalid, "above": torch.zeros_like(count)})


def turns(gan: GAN, rng: Rng, size: int, n: int) -> tuple[Tensor, Tensor]:
    """The block of each of n groups of `size` rows from rng.row on, and its number in its class.

    Both (n,) int64. A group's number counts the earlier groups of its block with the same class.
    """
    first = rng.row // size
    begin = first // BLOCK * BLOCK
    group = torch.arange(begin, first + n, device=gan.device)
    block, earlier = group // BLOCK, first - begin
    if gan.labels is None:
        return block[earlier:], group[earlier:] % BLOCK
    y = ops.labels(gan, rng, len(group), ids=rng.row + (group - first) * size)
    assert y is not None
    key = (block - block[0]) * gan.labels + y
    blocks = (first + n - 1) // BLOCK - first // BLOCK + 1
    before = torch.bincount(key[:earlier], minlength=blocks * gan.labels)
    ordered, order = key[earlier:].sort(stable=True)
    place = torch.arange(n, device=key.device) - torch.searchsorted(ordered, ordered)
    rank = torch.empty_like(order)
    rank[order] = before[ordered] + place
    return block[earlier:], rank


def turns_of(gan: GAN, rng: Rng, size: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """What `turns` says of the groups that begin at these rows (n,), in any order."""
    group = rows // size
    block, rank = group // BLOCK, torch.empty_like(group)
    for number in set(block.tolist()):
        here = block == number
        first, last = int(group[here].min()), int(group[here].max())
        ranks = turns(gan, rng.at(first * size), size, last - first + 1)[1]
        rank[here] = ranks[group[here] - first]
    return block, rank


def of_block(gan: GAN, rng: Rng, size: int) -> Tensor:
    """How many groups of each class a block has, (classes,) int64, for groups from rng.row on."""
    y = ops.labels(gan, rng, BLOCK, ids=rng.row + torch.arange(BLOCK, device=gan.device) * size)
    if y is None:
        return torch.full((1,), BLOCK, device=gan.device)
    return torch.bincount(y, minlength=gan.labels or 1)


def chosen(batch: Batch, rows: Tensor, taken: Tensor, rng: Rng, **tallies: Tensor) -> Batch:
    """The rows (n,) of the batch that are `taken` (n,), in their order; no host sync."""
    rows = rows[torch.argsort(~taken, stable=True)]
    return Batch(
        x=batch.x[rows],
        z=batch.z[rows],
        y=None if batch.y is None else batch.y[rows],
        logit=batch.logit[rows],
        ids=rng.row + rows,
        count=taken.sum(),
        stats={**batch.stats, **tallies},
    )
