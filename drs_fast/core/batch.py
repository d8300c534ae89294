"""A batch of samples."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Samples: rows [0, count) of every tensor.

    They come in the order of their groups of rows, and within a group in that in which it gives
    them: by row for rejection, as they were drawn for SIR.
    """

    x: Tensor  # (N, ...)
    z: Tensor  # (N, d)
    y: Tensor | None  # (N,) int64 with labels
    logit: Tensor  # (N,) float32
    ids: Tensor  # (N,) int64; ~row where a chain that begins at that row kept its real start
    count: Tensor  # () int64
    stats: dict[str, Tensor]  # 0-d tensors


def last_row(ids: Tensor) -> int:
    """The largest row that ids name, -1 without any."""
    return int(torch.maximum(ids, ~ids).max()) if len(ids) else -1
