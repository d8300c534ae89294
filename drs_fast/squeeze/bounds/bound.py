"""What a bound is: scores of latents, and a margin that lifts them above the logit.

What it costs is counted in `drs_fast.squeeze.work`.
"""

from typing import Protocol

import torch
from torch import Tensor

CERTAIN = 3e38  # the bound of a row that cannot be judged, and so passes


class Bound(Protocol):
    """A guess of the logit that costs less than the logit, and how sure it is."""

    def scores(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        """What is known of latents (n, d) and labels (n,), whatever the margin; (n,) each."""

    def raised(self, margin: float, *scores: Tensor) -> Tensor:
        """The bound (n,) at a margin, from the scores; NaN and +inf where it cannot tell."""


def above(bound: Bound, margin: float, z: Tensor, y: Tensor | None) -> Tensor:
    """The bound of latents (n, d) and labels (n,) at a margin, (n,) float32."""
    with torch.inference_mode():
        return known(bound.raised(margin, *bound.scores(z, y)))


def known(bound: Tensor) -> Tensor:
    """The bound, at which rows pass that it cannot judge."""
    return bound.nan_to_num(nan=CERTAIN, posinf=CERTAIN)
