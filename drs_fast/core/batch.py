"""A batch of samples."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples: rows [0, count) of every tensor.

    Samples come in the order of their groups of rows. Within a group they come in the sampler's
    order: by row for rejection, as drawn for SIR.
    """

    x: Tensor  # (N, ...)
    z: Tensor  # (N, d)
    y: Tensor | None  # (N,) int64 with labels
    logit: Tensor  # (N,) float32
    ids: Tensor  # (N,) int64; ~row if the chain that begins at that row kept its real start
    count: Tensor  # () int64
    stats: dict[str, Tensor]  # 0-d tensors


def last_row(ids: Tensor) -> int:
    """The largest row that ids name; -1 if there are none."""
    return int(torch.maximum(ids, ~ids).max()) if len(ids) else -1
