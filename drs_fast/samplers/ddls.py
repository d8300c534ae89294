"""Discriminator-driven latent sampling: Langevin or Hamiltonian chains of latents.

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
from drs_fast.core import BURN_IN_ROW, Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer, number, one_of, positive
from drs_fast.core.layout import Scalar
from drs_fast.core.sampler import EQUAL, UNKNOWN
from drs_fast.gan import GAN
from drs_fast.samplers.common import burn_in, moving
from drs_fast.samplers.common.hamiltonian import hamiltonian, varied
from drs_fast.samplers.common.metropolis import Point, either, metropolis, point
from drs_fast.samplers.common.moving import Prior

KINDS = ("mala", "ula", "underdamped", "hmc")
ADJUSTED = ("mala", "hmc")  # they accept or reject moves, so that their law has no bias
FIRST_STEP = 0.01
TRIED = 10  # moves with a given step, to see whether any is accepted
SEEN = 128  # most burn-in rows if they only show whether the logits can be used
STUCK = 0.01  # share of accepted moves below which chains hardly move
HOTTEST = 1e9  # largest noise and temperature, so that squares and products fit in float32
WALL_STEP = 0.01  # largest step found in a box of half-width 1, whose walls bend longer moves


class DDLSState(NamedTuple):
    step_size: Scalar
    acceptance: Scalar  # every row becomes a sample


@dataclass(frozen=True)
class DDLS(Sampler):
    """A chain of latents from every row's own latent, towards p0(z) exp(logit).

    kind: "ula" accepts every move; "mala" accepts or rejects moves by Metropolis-Hastings (slower
        if the gradient is steep at the start); "underdamped" gives the chain a velocity, of which
        each step keeps 1 - friction; "hmc" accepts or rejects whole trajectories.
    steps: steps per chain. Each costs one gradient of the logit; with "hmc", `leapfrog` gradients.
    step_size: h in z + h/2 gradient + sqrt(h) noise. For "hmc", the square of a leapfrog step's
        time, varied by up to two thirds. Found in burn-in by default, for every kind: the step at
        which `target` of the moves are accepted, by MALA if the kind accepts all moves.
    target: the share of moves that are to be accepted where step_size is found in burn-in.
    friction: for "underdamped", in (0, 1]; 1 is the same as "ula".
    burn_in: chains used to find step_size, or to try a given one if the kind rejects moves. With a
        step_size and a kind that rejects none, at most 128: nothing has to be found.
    noise, temperature: give at most one, because temperature = noise^2; the default is 1. The noise
        of every move is multiplied by `noise`, and the law becomes p0(z) exp(logit) to the power
        1 / temperature. At 0 chains only climb: "ula" and "underdamped", with a step_size.
    logit_scale: s in p0(z) exp(s logit), which heats or cools the critic alone.
    decay, noise_decay, decay_every: every decay_every steps, step_size is multiplied by decay and
        noise by noise_decay. The chain then has no stationary law.
    leapfrog: steps in a trajectory of "hmc"; 1 is the same as "mala", except that the step varies.
    The uniform and truncated normal priors end at a wall: MALA rejects moves beyond it, the other
    kinds are reflected.

    Labels: a chain keeps the label of its row. So labels are as frequent as among the proposals,
    and given its label y a latent follows the law with that class's logit. The frequencies of the
    labels are not corrected, whatever the logit says about them.

    Settings in other code: StudioGAN's langevin_noise_std is a temperature, and its decay also
    applies to the noise (noise_decay=decay). cDR-RS: step_size=2 step_lr,
    noise=eps_std / sqrt(2 step_lr), logit_scale=alpha. GeneralizedEBM's temperature is a
    logit_scale, and its "langevin" has decay=0.1, decay_every=200, one step later. LaSeR:
    kind="hmc", step_size=eps^2, leapfrog=L.

    Source: Che et al. (2020), algorithm 1; for "hmc" Neal (2011) and Winterhalder et al. (2021).
    """

    kind: str = "ula"
    steps: int = 200
    step_size: float | None = None
    target: float = 0.9
    friction: float = 0.5
    burn_in: int = 1000
    noise: float | None = None
    temperature: float | None = None
    logit_scale: float = 1.0
    decay: float = 1.0
    noise_decay: float = 1.0
    decay_every: int = 1
    leapfrog: int = 10

    State: ClassVar[Any] = DDLSState
    energy: ClassVar[bool] = True
    tallies: ClassVar[tuple[str, ...]] = ("gradients", "accepted_steps")

    def __post_init__(self) -> None:
        one_of("kind", self.kind, KINDS)
        for name in ("steps", "burn_in", "decay_every", "leapfrog"):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1))
        one = ("target", "friction", "decay", "noise_decay")
        for name, high in (*((name, 1.0) for name in one), ("step_size", math.inf)):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name), high))
        for name in ("noise", "temperature"):
            if getattr(self, name) is not None:
                value = number(name, getattr(self, name), 0.0, HOTTEST)
                object.__setattr__(self, name, value)
        object.__setattr__(self, "logit_scale", positive("logit_scale", self.logit_scale))
        if self.target == 1.0:
            raise ValueError("target must be less than 1: only a step of size 0 is always accepted")
        if self.noise is not None and self.temperature is not None:
            raise ValueError(
                "give noise or temperature, not both (temperature = noise^2), got "
                f"noise={self.noise:g} and temperature={self.temperature:g}"
            )
        if self._noise == 0.0 and (self.kind in ADJUSTED or self.step_size is None):
            name = "temperature" if self.noise is None else "noise"
            raise ValueError(
                f"{name}=0 needs kind='ula' or 'underdamped' and a step_size, got "
                f"kind={self.kind!r} and step_size={self.step_size}: moves without noise are "
                "neither rejected nor used to find a step; give both, or a positive value"
            )

    @property
    def law(self) -> str:
        limit = "p0(z) exp(logit)"
        if self.logit_scale != 1.0:
            limit = f"p0(z) exp({self.logit_scale:g} logit)"
        heat = self._noise**2
        if heat == 0.0:
            return f"the generator, moved up {limit} for {self.steps} steps: no known law"
        if heat != 1.0:
            limit = f"({limit})^(1/{heat:g})"
        if heat == self.logit_scale == 1.0:
            limit += ", which is the data if the logit is exact"
        times = (self.steps - 1) // self.decay_every
        shrunk = {"step_size": self.decay**times, "temperature": self.noise_decay ** (2 * times)}
        falls = " and ".join(f"{name} is {part:g}" for name, part in shrunk.items() if part < 1.0)
        if falls:
            way = f"between the generator and {limit}"
            if shrunk["temperature"] < 1.0:
                way = f"from the generator towards {limit}, and colder"
            return f"{way}: no stationary law, because in the end {falls} of what it was"
        if self.kind in ADJUSTED:
            return f"in the limit of many steps {limit}; after {self.steps} steps near it"
        return f"{limit}, up to a bias of order step_size and after {self.steps} steps"

    @property
    def unadjusted(self) -> bool:
        return self.kind not in ADJUSTED

    @property
    def weighs(self) -> str:
        cooled = {self._noise, self.logit_scale, self.decay, self.noise_decay} != {1.0}
        return UNKNOWN if cooled else EQUAL

    @property
    def _noise(self) -> float:
        if self.noise is not None:
            return self.noise
        return 1.0 if self.temperature is None else math.sqrt(self.temperature)

    def init(self, gan: GAN, rng: Rng) -> DDLSState:
        prior = moving.prior(gan)
        one = torch.ones((), dtype=torch.float64, device=gan.device)
        rows, n = rng.at(BURN_IN_ROW), self.burn_in
        if self.step_size is not None and self.kind not in ADJUSTED:
            n = min(n, SEEN)
            y = ops.labels(gan, rows, n)
            burn_in.check(gan, gan.logits(ops.latents(gan, rows, n), y)[1])
            return DDLSState(self.step_size * one, one)
        z, y = ops.latents(gan, rows, n), ops.labels(gan, rows, n)
        here = point(gan, prior, z, y, scale=self.logit_scale)
        burn_in.check(gan, here.logit)
        if self.step_size is not None:
            moves = 0
            for step in range(TRIED):
                here, moved, _ = self._adjusted(gan, prior, here, y, rows, step, self.step_size)
                moves += int(moved.sum())
            self._warn(moves / (TRIED * self.burn_in), self.step_size)
            return DDLSState(self.step_size * one, one)
        size, found, moves = FIRST_STEP, 0.0, 0
        late = range(self.steps // 2, self.steps)
        for step in range(self.steps):
            here, moved, inside = self._adjusted(gan, prior, here, y, rows, step, size)
            # Only MALA rejects moves beyond the prior's walls; other kinds are reflected there.
            tried = self.burn_in if self.kind == "mala" else int(inside.sum())
            share = int(moved.sum()) / tried if tried else self.target
            change = max((share - self.target) / (1.0 - self.target), -1.0)
            size *= math.exp(change / math.sqrt(1 + step / 10))
            size = min(size, WALL_STEP * prior.box**2)
            if step in late:
                found += math.log(size) / len(late)
                moves += int(moved.sum())
        if self.kind in ADJUSTED:
            self._warn(moves / (len(late) * self.burn_in), math.exp(found))
        return DDLSState(math.exp(found) * one, one)

    def found(self, state: DDLSState) -> Found:
        return Found(float(state.acceptance), spent=self.burn_in)

    def step(
        self, gan: GAN, state: DDLSState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[DDLSState, Batch]:
        first = float(state.step_size) if self.step_size is None else self.step_size
        prior = moving.prior(gan)
        here = point(gan, prior, z, y, scale=self.logit_scale)
        velocity = torch.zeros_like(z)
        moves = torch.zeros((), dtype=torch.int64, device=z.device)
        for step in range(self.steps):
            times = step // self.decay_every
            size, cooled = first * self.decay**times, self.noise_decay**times
            if self.kind in ADJUSTED:
                here, moved, _ = self._adjusted(gan, prior, here, y, rng, step, size, cooled)
            else:
                there, speed = self._free(prior, here, velocity, rng, step, size, cooled)
                last = step + 1 == self.steps
                here, moved = self._reached(gan, prior, here, there, y, slope=not last)
                if self.kind == "underdamped":
                    velocity = moving.choose(moved, speed, velocity)
            moves += moved.sum()
        each = self.leapfrog if self.kind == "hmc" else 1
        gradients = len(z) * (self.steps * each + (self.kind in ADJUSTED))
        tallies: dict[str, Tensor | int] = {"gradients": gradients, "accepted_steps": moves}
        return state, moving.finished(here.x, here.z, y, here.logit, rng, tallies)

    def _adjusted(
        self,
        gan: GAN,
        prior: Prior,
        here: Point,
        y: Tensor | None,
        rng: Rng,
        step: int,
        size: float,
        cooled: float = 1.0,
    ) -> tuple[Point, Tensor, Tensor]:
        """The chains after a move that may be rejected; which accepted it, and which hit a wall."""
        given = {"noise": self._noise * cooled, "scale": self.logit_scale}
        if self.kind != "hmc":
            return metropolis(gan, prior, here, y, rng, step, size, **given)
        size, k = varied(size, step), self.leapfrog
        here, moved = hamiltonian(gan, prior, here, y, rng, step, size, leapfrog=k, **given)
        return here, moved, torch.ones_like(moved)

    def _free(
        self,
        prior: Prior,
        here: Point,
        velocity: Tensor,
        rng: Rng,
        step: int,
        size: float,
        cooled: float,
    ) -> tuple[Tensor, Tensor]:
        """Latents and velocities after a move that only a wall can stop."""
        noise = self._noise * cooled
        if self.kind == "ula":
            z = ops.langevin(here.z, here.drift, rng, step=step, step_size=size, noise=noise)
            return moving.reflected(z, prior.box, prior.centre), velocity
        velocity = ops.langevin(
            (1.0 - self.friction) * velocity,
            here.drift,
            rng,
            step=step,
            step_size=size,
            noise=math.sqrt(self.friction) * noise,
        )
        z = here.z + velocity
        there = moving.reflected(z, prior.box, prior.centre)
        return there, torch.where(there == z, velocity, -velocity)

    def _reached(
        self, gan: GAN, prior: Prior, here: Point, z: Tensor, y: Tensor | None, *, slope: bool
    ) -> tuple[Point, Tensor]:
        """The chains at z, except those that cannot continue from there; which moved, (n,) bool.

        The target is not used and stays as it was. slope: whether another move follows.
        """
        if slope:
            x, logit, gradient = gan.gradients(z, y)
            drift = self.logit_scale * gradient - prior.precision * z
        else:
            (x, logit), drift = gan.logits(z, y), z
        there, scaled = Point(z, x, logit, drift, here.target), self.logit_scale * logit.double()
        if moving.known_finite(scaled, drift):
            return there, torch.ones_like(logit, dtype=torch.bool)
        moved = torch.isfinite(scaled) & moving.finite(drift)
        return either(moved, there, here), moved

    def _warn(self, share: float, size: float) -> None:
        if share < STUCK:
            warnings.warn(
                f"{self.kind.upper()} accepts {share:.2%} of its moves at step_size={size:.3g}, "
                "so most samples are the generator's own: use a smaller step_size, or "
                "more steps and no step_size",
                stacklevel=3,
            )
