"""What a format is: into which files rows go, and how one file is written."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drs_fast.exporting.source import Piece, Source

IMAGES_A_FILE, ROWS_A_FILE = 10_000, 1_000_000
Pieces = Callable[..., Iterator[Any]]  # what `made` gives of the columns that are named


def rows_a_file(source: Source) -> int:
    """Rows of a file, where a format has several."""
    wide = "x" in source.rows and len(source.rows["x"].shape) > 1
    return IMAGES_A_FILE if wide else ROWS_A_FILE


@dataclass(frozen=True)
class Part:
    """A file, or a folder that appears at once, and its rows. shows: the bar counts its rows."""

    name: str
    start: int
    stop: int
    shows: bool = True


class Format(ABC):
    """How samples are laid out in files. facts: the metadata, which every format stores.

    suffix: of a target that is one file. folder: whether a target may be a folder.
    pictures: "never", "always" or "where possible" x becomes uint8 images.
    """

    suffix: ClassVar[str] = ""
    folder: ClassVar[bool] = True
    pictures: ClassVar[str] = "never"
    holds: ClassVar[tuple[str, ...]] = ("x", "z", "logit", "weight")
    needs: ClassVar[tuple[str, ...]] = ()  # modules, and what pip installs them with

    def __init__(self, source: Source, facts: dict[str, Any], rows_per_file: int) -> None:
        self.source, self.facts, self.rows_per_file = source, facts, rows_per_file

    def parts(self, target: Path) -> list[Part]:
        """The files, which are written in any order. target: the only one, or their folder."""
        ranges = self._ranges()
        return [
            Part(self.name(number, len(ranges)), start, stop)
            for number, (start, stop) in enumerate(ranges)
        ]

    def last(self) -> list[Part]:
        """Files that are written once the others are there, in this order."""
        return []

    def name(self, number: int, count: int) -> str:
        """The name of a file among so many."""
        raise NotImplementedError

    @abstractmethod
    def write(self, path: Path, part: Part, pieces: Pieces) -> None:
        """Writes a part to this path."""

    def made(self, piece: Piece) -> Any:
        """What threads make of a piece before it is written."""
        return piece

    def facts_in(self, path: Path) -> object:
        """The facts that a target of one file holds; None if there are none."""
        raise NotImplementedError

    def _whole(self, name: str) -> Part:
        return Part(name, 0, self.source.n)

    def _ranges(self) -> list[tuple[int, int]]:
        n, step = self.source.n, self.rows_per_file
        return [(row, min(n, row + step)) for row in range(0, n, step)]
