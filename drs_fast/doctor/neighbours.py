"""Whether real and generated samples differ, by a vote of each sample's nearest neighbours.

It needs no training and no scale, so that it can stand beside a discriminator that sees nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast.core.rows import DOCTOR_ROW
from drs_fast.training.fitting import Draws, area_error, area_under_curve

ROWS = 2048  # of each kind
NEAREST = 16
WIDTH = 256  # wider samples are projected to so many numbers, which keeps distances within 10 %
LOOKED_AT = 4096  # numbers of a wide sample, evenly spaced
OWN_ROWS = DOCTOR_ROW + 2**32


class Vote(NamedTuple):
    """auc: how often the vote ranks a real sample above a generated one. error: its sd at 1/2."""

    auc: float
    error: float


@torch.no_grad()
def vote(real: Tensor, made: Tensor, seed: int) -> Vote | None:
    """Votes on a quarter of the samples by the others; None if they are too few, or complex.

    real, made: (n, ...) and (m, ...) of one shape.
    Source: Lopez-Paz and Oquab, Revisiting classifier two-sample tests (2017), section 3.
    """
    n = min(len(real), len(made), ROWS)
    if n < 8 * NEAREST or real.is_complex() or made.is_complex():
        return None
    step = -(-real[0].numel() // LOOKED_AT)
    parts = [part[:n].flatten(1)[:, ::step].cpu().double().nan_to_num() for part in (real, made)]
    both = torch.cat(parts)
    if both.shape[1] > WIDTH:
        both = both @ Draws(seed, OWN_ROWS).normal(both.shape[1], WIDTH).double()
    is_real = torch.arange(2 * n, device="cpu") < n
    asked = torch.arange(2 * n, device="cpu") % n < n // 4
    distances = torch.cdist(both[asked], both[~asked])
    nearest = distances.topk(min(NEAREST, n // 4), largest=False).indices
    share = is_real[~asked][nearest].double().mean(dim=1)
    own = is_real[asked]
    return Vote(area_under_curve(share[own], share[~own]), area_error(n // 4, n // 4))
