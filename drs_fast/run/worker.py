"""One of several processes that write one run."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from drs_fast.core.arguments import integer

INTEGER = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class Worker:
    """Which of several processes this one is.

    number: from 1 to `of`. count: draws the numbers 0, 1, ... of a counter that all workers share,
    by which chunks are given out, and None once that is lost; without it worker k makes every
    `of`-th chunk. stays: it also makes what others owe, and waits for the end of the run, as it
    always does with a counter; else it leaves when others are still at theirs.
    """

    number: int
    of: int
    count: Callable[[], int | None] | None = None
    stays: bool = False

    def __post_init__(self) -> None:
        of = integer("the number of workers, after the slash,", self.of, 1)
        if not 1 <= self.number <= of:
            raise ValueError(f"worker must be from 1/{of} to {of}/{of}, got {self}")
        if self.count is not None:
            object.__setattr__(self, "stays", True)

    @classmethod
    def parsed(cls, text: "str | Worker") -> "Worker":
        """The worker of "2/8". ValueError for anything else."""
        if isinstance(text, Worker):
            return text
        parts = text.split("/") if isinstance(text, str) else []
        if len(parts) != 2 or not all(INTEGER.fullmatch(part) for part in parts):
            raise ValueError(f"worker must be like '2/8', the second of eight, got {text!r}")
        return cls(int(parts[0]), int(parts[1]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
