"""A batch of samples."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


def unweighed() -> Tensor:
    """Raises an error in place of the weights of a batch that was given none."""
    raise ValueError("this batch has no weights; those of drs.generate and drs.stream have them")


@dataclass(frozen=True, repr=False)
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
    weigh: Callable[[], Tensor] = unweighed  # finds `weight`
    # What the run took, by what it was spent on, and "total". On a GPU "draw", "generator",
    # "discriminator" and "accept" are its own seconds, which overlap those of the host.
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        x = f"{tuple(self.x.shape)} {str(self.x.dtype).removeprefix('torch.')}"
        columns = ", ".join(["z", *(["y"] if self.y is not None else []), "logit", "ids"])
        return f"<Batch of {int(self.count):,} samples: x {x} on {self.x.device}, {columns}>"

    @functools.cached_property
    def weight(self) -> Tensor:
        """How much each sample counts in the law of the data, (N,) float64.

        exp(logit - L) over the probability with which such a row was accepted, with one L for all.
        ValueError if the sampler's law is not known, or a logit is over 700 above log_m.
        """
        return self.weigh()


def last_row(ids: Tensor) -> int:
    """The largest row that ids name; -1 if there are none."""
    return int(torch.maximum(ids, ~ids).max()) if len(ids) else -1
