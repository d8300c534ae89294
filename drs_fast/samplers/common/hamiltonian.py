"""Hamiltonian Monte Carlo for chains of latents, towards p0(z) exp(logit).

Source: Neal, MCMC using Hamiltonian dynamics, Handbook of Markov Chain Monte Carlo 2011. In the
latent space, with a classifier's weight: Winterhalder, Bellagente and Nachman, Latent space
refinement for deep generative models (LaSeR), 2021.
"""

import math

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.gan import GAN
from drs_fast.samplers.common import moving
from drs_fast.samplers.common.metropolis import Point, accepted, point
from drs_fast.samplers.common.moving import Prior

SPREAD = 2 / 3  # how far steps vary from the given size
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


def hamiltonian(
    gan: GAN,
    prior: Prior,
    here: Point,
    y: Tensor | None,
    rng: Rng,
    step: int,
    size: float,
    *,
    leapfrog: int,
    noise: float = 1.0,
    scale: float = 1.0,
) -> tuple[Point, Tensor]:
    """The chains after one trajectory that may be rejected, and which accepted it, (n,) bool.

    leapfrog: steps of a trajectory, each of time sqrt(size); a single one is a `metropolis` move.
    noise: sd of the momentum; the law is exp(target / noise^2).
    scale: factor of the logit in the target.
    """
    # Velocities are momenta times sqrt(size), which a leapfrog step adds to z. This is half a kick.
    rest = torch.zeros_like(here.z)
    velocity = ops.langevin(rest, here.drift, rng, step=step, step_size=size, noise=noise)
    before = _kinetic(velocity, -size / 2, here.drift, size)
    there = here
    for k in range(leapfrog):
        if k:
            velocity = velocity + size * there.drift
        z, velocity = moving.bounced(there.z + velocity, velocity, *prior[1:])
        there = point(gan, prior, z, y, scale=scale)
    after = _kinetic(velocity, size / 2, there.drift, size)
    gain = (there.target - after) - (here.target - before)
    return accepted(gain / noise**2, there, here, rng, step)


def varied(size: float, step: int) -> float:
    """The size, made up to two thirds smaller or larger, evenly over the steps.

    Trajectories of one fixed length may return to their start every time (Neal 2011, 3.2).
    """
    return size * (1.0 + SPREAD * (2.0 * (step * GOLDEN % 1.0) - 1.0))


def _kinetic(velocity: Tensor, time: float, drift: Tensor, size: float) -> Tensor:
    """Kinetic energies after the drift has acted on the velocities; (n,) float64."""
    moved = velocity.double() + time * drift.double()
    return moving.row_sum(moved.square()) / (2.0 * size)
