"""Discriminator optimal transport: samples move up the critic, but not far from their start.

Source: Tanaka, Discriminator optimal transport, NeurIPS 2019, and its errata of 2023.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, BadLogits, Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer, one_of, positive
from drs_fast.core.layout import Scalar
from drs_fast.gan import GAN
from drs_fast.samplers.common import burn_in, moving

TRANSPORTS = ("dot", "naive")
OPTIMISERS = ("adam", "sgd")
PROJECTIONS = ("tangent", "released", "none")
ESTIMATES = ("steepest", "pairs")
BETA2, ADAM_EPS = 0.9, 1e-8


class DOTState(NamedTuple):
    lipschitz: Scalar
    acceptance: Scalar  # every row becomes a sample


@dataclass(frozen=True)
class DOT(Sampler):
    """Descends |p - start| - logit / lipschitz, where p is the latent or the sample.

    space: "latent" or "sample"; in the sample space, z stays the row's latent.
    steps: moves of every row.
    step_size: the optimiser's learning rate.
    transport: "dot", or "naive", which leaves out |p - start|.
    optimiser: "adam" (betas 0 and 0.9) or "sgd".
    delta: replaces |p - start| by sqrt(|p - start|^2 + delta^2), which has a gradient at the start.
    project: what is done to a latent's gradient under a normal prior, whose latents lie near a
        sphere, before the optimiser sees it. "tangent" removes the part along z, and removes it
        again from Adam's move; "released" divides that part by sqrt(d) instead of |z|^2, as the
        released code does; "none" leaves the gradient unchanged.
    box: clips samples to [-box, box], in the sample space only. Latents are clipped at the ends of
        a uniform or truncated normal prior.
    lipschitz: how the constant is estimated. "pairs", as in the released code: the largest
        difference of logits over distance, in pairs of generated samples of one class. It may be
        far below the critic's slope. "steepest": that, or the largest gradient at a generated
        sample. No critic climbs faster than its true constant, so then the start itself is a
        minimiser, and samples hardly move.
    burn_in: generated samples for that estimate. It may miss a region that holds less than one
        sample in burn_in.

    Source: Tanaka (2019), algorithms 1 and 2.
    """

    space: str = "latent"
    steps: int = 100
    step_size: float = 0.01
    optimiser: str = "adam"
    delta: float = 1e-3
    project: str = "tangent"
    box: float | None = None
    burn_in: int = 1000
    transport: str = "dot"
    lipschitz: str = "steepest"

    State: ClassVar[Any] = DOTState
    law_version: ClassVar[int] = 2
    energy: ClassVar[bool] = True
    tallies: ClassVar[tuple[str, ...]] = ("gradients",)

    def __post_init__(self) -> None:
        one_of("space", self.space, moving.SPACES)
        one_of("optimiser", self.optimiser, OPTIMISERS)
        one_of("project", self.project, PROJECTIONS)
        one_of("transport", self.transport, TRANSPORTS)
        one_of("lipschitz", self.lipschitz, ESTIMATES)
        object.__setattr__(self, "steps", integer("steps", self.steps, 1))
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 2))
        if self.burn_in % 2:
            raise ValueError(f"burn_in must be even, as it is used in pairs, got {self.burn_in}")
        for name in ("step_size", "delta", "box"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.box is not None and self.space == "latent":
            raise ValueError("got box, but box clips samples; use space='sample', or drop box")

    @property
    def law(self) -> str:
        if self.transport == "naive":
            return "an ascent of the critic from the generator: no known law"
        return "a transport heuristic: no known law"

    def init(self, gan: GAN, rng: Rng) -> DOTState:
        rows = rng.at(BURN_IN_ROW)
        points, y = ops.latents(gan, rows, self.burn_in), ops.labels(gan, rows, self.burn_in)
        if y is not None:
            y = y.view(-1, 2)[:, :1].expand(-1, 2).flatten()
        if self.space == "latent":
            _, logit, slope = gan.gradients(points, y)
        else:
            points = gan.samples(points, y).float()
            logit, slope = gan.score_gradients(points, y)
        burn_in.check(gan, logit)
        slopes = between(points, logit)
        if self.lipschitz == "steepest":
            norms = moving.row_sum(moving.steady(slope).double().square()).sqrt()
            slopes = torch.cat([slopes, norms])
        lipschitz = largest(slopes)
        return DOTState(lipschitz, torch.ones_like(lipschitz))

    def found(self, state: DOTState) -> Found:
        return Found(float(state.acceptance), spent=self.burn_in)

    def step(
        self, gan: GAN, state: DOTState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[DOTState, Batch]:
        scale = (1.0 / state.lipschitz).float()
        tally = {"gradients": len(z) * self.steps}
        if self.space == "latent":
            project = self.project if gan.prior == "normal" else "none"
            z = self._descended(
                lambda z: gan.gradients(z, y)[2], z, scale, project, moving.walls(gan)
            )
            x, logit = gan.logits(z, y)
        else:
            box = (math.inf if self.box is None else self.box), 0.0
            slope: Callable[[Tensor], Tensor] = lambda x: gan.score_gradients(x, y)[1]  # noqa: E731
            made = gan.samples(z, y)
            x = self._descended(slope, made.float(), scale, "none", box).to(made.dtype)
            logit = gan.scores(x, y)
        return state, moving.finished(x, z, y, logit, rng, tally)

    def _descended(
        self,
        slope: Callable[[Tensor], Tensor],
        start: Tensor,
        scale: Tensor,
        project: str,
        walls: tuple[float, float],
    ) -> Tensor:
        """The end points after `steps` moves; each row has its own distance from its start."""
        point, second = start, torch.zeros_like(start)
        box, centre = walls
        for step in range(self.steps):
            move = scale * moving.steady(slope(point))
            if self.transport == "dot":
                away = point - start
                distance = (moving.row_sum(away.square()) + self.delta**2).sqrt()
                move = move - away / moving.beside(distance, away)
            if project != "none":
                move = projected(move, point, project)
            if self.optimiser == "adam":
                second = BETA2 * second + (1.0 - BETA2) * move.square()
                move = move / ((second / (1.0 - BETA2 ** (step + 1))).sqrt() + ADAM_EPS)
                if project == "tangent":  # Adam's scales, one per coordinate, have turned the move
                    move = projected(move, point, project)
            point = (point + self.step_size * move).clamp(centre - box, centre + box)
        return point


def projected(move: Tensor, z: Tensor, project: str) -> Tensor:
    """The moves (n, d) without their parts along the latents, or as the released code does it."""
    radial = moving.row_sum(z * move)
    square = moving.row_sum(z.square())
    share = radial / (square if project == "tangent" else math.sqrt(z.shape[1]))
    return move - share[:, None] * z


def between(points: Tensor, logit: Tensor) -> Tensor:
    """|logit difference| / distance of rows 2 i and 2 i + 1, (n / 2,) float64."""
    pairs, score = points.double().view(-1, 2, *points.shape[1:]), logit.double().view(-1, 2)
    distance = moving.row_sum((pairs[:, 0] - pairs[:, 1]).square()).sqrt()
    return (score[:, 0] - score[:, 1]).abs() / distance


def largest(slopes: Tensor) -> Tensor:
    """The largest finite slope, (); BadLogits if none is above 0."""
    finite = slopes[torch.isfinite(slopes)]
    if not len(finite) or not float(finite.max()) > 0.0:
        raise BadLogits(
            "the logits of generated samples do not differ, or differ by no finite amount per "
            "distance: the critic or the generator is constant; check their weights"
        )
    return finite.max()
