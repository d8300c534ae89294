"""Independence Metropolis-Hastings on generated samples.

Source: Turner, Hung, Frank, Saatci and Yosinski, Metropolis-Hastings generative adversarial
networks, ICML 2019.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, REAL, Batch, Found, Rng, Sampler
from drs_fast.core.arguments import integer, one_of
from drs_fast.core.layout import Layout, Logits
from drs_fast.core.rows import RESTART
from drs_fast.core.sampler import EQUAL, UNKNOWN, Described, Recorded, Remade
from drs_fast.gan import GAN, classes
from drs_fast.gan.real_data import alike
from drs_fast.samplers.common import expected, groups, remade
from drs_fast.samplers.common.burn_in import burn_in, by_class, check
from drs_fast.samplers.common.expected import Expected, Pilot

STARTS = ("real", "first")
UNMOVED = ("keep", "drop", "restart")


class MHState(NamedTuple):
    """The real samples that chains start at, in the order in which each class uses them.

    None if start="first".
    """

    real: Annotated[Tensor, Layout(torch.int64, (("r",),))]  # their indices, class by class
    scores: Annotated[Tensor, Layout(torch.float32, (("r",),))]  # their logits
    begins: Annotated[Tensor, Layout(torch.int64, (("classes + 1",),))]  # where each class begins
    # Number of chains of each class in the first block.
    chains_of_block: Annotated[Tensor, Layout(torch.int64, (("classes",),))]
    logits: Logits  # logits of proposals


@dataclass(frozen=True)
class MH(Sampler):
    """One sample from every chain of `chain_length` proposals, moves with min(1, exp(new - old)).

    chain_length: proposals of each chain, of which a sample is the last that it moved to.
    start: "real": at a real sample of the chain's class. "first": at the first valid proposal.
    unmoved: what to do with a chain that never left its real start. "keep": return the real sample,
        with id ~(first row of the chain) and z NaN. "drop": return nothing, which biases the other
        samples. "restart": return the end of a chain through the same proposals that starts at the
        first of them and uses other uniforms, which is biased too.
    burn_in: proposals whose logits are checked, at least 1,000 of every class.
    starts: most real samples to start from, taken from the first. None: all of a tensor, or burn_in
        of them from a function, which must return the same ones every time.

    The seed puts the real samples in an order. Chains use them one after another, and begin again
    after the last; with labels, chains of each class do this among themselves. A class's chains are
    then counted in blocks of 65,536 chains; where two blocks meet, a few real samples are skipped
    or used twice.
    With labels, all of a chain has the class of its first row. Classes are as frequent as among the
    proposals, and x given y follows the data of the class.
    Tallies over all chains: `unmoved`: chains that never left their start; `distinct`: a lower
    limit of the different real samples these returned; `moves`: proposals that chains moved to.
    `acceptance_rate` is their share.

    Source: Turner et al. (2019), whose code restarts.
    """

    chain_length: int = 640
    start: str = "real"
    unmoved: str = "keep"
    burn_in: int = 10_000
    starts: int | None = None

    State: ClassVar[Any] = MHState
    law_version: ClassVar[int] = 2
    tallies: ClassVar[tuple[str, ...]] = ("unmoved", "distinct", "moves")

    def __post_init__(self) -> None:
        for name, below in (("chain_length", groups.BELOW), ("burn_in", None)):
            object.__setattr__(self, name, integer(name, getattr(self, name), 1, below))
        if self.starts is not None:
            object.__setattr__(self, "starts", integer("starts", self.starts, 1))
        for name, choices in (("start", STARTS), ("unmoved", UNMOVED)):
            one_of(name, getattr(self, name), choices)

    @property
    def group(self) -> int:
        return self.chain_length

    @property
    def law(self) -> str:
        if self.start == "first":
            return f"tends to the data as chains grow: {self.chain_length} steps from the generator"
        if self.unmoved == "drop":
            return "between the generator and the data: chains that never moved are dropped"
        if self.unmoved == "restart":
            return (
                "between the generator and the data: chains that never moved run again from their "
                "first proposal"
            )
        return (
            "data, where a chain that never moved gives the real sample that it began at, each its "
            "own while there are enough"
        )

    @property
    def weighs(self) -> str:
        return EQUAL if self.start == "first" or self.unmoved == "keep" else UNKNOWN

    def data(self, gan: GAN) -> tuple[Tensor | None, ...]:
        """The real samples, if the run may return some of them."""
        return gan.real_samples(self._most(gan)) if self.start == "real" else ()

    def measured(self, state: Any, tallies: Mapping[str, int]) -> dict[str, float]:
        """The share of the proposals that chains moved to, where they could."""
        begun = tallies["calls"] // self.chain_length if self.start == "first" else 0
        offered = tallies["calls"] - begun
        return {"acceptance_rate": tallies["moves"] / offered} if offered else {}

    def warning(self, tallies: Mapping[str, int]) -> str | None:
        """A warning if more than a tenth of the chains returned their real start."""
        chains = tallies["calls"] // self.chain_length
        if self.start == "first" or self.unmoved != "keep" or tallies["unmoved"] <= chains / 10:
            return None
        return (
            f"{tallies['unmoved']:,} of {chains:,} chains never moved, and returned the real "
            "samples they started at (with negative ids): raise chain_length, or calibrate the "
            "discriminator"
        )

    @classmethod
    def compared(cls) -> tuple[Sampler, ...]:
        return cls(), cls(start="first")

    def expected(self, gan: GAN, pilot: Pilot, rng: Rng) -> Expected | None:
        real = self.start == "real"
        if real and gan.real is None:
            return None
        if gan.labels is not None or (real and self.unmoved != "keep"):
            return Expected(1.0 / self.chain_length)
        return expected.chain(pilot, self.chain_length, real)

    def init(self, gan: GAN, rng: Rng) -> MHState:
        if self.start == "real" and gan.real is None:
            raise ValueError(
                "MH needs real samples to start chains at: build GAN(..., real=x), or use "
                "start='first' (--start first), which needs longer chains"
            )
        logit, y = burn_in(gan, rng, self.burn_in, each=True)
        by_class(gan, logit, y)
        if self.start == "first":
            nothing = torch.zeros(0, dtype=torch.int64, device=logit.device)
            return MHState(nothing, logit[:0], nothing, nothing, logit)
        return MHState(*self._starts(gan, rng), logit)

    def found(self, state: MHState) -> Found:
        return Found(1.0 / self.group, spent=len(state.logits), judged=state.logits)

    @classmethod
    def described(cls, run: Recorded) -> Described:
        return super().described(run)._replace(logits=run.state.logits)

    def step(
        self, gan: GAN, state: MHState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[MHState, Batch]:
        batch = groups.proposals(gan, z, y, self.chain_length)
        logit = batch.logit.view(-1, self.chain_length)
        first = torch.arange(0, len(z), self.chain_length, device=z.device)
        if self.start == "first":
            last, moves = ops.walk(logit, rng)
            moved = last >= 0
            tallies = {
                "unmoved": (~moved).sum(),
                "distinct": torch.zeros_like(batch.count),
                "moves": (moves - moved.long()).sum(),  # the start is not a move
            }
            return state, groups.chosen(batch, first + last.clamp(min=0), moved, rng, **tallies)
        real, new = self._choice(gan, state, batch, first, rng)
        last, moves = ops.walk(logit, rng, start=state.scores[real])
        still, keeps = last < 0, self.unmoved == "keep"
        tallies = {
            "unmoved": still.sum(),
            "distinct": (still & new & keeps).sum(),
            "moves": moves.sum(),
        }
        if self.unmoved == "restart":
            again = ops.chain(logit, rng, ids=(rng.row + batch.ids) ^ RESTART)
            last = torch.where(still, again, last)
        rows, taken = first + last.clamp(min=0), (last >= 0) | keeps
        winners = groups.chosen(batch, rows, taken, rng, **tallies)
        if keeps:
            winners = self._kept(gan, state, winners, still, real, rng.row + first)
        return state, winners

    def _most(self, gan: GAN) -> int:
        """Number of real samples to ask for."""
        if self.starts is not None:
            return self.starts
        return self.burn_in if callable(gan.real) else sys.maxsize

    def _starts(self, gan: GAN, rng: Rng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The first four tensors of the state, for start="real"."""
        x, y = gan.real_samples(self._most(gan))
        made = gan.samples(ops.latents(gan, Rng(0, BURN_IN_ROW), 1), None if y is None else y[:1])
        alike(x, made)
        score = gan.scores(x, y)
        check(gan, score)
        label = torch.zeros_like(score, dtype=torch.int64) if y is None else y
        valid = ~(torch.isnan(score) | torch.isposinf(score))
        real = ops.uniform(rng.at(0), len(x), stream=REAL, device=x.device).argsort(stable=True)
        real = real[label[real].argsort(stable=True)]
        real = real[valid[real]]
        counts = torch.bincount(label[real], minlength=gan.labels or 1)
        for k in classes.occurring(gan.labels or 1, gan.label_weights):
            if not counts[k]:
                raise ValueError(
                    f"none of the first {len(x):,} real samples is of class {k} with a valid "
                    "logit; give more samples, shuffle them, or raise starts"
                )
        begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return real, score[real], begins, groups.of_block(gan, rng.at(0), self.chain_length)

    def _choice(
        self, gan: GAN, state: MHState, batch: Batch, first: Tensor, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        """Which real sample every chain starts at, and whether it is the first to use it."""
        k = torch.zeros_like(first) if batch.y is None else batch.y[first]
        return _turn(state, k, *groups.turns(gan, rng, self.chain_length, len(first)))

    def _kept(
        self, gan: GAN, state: MHState, batch: Batch, still: Tensor, real: Tensor, rows: Tensor
    ) -> Batch:
        """The batch, with real samples in place of chains that never moved."""
        if not bool(still.any()):  # else real samples may have to be fetched from the host
            return batch
        x, z, logit = self._started(gan, state, batch.x, batch.z, batch.logit, still, real)
        return replace(batch, x=x, z=z, logit=logit, ids=torch.where(still, ~rows, batch.ids))

    def remade(
        self,
        gan: GAN,
        state: MHState,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        found, still = remade.of_rows(gan, torch.maximum(ids, ~ids), y, rng, judged), ids < 0
        if not bool(still.any()):
            return found
        k = torch.zeros_like(ids) if y is None else y
        numbers = groups.turns_of(gan, rng, self.chain_length, ~ids[still])
        real = torch.zeros_like(ids)
        real[still], _ = _turn(state, k[still], *numbers)
        logit = state.scores[real] if found.logit is None else found.logit
        x, z, logit = self._started(gan, state, found.x, found.z, logit, still, real)
        return Remade(x, z, logit if judged else None)

    def _started(
        self,
        gan: GAN,
        state: MHState,
        x: Tensor,
        z: Tensor,
        logit: Tensor,
        still: Tensor,
        real: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, z and logits with real samples (n,) in place of generated ones where `still`."""
        x = x.clone()
        starts, _ = gan.real_samples(self._most(gan), state.real[real[still]])
        alike(starts, x)
        x[still] = starts.to(x.dtype)
        z = torch.where(still[:, None], torch.nan, z)
        return x, z, torch.where(still, state.scores[real], logit)


def _turn(state: MHState, k: Tensor, block: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """Which real sample chains start at, and whether they are the first to use it.

    k (n,): their classes. block, rank: as from `groups.turns`.
    """
    begin, chains = state.begins[k], state.chains_of_block[k]
    size, turn = state.begins[k + 1] - begin, block * chains + rank
    # A block may have more chains of a class than the first block: they use the next's.
    return begin + turn % size, (turn < size) & (rank < chains)
