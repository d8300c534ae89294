"""The columns of a run, used like tensors, and what reads rows of several at once."""

import operator
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drs_fast.core.columns import COLUMNS

if TYPE_CHECKING:
    from drs_fast.store.samples import Samples

IMAGES = {"uint8": torch.uint8, "float16": torch.float16}
Weigh = Callable[[Mapping[str, Tensor]], Tensor]


class Column:
    """One tensor of every sample, used like a tensor: len, shape, dtype and rows by index."""

    def __init__(self, samples: "Samples", name: str) -> None:
        self.samples = samples
        self._name = name
        if samples.counts:
            self._empty = self.rows(0)[:0].clone()
        else:
            made = IMAGES.get(samples.manifest.get("images", ""), torch.float32)
            self._empty = torch.empty(0, dtype=COLUMNS[name].dtype or made, device="cpu")

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"<{self._name} of {self.samples.path}: {tuple(self.shape)} {self.dtype}, lazy>"

    @property
    def shape(self) -> torch.Size:
        """The shape of column[:]."""
        return torch.Size([len(self), *self._empty.shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of column[:]."""
        return self._empty.dtype

    def __getitem__(self, index: Any) -> Tensor:
        return read([self], index)[0]

    def rows(self, chunk: int) -> Tensor:
        """All rows of a chunk; after those that belong to the samples there may be others."""
        return self.samples.shard(chunk).tensor(self._name)

    def span(self, start: int, stop: int) -> Tensor:
        """The rows from start to stop."""
        ends = self.samples.ends
        made = self.empty(stop - start)
        row = start
        while row < stop:
            chunk = bisect_right(ends, row)
            first = ends[chunk] - self.samples.counts[chunk]
            end = min(stop, ends[chunk])
            made[row - start : end - start] = self.rows(chunk)[row - first : end - first]
            row = end
        return made

    def empty(self, n: int) -> Tensor:
        """Space for n rows."""
        return self._empty.new_empty((n, *self._empty.shape[1:]))


class Weight(Column):
    """The weights, found from other columns."""

    def __init__(self, samples: "Samples", weigh: Weigh) -> None:
        self.samples, self._name, self._weigh = samples, "weight", weigh
        self._empty = torch.empty(0, dtype=COLUMNS["weight"].dtype, device="cpu")

    def rows(self, chunk: int) -> Tensor:
        return self._weigh(self.samples.telling(chunk))


def read(columns: Sequence[Column], index: Any) -> list[Tensor]:
    """The rows of some columns of the same samples that the index names."""
    rows = _named(index, len(columns[0])) if columns else 0
    if isinstance(rows, int):
        return [column.span(rows, rows + 1)[0] for column in columns]
    if isinstance(rows, range):
        return [column.span(rows.start, rows.stop) for column in columns]
    return _gathered(columns, rows)


def _named(index: Any, n: int) -> int | range | Tensor:
    """The row, the range of rows or the rows that an index of n samples names."""
    if isinstance(index, slice):
        rows = range(n)[index]
        if rows.step == 1 or not rows:
            return range(rows.start, max(rows.start, rows.stop))
        return torch.arange(rows.start, rows.stop, rows.step, device="cpu")
    if not isinstance(index, (Tensor, list)) and not hasattr(index, "__array__"):
        return range(n)[operator.index(index)]
    picked = torch.as_tensor(index, device="cpu")
    if picked.dtype == torch.bool and picked.shape == (n,):
        return picked.nonzero().flatten()
    if picked.numel() == 0 and picked.ndim == 1:
        return range(0)
    if picked.ndim > 1 or picked.is_floating_point() or picked.dtype == torch.bool:
        raise TypeError(
            f"an index must be an integer, a slice, a mask of {n} or 1-d integers, got "
            f"{tuple(picked.shape)} {picked.dtype}"
        )
    if picked.ndim == 0:
        return range(n)[int(picked)]
    if picked.min() < -n or picked.max() >= n:
        raise IndexError(f"rows must be in [-{n}, {n})")
    return picked.long() % n


def _gathered(columns: Sequence[Column], rows: Tensor) -> list[Tensor]:
    """These rows (n,), shard by shard, so that a shard is opened once for all columns."""
    samples = columns[0].samples
    ordered, order = rows.sort()
    ends = torch.tensor(samples.ends, device="cpu")
    chunks, sizes = torch.unique_consecutive(
        torch.bucketize(ordered, ends, right=True), return_counts=True
    )
    found = [column.empty(len(rows)) for column in columns]
    start = 0
    for chunk, size in zip(chunks.tolist(), sizes.tolist(), strict=True):
        here = slice(start, start + size)
        own = ordered[here] - (samples.ends[chunk] - samples.counts[chunk])
        for column, made in zip(columns, found, strict=True):
            made[order[here]] = column.rows(chunk)[own]
        start += size
    return found
