"""Sampling importance resampling within pools of proposals.

Source: Rubin, The calculation of posterior distributions by data augmentation: comment, 1987; Ding,
Wang and Welch, Subsampling generative adversarial networks: density ratio estimation in feature
space with softplus loss, 2020.
"""

import warnings
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import SELECT, Batch, Found, Rng, Sampler
from drs_fast.core.arguments import flag, integer
from drs_fast.core.layout import Layout, Logits, Scalar
from drs_fast.core.sampler import EQUAL, UNKNOWN, Described, Recorded, Remade
from drs_fast.gan import GAN
from drs_fast.samplers.common import expected, groups, remade
from drs_fast.samplers.common.burn_in import burn_in, by_class
from drs_fast.samplers.common.expected import Expected, Pilot

MOST = 0.1  # largest share of a pool to draw without replacement


class SIRState(NamedTuple):
    acceptance: Scalar  # samples per proposal
    # The effective share of proposals; with labels, one for each class that occurs.
    ess: Annotated[Tensor, Layout(torch.float64, ((), ("classes",)))]
    logits: Logits


@dataclass(frozen=True)
class SIR(Sampler):
    """Draws `size` samples from every `pool` proposals, with weights exp(logit).

    pool: proposals that compete.
    size: samples drawn from each pool.
    replace: whether a proposal can be drawn again. If not, unlikely ones follow the likely ones:
        the law moves towards the generator as `size` grows, and is the generator's own when `size`
        is the pool. Warns if `size` is above a tenth of the pool.
    burn_in: proposals from which the effective sample size is found, at least 1,000 of every class.
        Warns if that of a pool is less than a tenth of `size`, or less than `size` if not
        `replace`.
    Samples of a pool come in the order of their draws; without replacement, in random order. So
    each has the same law, wherever a run is cut. The tally `unique` counts different samples, over
    all pools drawn from.
    With labels, a pool has one class, that of its first row, so samples come in runs of `size` of a
    class. Over many pools, classes are as frequent as among the proposals, and x given y tends to
    the data of the class.

    Source: Rubin (1987); Ding et al. (2020), who resample one pool of all proposals.
    """

    pool: int = 640
    size: int = 64
    replace: bool = True
    burn_in: int = 10_000

    State: ClassVar[Any] = SIRState
    law_version: ClassVar[int] = 2
    tallies: ClassVar[tuple[str, ...]] = ("unique",)

    def __post_init__(self) -> None:
        for name, below in (("pool", groups.BELOW), ("size", None), ("burn_in", None)):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1, below))
        object.__setattr__(self, "replace", flag("replace", self.replace))
        if self.size > self.pool:
            # A step also has no space for more.
            raise ValueError(f"size must be at most pool = {self.pool}, got {self.size}")

    @property
    def group(self) -> int:
        return self.pool

    @property
    def law(self) -> str:
        drawn = f"{self.size} of every {self.pool} proposals"
        if self.replace:
            return f"tends to the data as the pool grows: {drawn}"
        if self.size == self.pool:
            return f"the generator, in another order: {drawn}, none twice"
        return f"between the data and, as size grows to pool, the generator: {drawn}, none twice"

    @property
    def weighs(self) -> str:
        return EQUAL if self.replace or self.size == 1 else UNKNOWN

    @classmethod
    def compared(cls) -> tuple[Sampler, ...]:
        return (cls(),)

    def expected(self, gan: GAN, pilot: Pilot, rng: Rng) -> Expected | None:
        if gan.labels is not None or not self.replace:
            return Expected(self.size / self.pool)
        return expected.resampling(pilot, rng, self.pool, self.size)

    def init(self, gan: GAN, rng: Rng) -> SIRState:
        logit, y = burn_in(gan, rng, self.burn_in, each=True)
        ess = torch.stack([effective(group) for group in by_class(gan, logit, y)])
        worth = self.pool * float(ess.min())
        if not self.replace and self.size > MOST * self.pool:
            warnings.warn(
                f"{self.size} of {self.pool} proposals drawn without replacement do not follow the "
                "data: once the likely ones are drawn, unlikely ones follow; lower size to at most "
                "a tenth of the pool, or draw with replacement (replace=True, --replace)",
                stacklevel=2,
            )
        elif worth < (0.1 * self.size if self.replace else self.size):
            warnings.warn(
                f"a pool of {self.pool} proposals is worth {worth:.2g} samples of the data, too "
                f"few to draw {self.size} from: most are copies or unlike the data; raise pool, "
                "lower size, or calibrate the discriminator",
                stacklevel=2,
            )
        acceptance = torch.full_like(ess[0], self.size / self.pool)
        return SIRState(acceptance, ess[0] if y is None else ess, logit)

    def found(self, state: SIRState) -> Found:
        return Found(float(state.acceptance), spent=len(state.logits), judged=state.logits)

    @classmethod
    def described(cls, run: Recorded) -> Described:
        return super().described(run)._replace(logits=run.state.logits)

    def step(
        self, gan: GAN, state: SIRState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[SIRState, Batch]:
        batch = groups.proposals(gan, z, y, self.pool)
        logit = batch.logit.view(-1, self.pool)
        drawn = ops.select(logit, rng, size=self.size, replace=self.replace)
        first = torch.arange(0, len(z), self.pool, device=z.device)
        rows, taken = drawn.clamp(min=0) + first[:, None], drawn >= 0
        if not self.replace:
            order = self._order(rows, taken, rng)
            rows, taken = rows.gather(1, order), taken.gather(1, order)
        ordered = drawn.sort(dim=1).values
        new = torch.diff(ordered, dim=1, prepend=ordered.new_full((len(drawn), 1), -1)) != 0
        batch = groups.chosen(batch, rows.flatten(), taken.flatten(), rng, unique=new.sum())
        return state, batch

    def remade(
        self,
        gan: GAN,
        state: SIRState,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        return remade.of_rows(gan, ids, y, rng, judged)

    def _order(self, rows: Tensor, taken: Tensor, rng: Rng) -> Tensor:
        """A random order of every pool's draws, because the likely ones are drawn first."""
        u = ops.uniform(
            rng, rows.numel(), stream=SELECT, draw=self.size, device=rows.device,
            ids=rng.row + rows.flatten(),
        )  # fmt: skip
        return torch.where(taken, u.view_as(rows), 1.0).argsort(dim=1)


def effective(logit: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) of the weights w = exp(logit), () float64."""
    weight = (logit.double() - ops.largest(logit)).exp()
    weight = torch.where(torch.isfinite(logit), weight, 0.0)
    return weight.sum().square() / (len(logit) * weight.square().sum())
