"""Reads the samples of a run from its shards, lazily."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from drs_fast.core import last_row
from drs_fast.core.columns import COLUMNS, SAVEABLE
from drs_fast.core.words import counted
from drs_fast.store import seconds
from drs_fast.store.columns import Column, Weigh, Weight, read
from drs_fast.store.format import (
    Conflict,
    Corrupt,
    Record,
    read_records,
    shard_name,
    workers,
)
from drs_fast.store.manifest import Manifest, read_manifest
from drs_fast.store.tensors import Layout, Tensors, check_rows, open_shard, read_state

if TYPE_CHECKING:
    from drs_fast.gan import GAN
    from drs_fast.run.materialized import Materialized

OPEN_SHARDS = 64
SMALL_ROWS = 2**12  # in fewer, a call takes longer than its work
TELLING = ("ids", "logit", "y", "weight")  # the columns that weights are found from
Make = Callable[["Samples", "GAN", torch.device | str | None], "Materialized"]


def _unweighted(samples: "Samples") -> Weigh:
    raise ValueError(f"{samples.path} was opened without weights; use drs.open")


def _unmade(samples: "Samples", gan: "GAN", device: torch.device | str | None) -> "Materialized":
    raise ValueError(f"{samples.path} was opened without what makes samples again; use drs.open")


def open_run(
    path: str | PathLike[str],
    weights_of: "Callable[[Samples], Weigh]" = _unweighted,
    made_again: Make = _unmade,
) -> "Samples":
    """Opens the samples that `generate` wrote to a directory, finished or not.

    weights_of: gives a function from columns of the samples to their weights.
    made_again: what `materialize` does.
    """
    return Samples(path, weights_of, made_again)


class Samples(Dataset[dict[str, Tensor]]):
    """The samples of a run, in its order, read from the shards when they are asked for.

    samples[i] is a dict of the tensors of row i. The columns .ids, .logit, .x, .z and .y take
    integers, slices, boolean masks and 1-d integer indices, and return tensors.
    An unfinished run shows the samples up to the first missing chunk, and at most n.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        weights_of: "Callable[[Samples], Weigh]" = _unweighted,
        made_again: Make = _unmade,
    ) -> None:
        self.path = Path(path).absolute()
        self._weights_of, self._made_again = weights_of, made_again
        self.manifest, records = _read(self.path)
        self.records: list[Record] = []  # of the shards up to the first missing one
        self.counts: list[int] = []  # samples in them
        room = self.manifest["n"]
        # Workers write whole chunks, and what lies beyond n is dropped when the run ends.
        while (chunk := len(self.records)) in records and room > 0:
            self.records.append(records[chunk])
            self.counts.append(min(room, records[chunk].count))
            room -= self.counts[-1]
        self.ends = list(accumulate(self.counts))
        if self.manifest["complete"] and len(self) != self.manifest["n"]:
            raise Corrupt(
                f"{self.path} must hold {counted(self.manifest['n'], 'sample')}, got "
                f"{len(self):,}; run the command that made it again to make the missing ones"
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

    def __repr__(self) -> str:
        facts = self.manifest
        n = f"{len(self):,}" + ("" if facts["complete"] else f" of {facts['n']:,}")
        made = f"{facts.get('model', 'a GAN')} by {facts['sampler']['name']}"
        state = "" if facts["complete"] else ", unfinished"
        return f"<run {self.path}: {n} samples of {made}{state}; {', '.join(self.columns)}>"

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return self.read(self.columns, index)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        """The rows of one DataLoader batch; each shard is opened once."""
        batch = self[indices]
        return [{name: rows[i] for name, rows in batch.items()} for i in range(len(indices))]

    def read(self, names: Sequence[str], index: Any) -> dict[str, Tensor]:
        """Some columns of the rows that the index names."""
        rows = read([self.column(name) for name in names], index)
        return dict(zip(names, rows, strict=True))

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

    def materialize(
        self, gan: "GAN", *, device: torch.device | str | None = None
    ) -> "Materialized":
        """These samples with x and z made again, by the GAN that the run was made with.

        So a run needs to keep only ids and logits: save=("logit",). On the device and the versions
        of PyTorch and the model's code that the run had, x and z have the bits of the run.
        ValueError if the sampler moves samples, which then must be saved; Conflict if the GAN is
        another, or gives logits too far from the saved ones. Logits of 256 samples are compared;
        where they differ by less, a warning says by how much.
        """
        self._check_begun()
        return self._made_again(self, gan, device)

    def column(self, name: str) -> "Column":
        """A column by name. AttributeError if the run did not save it."""
        if name not in self.columns:
            raise AttributeError(
                f"{self.path} holds {', '.join(self.columns)}, not {name}: {self._cure(name)}"
            )
        return self.weight if name == "weight" else Column(self, name)

    def _cure(self, name: str) -> str:
        """How to have a column that the run does not hold."""
        if name == "y":
            return "its GAN has no labels"
        if name not in SAVEABLE:
            return f"columns are {', '.join(COLUMNS)}"
        saved = tuple(column for column in SAVEABLE if column in (*self.columns, name))
        again = ",".join([*(each for each in self.columns if each in saved), name])
        made = "; or make it again with .materialize(gan)" if name in ("x", "z") else ""
        return f"generate again with --save {again}, in Python save={saved!r}{made}"

    def telling(self, chunk: int) -> dict[str, Tensor]:
        """The columns of a chunk that tell the weights of its samples."""
        shard, count = self.shard(chunk), self.counts[chunk]
        return {name: shard.tensor(name)[:count] for name in TELLING if name in shard.rows}

    def all_telling(self) -> Iterator[dict[str, Tensor]]:
        """Yields them in order, those of small shards joined; keeps no file and its pages open."""
        parts: list[dict[str, Tensor]] = []
        rows = 0
        for chunk, count in enumerate(self.counts):
            parts.append({name: part.clone() for name, part in self.telling(chunk).items()})
            rows += count
            self._files.pop(chunk, None)
            if rows >= SMALL_ROWS or chunk + 1 == len(self.counts):
                yield {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                parts, rows = [], 0

    def shard(self, chunk: int) -> Tensors:
        """The open file of a chunk. Corrupt if it is damaged, or unlike the first shard."""
        path = os.path.join(self.path, shard_name(chunk))  # in a tenth of the time of a Path
        size, file = self._files.get(chunk, (-1, None))
        try:
            # A file that became shorter is not read through its old mapping, which would kill the
            # process. A file that was replaced, by a longer run, holds the same rows.
            now = os.stat(path).st_size
        except OSError:
            now = size
        if file is None or now != size:
            file = self._opened(Path(path), chunk, now)
            if self._row:
                check_rows(file, self._row, "the first shard", "`drs-fast verify` says more")
            if len(self._files) >= OPEN_SHARDS:
                self._files.pop(next(iter(self._files)), None)
            self._files[chunk] = now, file
        return file

    def _opened(self, path: Path, chunk: int, size: int) -> Tensors:
        """Opens a shard of the run, which may have been ended or extended since.

        Then what was its last shard may hold more rows, after those that it held. Where classes
        have quotas, any shard may hold more, and in between.
        """
        record, count = self.records[chunk], self.counts[chunk]
        if count < record.count:
            return open_shard(path, count, or_more=True)
        n = read_manifest(self.path)["n"] if size > record.size else self.manifest["n"]
        extended = n > self.manifest["n"]
        file = open_shard(path, record.count, or_more=extended)
        if not extended:
            return file
        if last_row(file.tensor("ids")[: record.count]) != record.counters["last_row"]:
            raise Conflict(
                f"{self.path} was opened before it was extended from {self.manifest['n']:,} to "
                f"{counted(n, 'sample')}, and classes have other samples now; open it again"
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
        before = workers(directory)
        records, _ = read_records(directory, manifest.get("chunk_rows"))
        if read_manifest(directory) == manifest and workers(directory) == before:
            return manifest, records
