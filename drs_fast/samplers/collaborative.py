"""Collaborative sampling: the critic refines proposals inside G, which then compete in chains.

Source: Liu, Kothari and Alahi, Collaborative sampling in generative adversarial networks,
AAAI 2020.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer, number, positive
from drs_fast.core.layout import Scalar
from drs_fast.gan import GAN
from drs_fast.samplers.common import activations, groups, moving
from drs_fast.samplers.common.activations import Activations, Samples, Space
from drs_fast.samplers.common.burn_in import burn_in


class CollaborativeState(NamedTuple):
    acceptance: Scalar  # samples per proposal


@dataclass(frozen=True)
class Collaborative(Sampler):
    """Moves what a layer of G returns up the critic, then takes one sample of every chain.

    layer: dotted name of the part of the generator whose output is moved; "" moves the samples.
    steps: moves along the gradient of log sigmoid(logit). This depends on the logit's constant, so
        calibrate it. Every row keeps the best of the steps + 1 points it visited.
    step_size: of each move, times that gradient.
    momentum: share of the last move that is added to the next one.
    chain_length: refined proposals in a Metropolis-Hastings chain, which starts at the first valid
        one; with labels, all have the class of the first row. 1: refined samples as they are.
    burn_in: proposals whose logits are checked before anything is sampled.
    z is the row's latent; after refinement x is no longer G(z).

    Refined samples may fool a critic that has never seen any. The paper therefore first trains it
    on them (shaping), which is not done here: drs.contrastive(gan, space="sample") does much the
    same, and drs.calibrate then turns the critic back into a ratio.

    Source: Liu et al. (2020), algorithm 1; the released code runs one chain, thinned to every 20th.
    """

    layer: str = ""
    steps: int = 50
    step_size: float = 0.1
    momentum: float = 0.9
    chain_length: int = 20
    burn_in: int = 1000

    State: ClassVar[Any] = CollaborativeState
    tallies: ClassVar[tuple[str, ...]] = ("gradients",)

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise ValueError(
                f"layer must be the name of a part of the generator, got {self.layer!r}"
            )
        for name, below in (("steps", None), ("chain_length", groups.BELOW), ("burn_in", None)):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1, below))
        object.__setattr__(self, "step_size", positive("step_size", self.step_size))
        object.__setattr__(self, "momentum", number("momentum", self.momentum, 0.0, 1.0))

    @property
    def group(self) -> int:
        return self.chain_length

    @property
    def energy(self) -> bool:
        """Refinement works with any critic; a chain needs a density ratio."""
        return self.chain_length == 1

    @property
    def law(self) -> str:
        chained = f", in chains of {self.chain_length}" if self.chain_length > 1 else ""
        return (
            f"the generator, refined by {self.steps} steps up the critic{chained}, with the first "
            "density ratio throughout: no known law"
        )

    def init(self, gan: GAN, rng: Rng) -> CollaborativeState:
        if self.layer:
            activations.part_of(gan, self.layer)
        logit, _ = burn_in(gan, rng, self.burn_in)
        share = 1.0 / self.chain_length
        return CollaborativeState(torch.full((), share, dtype=torch.float64, device=logit.device))

    def found(self, state: CollaborativeState) -> Found:
        return Found(float(state.acceptance), spent=self.burn_in)

    def step(
        self, gan: GAN, state: CollaborativeState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[CollaborativeState, Batch]:
        y = groups.label_of_first(y, self.chain_length)
        # One block at a time, because a layer's activations may be far larger than the samples.
        parts = [
            self._refined(gan, z[rows], None if y is None else y[rows])
            for rows in (slice(start, start + gan.block) for start in range(0, len(z), gan.block))
        ]
        x, logit = (torch.cat(part) for part in zip(*parts, strict=True))
        batch = groups.judged(x, z, y, logit)
        last = ops.chain(logit.view(-1, self.chain_length), rng)
        first = torch.arange(0, len(z), self.chain_length, device=z.device)
        gradients = torch.full_like(batch.count, len(z) * (self.steps + 1))
        rows = first + last.clamp(min=0)
        taken = torch.isfinite(logit[rows])  # False if the chain found no valid proposal
        return state, groups.chosen(batch, rows, taken, rng, gradients=gradients)

    def _refined(self, gan: GAN, z: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (n, ...) and logit (n,) at the best point each row visited."""
        space: Space = Activations(gan, self.layer, z, y) if self.layer else Samples(gan, z, y)
        point = best = space.start
        speed = torch.zeros_like(point)
        top = torch.full_like(z[:, 0], -torch.inf)
        for _ in range(self.steps + 1):
            logit, slope = space.climb(point)
            better = torch.isfinite(logit) & (logit > top)
            best, top = moving.choose(better, point, best), torch.where(better, logit, top)
            pull = moving.beside(moving.sigmoid(-logit), slope) * slope
            speed = self.momentum * speed + self.step_size * pull
            point = point + speed
        return space.finish(best)
