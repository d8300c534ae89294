"""The columns of samples: what a batch, a shard and a run opened later may hold."""

from typing import NamedTuple

import torch


class Column(NamedTuple):
    """One number a sample, or as many as a latent has."""

    dtype: torch.dtype | None  # None: as the generator makes it, or as `images` says
    latent: bool = False

    @property
    def dimensions(self) -> int:
        """Those of all samples, where they are known."""
        return 2 if self.latent else 1


COLUMNS = {
    "ids": Column(torch.int64),
    "logit": Column(torch.float32),
    "x": Column(None),
    "z": Column(torch.float32, latent=True),
    "y": Column(torch.int64),
    "weight": Column(torch.float64),
}
SAVEABLE = ("x", "z", "logit", "weight")  # by save=, in the order of the manifest
