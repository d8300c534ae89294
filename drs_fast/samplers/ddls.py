"""Discriminator-driven latent sampling: Langevin chains of latents.

Source: Che, Zhang, Sohl-Dickstein, Larochelle, Paull, Cao and Bengio, Your GAN is secretly an
energy-based model and you should use discriminator driven latent sampling, NeurIPS 2020.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.arguments import integer, positive
from drs_fast.core import BURN_IN_ROW, Batch, Rng
from drs_fast.gan import GAN
from drs_fast.ratio import burn_in, moving
from drs_fast.ratio.metropolis import Point, either, metropolis, point

KINDS = ("mala", "ula", "underdamped")
FIRST_STEP = 0.01
TRIED = 10  # moves of a given step, which are to show whether MALA accepts any
STUCK = 0.01  # share of accepted moves below which chains stand still
WALL_STEP = 0.01  # largest step found in a box of half-width 1, whose walls bend longer moves


class DDLSState(NamedTuple):
    step_size: Tensor  # () float64
    acceptance: Tensor  # () float64: every row becomes a sample


@dataclass(frozen=True)
class DDLS:
    """A chain of latents from every row's own latent, towards p0(z) exp(logit).

    kind: "ula" takes every move, "mala" accepts or rejects it by Metropolis and Hastings (slower
        where the gradient is steep at the start), "underdamped" gives the chain a velocity that
        keeps 1 - friction of itself at every step.
    steps: of every chain; each costs one gradient of the logit.
    step_size: h of z + h/2 gradient + sqrt(h) noise. Found in burn-in unless given, whatever the
        kind: the step of which MALA accepts `target` of the moves.
    friction: of "underdamped", in (0, 1]; 1 is the same as "ula".
    burn_in: chains that step_size is found with, or a given one of "mala" is tried with.
    The uniform and the truncated normal prior end at a wall: MALA rejects moves beyond it, the
    others are reflected.

    Source: Che et al. (2020), algorithm 1.
    """

    kind: str = "ula"
    steps: int = 200
    step_size: float | None = None
    target: float = 0.9
    friction: float = 0.5
    burn_in: int = 1000

    State: ClassVar[Any] = DDLSState
    law_version: ClassVar[int] = 1
    group: ClassVar[int] = 1
    sequential: ClassVar[bool] = False
    energy: ClassVar[bool] = True
    tallies: ClassVar[tuple[str, ...]] = ("gradients", "accepted_steps")

    def __post_init__(self) -> None:
        moving.one_of("kind", self.kind, KINDS)
        object.__setattr__(self, "steps", integer("steps", self.steps, 1))
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 1))
        for name, high in (("step_size", math.inf), ("target", 1.0), ("friction", 1.0)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name), high))
        if self.target == 1.0:
            raise ValueError("target must be less than 1: only a step of size 0 is always accepted")

    @property
    def law(self) -> str:
        limit = "p0(z) exp(logit), which is the data if the logit is exact"
        if self.kind == "mala":
            return f"in the limit of many steps {limit}; after {self.steps} steps near it"
        return f"{limit}, up to a bias of order step_size and after {self.steps} steps"

    def init(self, gan: GAN, rng: Rng) -> DDLSState:
        prior = moving.prior(gan)
        one = torch.ones((), dtype=torch.float64, device=gan.device)
        rows = rng.at(BURN_IN_ROW)
        z, y = ops.latents(gan, rows, self.burn_in), ops.labels(gan, rows, self.burn_in)
        if self.step_size is not None and self.kind != "mala":
            burn_in.check(gan, gan.logits(z, y)[1])
            return DDLSState(self.step_size * one, one)
        here = point(gan, prior, z, y)
        burn_in.check(gan, here.logit)
        if self.step_size is not None:
            moves = 0
            for step in range(TRIED):
                here, moved, _ = metropolis(gan, prior, here, y, rows, step, self.step_size)
                moves += int(moved.sum())
            _warn(moves / (TRIED * self.burn_in), self.step_size)
            return DDLSState(self.step_size * one, one)
        size, found, moves = FIRST_STEP, 0.0, 0
        late = range(self.steps // 2, self.steps)
        for step in range(self.steps):
            here, moved, inside = metropolis(gan, prior, here, y, rows, step, size)
            # Only MALA refuses moves beyond the prior's walls; the others are reflected there.
            tried = self.burn_in if self.kind == "mala" else int(inside.sum())
            share = int(moved.sum()) / tried if tried else self.target
            change = max((share - self.target) / (1.0 - self.target), -1.0)
            size *= math.exp(change / math.sqrt(1 + step / 10))
            size = min(size, WALL_STEP * prior.box**2)
            if step in late:
                found += math.log(size) / len(late)
                moves += int(moved.sum())
        if self.kind == "mala":
            _warn(moves / (len(late) * self.burn_in), math.exp(found))
        return DDLSState(math.exp(found) * one, one)

    def step(
        self, gan: GAN, state: DDLSState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[DDLSState, Batch]:
        size = float(state.step_size) if self.step_size is None else self.step_size
        prior = moving.prior(gan)
        here, velocity = point(gan, prior, z, y), torch.zeros_like(z)
        moves = torch.zeros((), dtype=torch.int64, device=z.device)
        for step in range(self.steps):
            if self.kind == "mala":
                here, moved, _ = metropolis(gan, prior, here, y, rng, step, size)
            else:
                there, speed = self._free(prior.box, here, velocity, rng, step, size)
                last = step + 1 == self.steps
                end = point(gan, prior, there, y, slope=not last)
                moved = torch.isfinite(end.target)
                here, velocity = either(moved, end, here), moving.choose(moved, speed, velocity)
            moves += moved.sum()
        gradients = len(z) * (self.steps + (self.kind == "mala"))
        tallies: dict[str, Tensor | int] = {"gradients": gradients, "accepted_steps": moves}
        return state, moving.finished(here.x, here.z, y, here.logit, rng, tallies)

    def _free(
        self, box: float, here: Point, velocity: Tensor, rng: Rng, step: int, size: float
    ) -> tuple[Tensor, Tensor]:
        """Latents and velocities after a move that nothing but a wall stops."""
        if self.kind == "ula":
            z = ops.langevin(here.z, here.drift, rng, step=step, step_size=size)
            return moving.reflected(z, box), velocity
        velocity = ops.langevin(
            (1.0 - self.friction) * velocity,
            here.drift,
            rng,
            step=step,
            step_size=size,
            noise=math.sqrt(self.friction),
        )
        z = here.z + velocity
        there = moving.reflected(z, box)
        return there, torch.where(there == z, velocity, -velocity)


def _warn(share: float, size: float) -> None:
    if share < STUCK:
        warnings.warn(
            f"MALA accepts {share:.2%} of its moves with step_size={size:.3g}, so that most "
            "samples are those of the generator: give a smaller step_size, or none and more steps",
            stacklevel=3,
        )
