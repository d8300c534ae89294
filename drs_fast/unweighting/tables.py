"""Unweights a table in a file, in batches: first finds log_max, then decides and writes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

from torch import Tensor

from drs_fast.core import Rng, Starvation
from drs_fast.core.arguments import integer
from drs_fast.core.words import counted
from drs_fast.store import Corrupt
from drs_fast.store.folder import make_directory
from drs_fast.store.once import written
from drs_fast.unweighting.decision import Decision, Selection, Tally
from drs_fast.unweighting.numpy_files import Archive, Structured
from drs_fast.unweighting.parquet import Parquet
from drs_fast.unweighting.unweight import limit


class Table(Protocol):
    """A file of rows and named columns, read in batches."""

    columns: list[str]

    def check(self, column: str) -> None: ...

    def log_weights(self, column: str) -> Iterator[Tensor]: ...

    def write(self, path: Path, selection: Selection) -> Tally: ...


KINDS: dict[bytes, type[Table]] = {
    b"PAR1": Parquet,
    b"\x93NUMPY": Structured,
    b"PK\x03\x04": Archive,
    b"PK\x05\x06": Archive,  # with nothing in it
}


@dataclass(frozen=True)
class Summary:
    """What was done."""

    rows: int  # that were decided on
    count: int  # that were kept
    above: int  # of the rows, with a log weight above log_max
    excess: float  # the share of the weight that lies above log_max
    log_max: float


def unweight_file(
    file: str | PathLike[str],
    log_weight: str,
    out: str | PathLike[str],
    *,
    weight: str | None = None,
    seed: int = 0,
    log_max: float | None = None,
    max_overweight: float | None = None,
    n: int | None = None,
) -> Summary:
    """Like `unweight` for a Parquet, .npz or .npy file, whose rows are numbered in its order.

    log_weight: a column. weight: a column of overweights to add; None adds none.
    Starvation if fewer than n rows are accepted. Nothing is written unless everything is.
    """
    source, target = Path(file), Path(out)
    _check_target(source, target)
    rng, wanted = Rng(seed), None if n is None else integer("n", n, 0)
    find = limit(log_max, max_overweight)
    before, table = _version(source), _opened(source)  # in this order, or a change goes unseen
    _check_columns(source, table.columns, log_weight, weight)
    table.check(log_weight)
    highest = find(lambda: table.log_weights(log_weight))
    selection = Selection(Decision(rng.seed, highest), wanted, log_weight, weight)
    make_directory(target.absolute().parent)
    with written(target) as temporary:
        tally = table.write(temporary, selection)
        if _version(source) != before:
            raise Corrupt(f"{source} was changed while it was read; run the command again")
        if wanted is not None and not tally.full:
            more = "raise --max-overweight" if log_max is None else "lower --log-max"
            raise Starvation(
                f"{tally.count:,} of {counted(tally.rows, 'row')} were accepted, fewer than "
                f"{wanted:,}; leave -n out, or {more}"
            )
    return Summary(tally.rows, tally.count, tally.above, tally.excess, highest)


def _version(file: Path) -> tuple[int, int, int]:
    """What changes with the content of a file."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _opened(file: Path) -> Table:
    with file.open("rb") as stream:
        head = stream.read(8)
    for sign, kind in KINDS.items():
        if head.startswith(sign):
            return kind(file)  # type: ignore[call-arg]
    raise ValueError(f"{file} must be a Parquet, .npz or .npy file; it begins with {head!r}")


def _check_target(source: Path, target: Path) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target} is the file to read; write to another")
    if os.path.lexists(target):
        raise ValueError(f"{target} exists; choose another name, or delete it first")
    if target.suffix != source.suffix:
        raise ValueError(f"{target} must end with {source.suffix!r}, as {source} does")


def _check_columns(file: Path, columns: list[str], log_weight: str, weight: str | None) -> None:
    found = columns.count(log_weight)
    if found != 1:
        many = f"{found} columns {log_weight!r}" if found else f"no column {log_weight!r}"
        raise ValueError(f"{file} has {many}; it has {', '.join(columns) or 'none'}")
    if weight is not None and weight in columns:
        raise ValueError(f"{file} has a column {weight!r}; choose another name for the weights")
    if weight == "":
        raise ValueError("the column of weights needs a name, got ''")
