"""Independence Metropolis-Hastings on generated samples.

Source: Turner, Hung, Frank, Saatci and Yosinski, Metropolis-Hastings generative adversarial
networks, ICML 2019.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.arguments import integer
from drs_fast.core import BURN_IN_ROW, REAL, Batch, Rng
from drs_fast.gan import GAN
from drs_fast.ratio import groups
from drs_fast.ratio.burn_in import burn_in, by_class, check
from drs_fast.ratio.held_out import alike

STARTS = ("real", "first")
UNMOVED = ("keep", "drop")


class MHState(NamedTuple):
    """The real samples that chains start at, those of a class together; none for start="first"."""

    real: Tensor  # (n,) int64, which ones
    scores: Tensor  # (n,) float32, their logits
    begins: Tensor  # (classes + 1,) int64, where those of a class begin
    logits: Tensor  # (burn_in,) float32, of proposals


@dataclass(frozen=True)
class MH:
    """One sample from every chain of `chain_length` proposals, moves with min(1, exp(new - old)).

    start: "real": at a real sample, of the chain's class, that every chain chooses anew; "first":
        at the first valid proposal.
    unmoved: what a chain gives that never left its real start: "keep": the real sample, with ids
        ~(first row of the chain) and z NaN; "drop": nothing, which biases all that is left. The
        tally `unmoved` counts these chains among all that were run.
    burn_in: proposals that are checked, and most real samples to start at. gan.real, if a function,
        must give the same ones every time.

    Source: Turner et al. (2019), who start a chain that never moved again, at its first proposal.
    """

    chain_length: int = 640
    start: str = "real"
    unmoved: str = "keep"
    burn_in: int = 10_000

    State: ClassVar[Any] = MHState
    law_version: ClassVar[int] = 1
    sequential: ClassVar[bool] = False
    tallies: ClassVar[tuple[str, ...]] = ("unmoved",)

    def __post_init__(self) -> None:
        for name, below in (("chain_length", groups.BELOW), ("burn_in", None)):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1, below))
        for name, choices in (("start", STARTS), ("unmoved", UNMOVED)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")

    @property
    def group(self) -> int:
        return self.chain_length

    @property
    def law(self) -> str:
        if self.start == "first":
            return f"tends to the data as chains grow: {self.chain_length} steps from the generator"
        if self.unmoved == "drop":
            return "between the generator and the data: chains that never moved are dropped"
        return "data, where a chain that never moved gives the real sample that it began at"

    def data(self, gan: GAN) -> tuple[Tensor | None, ...]:
        """The real samples, where they may be among those that the run gives."""
        return gan.real_samples(self.burn_in) if self.start == "real" else ()

    def init(self, gan: GAN, rng: Rng) -> MHState:
        if self.start == "real" and gan.real is None:
            raise ValueError(
                "MH starts chains at real samples: build GAN(..., real=x), or take "
                "MH(start='first'), which needs longer chains"
            )
        logit, y = burn_in(gan, rng, self.burn_in)
        by_class(gan, logit, y)
        if self.start == "first":
            nothing = torch.zeros(0, dtype=torch.int64, device=logit.device)
            return MHState(nothing, logit[:0], nothing, logit)
        return MHState(*self._starts(gan), logit)

    def step(
        self, gan: GAN, state: MHState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[MHState, Batch]:
        batch = groups.proposals(gan, z, y, self.chain_length)
        logit = batch.logit.view(-1, self.chain_length)
        first = torch.arange(0, len(z), self.chain_length, device=z.device)
        real = None if self.start == "first" else self._choice(state, batch, first, rng)
        last = ops.chain(logit, rng, start=None if real is None else state.scores[real])
        still = last < 0
        keeps = real is not None and self.unmoved == "keep"
        rows, taken = first + last.clamp(min=0), torch.ones_like(still) if keeps else ~still
        winners = groups.chosen(batch, rows, taken, rng, unmoved=still.sum())
        if real is not None and keeps:
            winners = self._kept(gan, state, winners, still, real, rng.row + first)
        return state, winners

    def _starts(self, gan: GAN) -> tuple[Tensor, Tensor, Tensor]:
        """The first three tensors of the state, for start="real"."""
        x, y = gan.real_samples(self.burn_in)
        made = gan.samples(ops.latents(gan, Rng(0, BURN_IN_ROW), 1), None if y is None else y[:1])
        alike(x, made)
        score = gan.scores(x, y)
        check(gan, score)
        label = torch.zeros_like(score, dtype=torch.int64) if y is None else y
        valid = ~(torch.isnan(score) | torch.isposinf(score))
        real = label.argsort(stable=True)
        real = real[valid[real]]
        counts = torch.bincount(label[real], minlength=gan.labels or 1)
        for k, count in enumerate(counts.tolist()):
            if not count:
                raise ValueError(
                    f"none of the first {len(x):,} real samples is of class {k} and has a valid "
                    "logit; give more or shuffled ones, or raise burn_in"
                )
        return real, score[real], torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def _choice(self, state: MHState, batch: Batch, first: Tensor, rng: Rng) -> Tensor:
        """Which of the state's real samples each chain starts at."""
        u = ops.uniform(rng, len(first), stream=REAL, device=first.device, ids=rng.row + first)
        k = torch.zeros_like(first) if batch.y is None else batch.y[first]
        begin = state.begins[k]
        return begin + (u * (state.begins[k + 1] - begin)).long()

    def _kept(
        self, gan: GAN, state: MHState, batch: Batch, still: Tensor, real: Tensor, rows: Tensor
    ) -> Batch:
        """The batch, with real samples where chains never moved."""
        if not bool(still.any()):  # else real samples may have to be fetched from the host
            return batch
        x = batch.x.clone()
        x[still] = gan.real_samples(self.burn_in)[0][state.real[real[still]]].to(x.dtype)
        return replace(
            batch,
            x=x,
            z=torch.where(still[:, None], torch.nan, batch.z),
            logit=torch.where(still, state.scores[real], batch.logit),
            ids=torch.where(still, ~rows, batch.ids),
        )
