"""Unweights a table in a file, in batches: first finds what is kept, then writes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

from torch import Tensor

from drs_fast.core import Rng, Starvation
from drs_fast.core.arguments import integer, number
from drs_fast.store.folder import make_directory
from drs_fast.store.replaced import written
from drs_fast.unweighting.decision import Decision, Selection
from drs_fast.unweighting.maximum import check, log_maximum
from drs_fast.unweighting.numpy_files import Archive, Structured
from drs_fast.unweighting.parquet import Parquet
from drs_fast.unweighting.unweight import checked_share


class Table(Protocol):
    """A file of rows and named columns, read in batches."""

    columns: list[str]

    def log_weights(self, column: str) -> Iterator[Tensor]: ...

    def write(self, path: Path, selection: Selection) -> None: ...


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
    above: int  # of those, with a log weight above log_max
    log_max: float


def unweight_file(
    file: str | PathLike[str],
    log_weight: str,
    out: str | PathLike[str],
    *,
    weight: str | None = None,
    seed: int = 0,
    log_max: float | None = None,
    max_overweight: float = 1e-3,
    n: int | None = None,
) -> Summary:
    """Like `unweight` for a Parquet, .npz or .npy file, whose rows are numbered in its order.

    log_weight: a column. weight: a column of overweights to add; None adds none.
    Starvation if fewer than n rows are accepted. Nothing is written unless everything is.
    """
    source, target = Path(file), Path(out)
    _check_target(source, target)
    share, rng = checked_share(max_overweight), Rng(seed)
    wanted = None if n is None else integer("n", n, 0)
    table = _opened(source)
    _check_columns(source, table.columns, log_weight, weight)
    if log_max is None:
        highest = log_maximum(lambda: table.log_weights(log_weight), share)
    else:
        highest = number("log_max", log_max, float("-inf"), float("inf"))
    decision = Decision(rng.seed, highest)
    summary = _counted(table.log_weights(log_weight), decision, wanted)
    if wanted is not None and summary.count < wanted:
        raise Starvation(
            f"{summary.count:,} of {summary.rows:,} rows were accepted, fewer than {wanted:,}; "
            "leave -n out, or raise --max-overweight"
        )
    stop = decision.stop if wanted is None else summary.rows
    selection = Selection(Decision(rng.seed, highest, stop), summary.count, log_weight, weight)
    make_directory(target.absolute().parent)
    with written(target) as temporary:
        table.write(temporary, selection)
    return summary


def _counted(batches: Iterator[Tensor], decision: Decision, wanted: int | None) -> Summary:
    """What the decision keeps, up to the row that makes the wanted number full."""
    row = count = above = 0
    for log_weight in batches:
        if count == wanted:
            break
        check(log_weight, row)
        kept = decision.keeps(log_weight, row)
        if wanted is not None and count + int(kept.sum()) >= wanted:
            last = int(kept.nonzero()[wanted - count - 1, 0])
            log_weight, kept = log_weight[: last + 1], kept[: last + 1]
        row, count = row + len(kept), count + int(kept.sum())
        above += int((log_weight.double() > decision.log_m).sum())
    return Summary(row, count, above, decision.log_max)


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
    if target.exists():
        raise ValueError(f"{target} exists; choose another name, or delete it first")
    if target.suffix != source.suffix:
        raise ValueError(f"{target} must end with {source.suffix!r}, as {source} does")


def _check_columns(file: Path, columns: list[str], log_weight: str, weight: str | None) -> None:
    found = columns.count(log_weight)
    if found != 1:
        there = ", ".join(columns) or "none"
        raise ValueError(f"{file} has {found} columns {log_weight!r}; its columns are: {there}")
    if weight is not None and weight in columns:
        raise ValueError(f"{file} has a column {weight!r}; choose another name for the weights")
    if weight == "":
        raise ValueError("the column of weights needs a name, got ''")
