"""The shared types: named random numbers, a batch of samples, and what a sampler is."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from drs_fast.arguments import integer

if TYPE_CHECKING:
    from drs_fast.gan import GAN

RNG_VERSION = 1
LATENT, ACCEPT, SELECT, CHAIN, NOISE, LABEL, AUDIT, FITTING, REAL, PROPOSAL = range(10)
BURN_IN_ROW = 2**62  # no run comes here
TRAINING_ROW = BURN_IN_ROW + 2**61  # of latents that networks are trained on
HELD_OUT_ROW = TRAINING_ROW + 2**60  # and of those that they are tested and calibrated on
PROBE_ROW = HELD_OUT_ROW + 2**59  # and of those that tell whether a run goes on in the same numbers


@dataclass(frozen=True)
class Rng:
    """Names random numbers: the row's words are a pure function of (seed, row, stream, draw).

    Nothing is consumed: using the same Rng twice gives the same numbers.
    0 <= seed < 2^64; 0 <= row < 2^63 is the number of the first proposal.
    """

    seed: int
    row: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", integer("seed", self.seed, 0, 2**64))
        object.__setattr__(self, "row", integer("row", self.row, 0, 2**63))

    @property
    def signed_seed(self) -> int:
        """The seed's 64 bits as a signed integer."""
        return self.seed - 2**64 if self.seed >= 2**63 else self.seed

    def at(self, row: int) -> "Rng":
        """The same seed, another first row."""
        return Rng(self.seed, row)


@dataclass(frozen=True)
class Batch:
    """Samples: rows [0, count) of every tensor.

    They come in the order of their groups of rows, and within a group in that in which it gives
    them: by row for rejection, as they were drawn for SIR.
    """

    x: Tensor  # (N, ...)
    z: Tensor  # (N, d)
    y: Tensor | None  # (N,) int64 with labels
    logit: Tensor  # (N,) float32
    ids: Tensor  # (N,) int64; ~row where a chain that begins at that row kept its real start
    count: Tensor  # () int64
    stats: dict[str, Tensor]  # 0-d tensors


def last_row(ids: Tensor) -> int:
    """The largest row that ids name, -1 without any."""
    return int(torch.maximum(ids, ~ids).max()) if len(ids) else -1


class Sampler(Protocol):
    """A frozen dataclass, all fields with defaults; tensors live in the state.

    A sampler may also have
    appending(gan, state, ring, names): returns a function of (z, y) that does what `step` does for
        the ring's next rows, and adds the named ones of x, z and y;
    tallies: names of whole numbers in the batches' stats that are summed up over a run;
    energy: True where any critic's score will do; otherwise a log density ratio is needed;
    rows(gan, state, rng, n), span(state): what `step` does for n rows whose latents it draws
        itself, and how many rows it takes for one that G and D see;
    choice(state), remark(state): which sampler to run with which state after burn-in, and why;
    measured(state, tallies), note(state, tallies), check(state, tallies), warning(tallies): what
        tallies say, to the manifest and stats (with `calls` among them), in a few words, an error
        where a run may not go on, and what the user should hear;
    capped_at(state): the log_m above which `ratio.clipped` adds up what the samples miss;
    proposing(gan, state): the GAN with labels as often as a run proposes them, which is another one
        where every class is to have its quota of the samples;
    functions, data(gan): what its samples depend on beside plain fields and the networks; a run on
        disk knows their sha256.
    """

    State: ClassVar[Any]  # a named tuple of tensors
    law_version: ClassVar[int]  # raised when other samples come out of the same fields

    @property
    def group(self) -> int:
        """Rows that belong together: 1 for rejection, K where K candidates compete."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether the state changes from step to step, so that rows must be taken in order."""
        ...

    @property
    def law(self) -> str:
        """ "data" if the output follows p_data when the logit is exact, else what it follows."""
        ...

    def init(self, gan: "GAN", rng: Rng) -> Any:
        """Burn-in: everything that changes the law is found here and frozen."""
        ...

    def step(
        self, gan: "GAN", state: Any, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[Any, Batch]:
        """N latents in (rows rng.row, rng.row + 1, ...), at most N finished rows out."""
        ...


class BadLogits(RuntimeError):
    """The discriminator's output cannot be sampled from."""


class Stale(RuntimeError):
    """The bound of a squeezed run loses too much; `partial` holds the samples of one in memory."""

    partial: Batch | None = None


class Starvation(RuntimeError):
    """Too few accepted rows; `partial` holds the samples of a run in memory."""

    partial: Batch | None = None


MAX_INVALID_SHARE = 1e-4


def check_invalid(invalid: int, rows: int) -> None:
    """Raises BadLogits when more than 0.01 % of the logits are NaN or +inf, chance allowed for."""
    expected = MAX_INVALID_SHARE * max(rows, 10_000)
    if invalid > expected + 2.0 * math.sqrt(expected):
        raise BadLogits(
            f"{invalid:,} of {rows:,} logits are NaN or +inf, more than {MAX_INVALID_SHARE:.2%}; "
            "run G and D in float32, and look for overflow, for a sigmoid that reaches 1, or for "
            "link='probability' where D returns logits"
        )
