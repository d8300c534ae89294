"""Named random numbers."""

from dataclasses import dataclass

from drs_fast.core.arguments import integer


@dataclass(frozen=True)
class Rng:
    """Names random numbers: a row's words are a pure function of (seed, row, stream, draw).

    Nothing is consumed: using the same Rng twice gives the same numbers.
    0 <= seed < 2^64. 0 <= row < 2^63 is the number of the first proposal.
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
        """The same seed with another first row."""
        return Rng(self.seed, row)
