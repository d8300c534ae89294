"""Proposals that compete in groups: what samplers share whose group has more than one row."""

import torch
from torch import Tensor

from drs_fast.core import Batch, Rng
from drs_fast.gan import GAN

BELOW = 2**20  # rows of a group, all of which one step must hold


def proposals(gan: GAN, z: Tensor, y: Tensor | None, size: int) -> Batch:
    """All rows; with labels those of a group take the label of its first row."""
    y = label_of_first(y, size)
    x, logit = gan.logits(z, y)
    return judged(x, z, y, logit)


def label_of_first(y: Tensor | None, size: int) -> Tensor | None:
    """Labels (n,) where all rows of a group have that of its first row."""
    return None if y is None else y.view(-1, size)[:, :1].expand(-1, size).reshape(-1)


def judged(x: Tensor, z: Tensor, y: Tensor | None, logit: Tensor) -> Batch:
    """All these rows, none of which is chosen yet."""
    ids = torch.arange(len(z), device=z.device)
    count = ids.new_full((), len(z))
    invalid = (torch.isnan(logit) | torch.isposinf(logit)).sum()
    return Batch(x, z, y, logit, ids, count, {"invalid": invalid, "above": torch.zeros_like(count)})


def chosen(batch: Batch, rows: Tensor, taken: Tensor, rng: Rng, **tallies: Tensor) -> Batch:
    """Those of `rows` (n,) of the batch that are `taken` (n,), in their order; no host sync."""
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
