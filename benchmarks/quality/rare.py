"""A GAN with a region that holds many of the samples but hardly any proposals.

p_model is N(0, 1), G the identity. p_data is N(2.5, 0.3^2) and, for a share of 1 % or
as asked for, N(-1, (0.016 share)^2), so narrow that one proposal in 10,000 lies there.
"""

import math

import torch
from torch import Tensor

import drs_fast as drs
from drs_fast import ops
from drs_fast.squeeze.bounds.bound import above
from drs_fast.squeeze.stages import Stages
from drs_fast.squeeze.state import SqueezeState

CENTRE, STD = 2.5, 0.3
RARE, NARROW = -1.0, 0.016  # its centre, and its sd over its share
REACH = 12.0  # sd of the region
LOG_M = 0.5 - math.log(NARROW) + 1e-6  # the largest log ratio is there, for any share


def gan(share: float = 0.01) -> drs.GAN:
    """The GAN with the exact logit. share: share of the data in the region."""

    def log_ratio(x: Tensor) -> Tensor:
        wide = x[:, 0].double()
        return log_normal(wide, share) + wide.square() / 2

    return drs.GAN(lambda z: z, log_ratio, 1, block=4096, name="rare")


def log_normal(x: Tensor, share: float) -> Tensor:
    """log p_data and half of log 2 pi."""
    std = NARROW * share
    wide = math.log((1 - share) / STD) - ((x - CENTRE) / STD).square() / 2
    return torch.logaddexp(wide, math.log(share / std) - ((x - RARE) / std).square() / 2)


def inside(x: Tensor, share: float = 0.01) -> Tensor:
    """Which of x (n, 1) lie in the region, (n,) bool."""
    return (x[:, 0] - RARE).abs() < REACH * NARROW * share


def lost(squeeze: drs.Squeeze, state: SqueezeState, share: float = 0.01) -> tuple[float, float]:
    """Shares of the accepted mass that the bounds lose, in all and in the region, by quadrature."""
    reach = REACH * NARROW * share
    near = torch.linspace(RARE - reach, RARE + reach, 20_001, dtype=torch.float64)
    far = torch.linspace(-6.0, 7.0, 1_000_001, dtype=torch.float64)
    far = far[(far - RARE).abs() > reach]
    steps = torch.cat([near.diff()[0].expand(len(near)), far.diff()[0].expand(len(far))])
    x = torch.cat([near, far])
    weight = steps * torch.exp(-x.square() / 2)
    z, model = x.float()[:, None], gan(share)
    decides = squeeze.sampler.rejection(model, squeeze.sampler.State(*state[:5]))
    stages = Stages(decides, state, drs.Rng(0))
    pairs = zip(stages.networks, stages.margins, strict=True)
    bounds = [above(network, margin, z, None) for network, margin in pairs if margin < math.inf]
    threshold = {"log_m": state.log_m, "gamma": state.gamma, "eps": decides.eps}
    accepted = weight * ops.probability(model.logits(z)[1], **threshold)
    passed = weight * ops.probability(torch.stack(bounds).amin(dim=0), **threshold)
    missed = (accepted - passed).clamp(min=0.0) / accepted.sum()
    return float(missed.sum()), float(missed[: len(near)].sum())
