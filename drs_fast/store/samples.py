"""Reads the samples of a run from its shards, lazily."""

import operator
from bisect import bisect_right
from collections.abc import Callable, Mapping
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from drs_fast.core import last_row
from drs_fast.core.columns import COLUMNS
from drs_fast.store import seconds
from drs_fast.store.format import Conflict, Corrupt, Record, read_records, shard_name
from drs_fast.store.manifest import Manifest, read_manifest
from drs_fast.store.tensors import Layout, Tensors, check_rows, open_shard, read_state

OPEN_SHARDS = 64
IMAGES = {"uint8": torch.uint8, "float16": torch.float16}
TELLING = ("ids", "logit", "y", "weight")  # the columns that weights are found from
Weigh = Callable[[Mapping[str, Tensor]], Tensor]


def _unweighted(samples: "Samples") -> Weigh:
    raise ValueError(f"{samples.path} was opened without weights; use drs.open")


def open_run(
    path: str | PathLike[str], weights_of: "Callable[[Samples], Weigh]" = _unweighted
) -> "Samples":
    """Opens the samples that `generate` wrote to a directory, finished or not.

    weights_of: gives a function from columns of the samples to their weights.
    """
    return Samples(path, weights_of)


class Samples(Dataset[dict[str, Tensor]]):
    """The samples of a run, in its order, read from the shards when they are asked for.

    samples[i] is a dict of the tensors of row i. The columns .ids, .logit, .x, .z and .y take
    integers, slices, boolean masks and 1-d integer indices, and return tensors.
    An unfinished run shows the samples up to the first missing chunk.
    """

    def __init__(
        self, path: str | PathLike[str], weights_of: "Callable[[Samples], Weigh]" = _unweighted
    ) -> None:
        self.path = Path(path).absolute()
        self._weights_of = weights_of
        self.manifest, records = _read(self.path)
        self.records: list[Record] = []  # of the shards up to the first missing one
        while len(self.records) in records:
            self.records.append(records[len(self.records)])
        self.counts = [record.count for record in self.records]
        self.ends = list(accumulate(self.counts))
        if self.manifest["complete"] and len(self) != self.manifest["n"]:
            raise Corrupt(
                f"{self.path} must hold {self.manifest['n']} samples, got {len(self)}; run the "
                "command that made it again to make the missing ones"
            )
        self._files: dict[int, tuple[int, Tensors]] = {}
        self._row: Layout = {}  # the rows that every shard must have
        if self.counts:
            self._row = self.shard(0).rows
        saved = {"ids", *self._row, *self.manifest["save"]}
        self.columns = tuple(name for name in COLUMNS if name in saved)

    @property
    def seconds(self) -> dict[str, float]:
        """What the time of all calls that wrote to the run was spent on; see `Batch.seconds`."""
        return seconds.read(self.path)

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return {name: self.column(name)[index] for name in self.columns}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The rows of one DataLoader batch; each column is read once."""
        batch = self[indices]
        return [{name: rows[i] for name, rows in batch.items()} for i in range(len(indices))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    @property
    def ids(self) -> "Column":
        """Row numbers, int64, increasing except within a group; ~row for a kept real sample."""
        return self.column("ids")

    @property
    def logit(self) -> "Column":
        """The critic's logits, float32, in nats."""
        return self.column("logit")

    @property
    def x(self) -> "Column":
        """The samples, in the generator's dtype or that of `images`."""
        return self.column("x")

    @property
    def z(self) -> "Column":
        """Their latents, float32."""
        return self.column("z")

    @property
    def y(self) -> "Column":
        """Their labels, int64."""
        return self.column("y")

    @property
    def weight(self) -> "Column":
        """How much each sample counts in the law of the data, float64; found when it is read.

        exp(logit - L) over the probability with which such a row was accepted, with one L for all.
        ValueError if the sampler's law is not known, or what tells the weights was not saved; when
        read, if a logit is over 700 above log_m.
        """
        self._check_begun()
        return Weight(self, self._weights_of(self))

    @property
    def state(self) -> dict[str, Tensor]:
        """What the sampler found in burn-in. Corrupt if the file is damaged."""
        self._check_begun()
        return read_state(self.path, self.manifest)[0]

    def column(self, name: str) -> "Column":
        """A column by name. AttributeError if the run did not save it."""
        if name not in self.columns:
            saved = [column for column in self.columns if column not in ("ids", "y")]
            raise AttributeError(
                f"{self.path} holds {', '.join(self.columns)}, not {name}: "
                f"generate again with --save {','.join([*saved, name])}"
            )
        return self.weight if name == "weight" else Column(self, name)

    def telling(self, chunk: int) -> dict[str, Tensor]:
        """The columns of a chunk that tell the weights of its samples."""
        shard, count = self.shard(chunk), self.counts[chunk]
        return {name: shard.tensor(name)[:count] for name in TELLING if name in shard.rows}

    def shard(self, chunk: int) -> Tensors:
        """The open file of a chunk. Corrupt if it is damaged, or unlike the first shard."""
        path = self.path / shard_name(chunk)
        size, file = self._files.get(chunk, (-1, None))
        try:
            # A file that became shorter is not read through its old mapping, which would kill the
            # process. A file that was replaced, by a longer run, holds the same rows.
            now = path.stat().st_size
        except OSError:
            now = size
        if file is None or now != size:
            file = self._opened(path, self.records[chunk], now)
            if self._row:
                check_rows(file, self._row, "the first shard", "`drs-fast verify` says more")
            if len(self._files) >= OPEN_SHARDS:
                self._files.pop(next(iter(self._files)), None)
            self._files[chunk] = now, file
        return file

    def _opened(self, path: Path, record: Record, size: int) -> Tensors:
        """Opens a shard of the run, which may have been extended since.

        Then what was its last shard may hold more rows, after those that it held. Where classes
        have quotas, any shard may hold more, and in between.
        """
        n = read_manifest(self.path)["n"] if size > record.size else self.manifest["n"]
        extended = n > self.manifest["n"]
        file = open_shard(path, record.count, or_more=extended)
        if not extended:
            return file
        if last_row(file.tensor("ids")[: record.count]) != record.counters["last_row"]:
            raise Conflict(
                f"{self.path} was opened before it was extended from {self.manifest['n']:,} to "
                f"{n:,} samples, and classes have other samples now; open it again"
            )
        return file

    def _check_begun(self) -> None:
        """Conflict if the run was opened before its burn-in ended."""
        if "state_sha256" not in self.manifest:
            raise Conflict(
                f"{self.path} was opened before its burn-in ended; run the command that made it "
                "again unless it still runs, then open it again"
            )


def _read(directory: Path) -> tuple[Manifest, dict[int, Record]]:
    """The manifest and the records that belong to it, though a writer may change both."""
    while True:
        manifest = read_manifest(directory)
        records, _ = read_records(directory, manifest.get("chunk_rows"))
        if read_manifest(directory) == manifest:
            return manifest, records


class Column:
    """One tensor of every sample, used like a tensor: len, shape, dtype and rows by index."""

    def __init__(self, samples: Samples, name: str) -> None:
        self._samples = samples
        self._name = name
        if samples.counts:
            self._empty = self._rows(0)[:0].clone()
        else:
            made = IMAGES.get(samples.manifest.get("images", ""), torch.float32)
            self._empty = torch.empty(0, dtype=COLUMNS[name].dtype or made, device="cpu")

    def __len__(self) -> int:
        return len(self._samples)

    def __repr__(self) -> str:
        return f"<{self._name} of {self._samples.path}: {tuple(self.shape)} {self.dtype}, lazy>"

    @property
    def shape(self) -> torch.Size:
        """The shape of column[:]."""
        return torch.Size([len(self), *self._empty.shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of column[:]."""
        return self._empty.dtype

    def __getitem__(self, index: Any) -> Tensor:
        if isinstance(index, slice):
            rows = range(len(self))[index]
            if rows.step == 1 or not rows:
                return self._span(rows.start, max(rows.start, rows.stop))
            return self._gather(torch.arange(rows.start, rows.stop, rows.step, device="cpu"))
        if not isinstance(index, (Tensor, list)) and not hasattr(index, "__array__"):
            row = range(len(self))[operator.index(index)]
            return self._span(row, row + 1)[0]
        picked = torch.as_tensor(index, device="cpu")
        if picked.dtype == torch.bool and picked.shape == (len(self),):
            return self._gather(picked.nonzero().flatten())
        if picked.numel() == 0 and picked.ndim == 1:
            return self._span(0, 0)
        if picked.ndim > 1 or picked.is_floating_point() or picked.dtype == torch.bool:
            raise TypeError(
                f"an index must be an integer, a slice, a mask of {len(self)} or 1-d integers, got "
                f"{tuple(picked.shape)} {picked.dtype}"
            )
        if picked.ndim == 0:
            return self[int(picked)]
        if picked.min() < -len(self) or picked.max() >= len(self):
            raise IndexError(f"rows must be in [-{len(self)}, {len(self)})")
        return self._gather(picked.long() % len(self))

    def _rows(self, chunk: int) -> Tensor:
        return self._samples.shard(chunk).tensor(self._name)

    def _span(self, start: int, stop: int) -> Tensor:
        ends = self._samples.ends
        made = self._empty.new_empty((stop - start, *self._empty.shape[1:]))
        row = start
        while row < stop:
            chunk = bisect_right(ends, row)
            first = ends[chunk] - self._samples.counts[chunk]
            end = min(stop, ends[chunk])
            made[row - start : end - start] = self._rows(chunk)[row - first : end - first]
            row = end
        return made

    def _gather(self, rows: Tensor) -> Tensor:
        made = self._empty.new_empty((len(rows), *self._empty.shape[1:]))
        ends = torch.tensor(self._samples.ends, device="cpu")
        chunks, order = torch.bucketize(rows, ends, right=True).sort()
        present, sizes = torch.unique_consecutive(chunks, return_counts=True)
        for chunk, places in zip(present.tolist(), torch.split(order, sizes.tolist()), strict=True):
            first = self._samples.ends[chunk] - self._samples.counts[chunk]
            made[places] = self._rows(chunk)[rows[places] - first]
        return made


class Weight(Column):
    """The weights, found from other columns."""

    def __init__(self, samples: Samples, weigh: Weigh) -> None:
        self._samples, self._name, self._weigh = samples, "weight", weigh
        self._empty = torch.empty(0, dtype=COLUMNS["weight"].dtype, device="cpu")

    def _rows(self, chunk: int) -> Tensor:
        return self._weigh(self._samples.telling(chunk))
