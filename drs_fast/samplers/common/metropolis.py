"""Metropolis-adjusted Langevin moves for chains of latents, towards p0(z) exp(logit).

Source: Roberts and Tweedie, Exponential convergence of Langevin distributions and their discrete
approximations, Bernoulli 1996.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import CHAIN, Rng
from drs_fast.gan import GAN
from drs_fast.samplers.common import moving
from drs_fast.samplers.common.moving import Prior


class Point(NamedTuple):
    """Where the chains are. target: log p0 + scale logit, or -inf where no chain may go."""

    z: Tensor  # (n, d)
    x: Tensor  # (n, ...)
    logit: Tensor  # (n,) float32
    drift: Tensor  # (n, d), the gradient of the target; 0 where the target is -inf
    target: Tensor  # (n,) float64


def point(gan: GAN, prior: Prior, z: Tensor, y: Tensor | None, *, scale: float = 1.0) -> Point:
    """The chains at z."""
    x, logit, gradient = gan.gradients(z, y)
    gradient = scale * gradient - prior.precision * z
    usable = torch.isfinite(logit) & moving.finite(gradient)
    target = moving.log_density(z, prior) + scale * logit.double()
    target = torch.where(usable, target, -torch.inf)
    return Point(z, x, logit, moving.steady(gradient), target)


def metropolis(
    gan: GAN,
    prior: Prior,
    here: Point,
    y: Tensor | None,
    rng: Rng,
    step: int,
    size: float,
    *,
    noise: float = 1.0,
    scale: float = 1.0,
) -> tuple[Point, Tensor, Tensor]:
    """The chains after one move that may be rejected, and which accepted it within the walls.

    noise: sd of the noise over sqrt(size); the law is exp(target / noise^2).
    scale: factor of the logit in the target.
    """
    z = ops.langevin(here.z, here.drift, rng, step=step, step_size=size, noise=noise)
    there = point(gan, prior, z, y, scale=scale)
    gain = there.target - here.target + _log_move(there, here, size) - _log_move(here, there, size)
    here, moved = accepted(gain / noise**2, there, here, rng, step)
    return here, moved, prior.inside(z)


def accepted(gain: Tensor, there: Point, here: Point, rng: Rng, step: int) -> tuple[Point, Tensor]:
    """Moves chains `there` with probability min(1, exp(gain)); returns which moved, (n,) bool.

    gain (n,) float64; NaN never moves.
    """
    # A chain that starts where none may go has gain = inf, and leaves.
    p = ops.probability(gain.clamp(max=0.0), log_m=0.0, eps=0.0)
    moved = ops.uniform(rng, len(gain), stream=CHAIN, draw=step, device=gain.device) < p
    return either(moved, there, here), moved


def either(moved: Tensor, there: Point, here: Point) -> Point:
    """The chains at `there` where moved (n,) bool is True, elsewhere at `here`."""
    return Point(*(moving.choose(moved, *rows) for rows in zip(there, here, strict=True)))


def _log_move(start: Point, end: Point, size: float) -> Tensor:
    """Log density of the move from start to end at noise 1, up to a constant; (n,) float64."""
    noise = end.z.double() - start.z.double() - size / 2 * start.drift.double()
    return -moving.row_sum(noise.square()) / (2 * size)
