"""Endless samples for training and evaluation: a dataset, and a module in a generator's place.

A run's rows are cut into chunks. Process k of K tries chunks k, k + K, k + 2 K, ..., so no two
processes try the same row, and what each of them yields depends on k and K alone.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, get_worker_info

from drs_fast.core import BURN_IN_ROW, Batch, Sampler
from drs_fast.core.arguments import integer
from drs_fast.gan import GAN
from drs_fast.run import auto
from drs_fast.run.collected import Rows
from drs_fast.run.generate import streamed
from drs_fast.run.options import Options, Weights
from drs_fast.run.schedule import Run
from drs_fast.tune import tuning

CHUNK_ROWS = 2**18
Chunk = tuple[int, int, int]  # number, first row, end


class Begun(NamedTuple):
    """A run after burn-in, from which any process can go on at any chunk."""

    gan: GAN
    sampler: Sampler
    options: Options
    state: Any
    chunk_rows: int
    replays: bool  # whether what a row becomes depends on all rows before it

    def batches(self, chunks: Iterable[Chunk]) -> Iterator[Batch]:
        """Yields the samples of these chunks."""
        run = Run(self.gan, self.sampler, None, self.options)
        run.resume(self.state)
        return streamed(run, chunks)

    def chunks(self, k: int, of: int, row: int = 0) -> Iterator[Chunk]:
        """Yields the chunks of process k of so many, from a row on that is one of theirs or 0."""
        rows = self.chunk_rows
        first = row // rows + (k - row // rows) % of
        for chunk in range(first, BURN_IN_ROW // rows, of):
            yield chunk, max(row, chunk * rows), (chunk + 1) * rows


def begun(gan: GAN, sampler: Sampler, options: Options, ranks: int) -> Begun:
    """Does the burn-in of a run without end, as each of so many processes does."""
    run = Run(gan, sampler, None, replace(options, tune=()) if _auto(options) else options)
    if _auto(options):
        options = auto.settled(run, None)
        run = Run(gan, sampler, None, options)
    run.settle(lambda: None if ranks == 1 else auto.UNASKED)
    run.begin()
    calls = run.sampler.found(run.state).calls
    rows = max(CHUNK_ROWS, run.step_rows, 2 * run.gan.block / max(calls, 2.0**-20))
    chunk_rows = run.sampler.group << max(0, math.ceil(math.log2(rows / run.sampler.group)))
    replays = run.sampler.sequential or run.quota is not None
    return Begun(gan, run.sampler, options, run.state, chunk_rows, replays)


def _auto(options: Options) -> bool:
    return options.tune == tuning.AUTO


class Queue:
    """Takes rows from batches, as many at a time as are asked for."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self._pieces, self._there = batches, deque[Rows](), 0

    def take(self, n: int) -> Rows:
        """The next n rows of all columns."""
        while self._there < n or not self._pieces:
            batch = next(self._batches)
            rows = {"x": batch.x, "z": batch.z, "logit": batch.logit, "ids": batch.ids}
            self._pieces.append(rows if batch.y is None else rows | {"y": batch.y})
            self._there += len(batch.ids)
        self._there -= n
        taken: list[Rows] = []
        while n or not taken:
            piece = self._pieces.popleft()
            taken.append({name: rows[:n] for name, rows in piece.items()})
            if len(piece["ids"]) > n:
                self._pieces.appendleft({name: rows[n:] for name, rows in piece.items()})
            n -= len(taken[-1]["ids"])
        return {name: torch.cat([piece[name] for piece in taken]) for name in taken[0]}


class StreamDataset(IterableDataset[Rows]):
    """The samples of `drs.stream`, without end, for a DataLoader with any number of workers.

    An item is a dict of the tensors of a sample: ids and, of a GAN with labels, y, and those that
    `save` names. With rows_per_item it is a dict of so many rows, for DataLoader(batch_size=None),
    which is faster because nothing is cut up and put together again.
    Workers of a loader, and ranks, take turns at chunks of rows. So none yields a sample that
    another yields, and the same numbers of both give the same samples in the same order. Every
    iteration begins anew.
    rank, ranks: by default those of torch.distributed, if it is initialised, when this is made.
    Burn-in is done once, here; the other arguments are those of `drs.stream`.
    On a GPU, use no workers: the loader would only copy what the GPU makes.
    """

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        *,
        seed: int = 0,
        batch_size: int = 4096,
        device: torch.device | str | None = None,
        save: tuple[str, ...] = ("x", "logit"),
        images: str | None = None,
        patience: int = 1_000_000,
        precision: str = "fp32",
        tune: str | tuple[str, ...] = (),
        label_weights: Weights = None,
        only: int | None = None,
        rows_per_item: int | None = None,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        options = Options(
            seed=seed, batch_size=batch_size, device=device, save=save, images=images,
            patience=patience, precision=precision, tune=tuning.check(tune),
            label_weights=label_weights, only=only,
        )  # fmt: skip
        if "weight" in options.save:
            raise ValueError("save must be of x, z, logit (ids always), got weight")
        self._rank, self._ranks = process(rank, ranks)
        self._rows = None if rows_per_item is None else integer("rows_per_item", rows_per_item, 1)
        self._begun = begun(gan, sampler, options, self._ranks)
        y = () if gan.labels is None else ("y",)
        self._columns = ("ids", *options.save, *y)

    def __iter__(self) -> Iterator[Rows]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        k, of = self._rank * workers + number, self._ranks * workers
        if of > 1 and self._begun.sampler.sequential:
            raise ValueError(
                "adapt='batch' needs all rows in order: use one rank and num_workers=0"
            )
        queue = Queue(self._begun.batches(self._begun.chunks(k, of)))
        while True:
            rows = queue.take(self._rows or self._begun.options.batch_size)
            rows = {name: rows[name] for name in self._columns}
            if self._rows is not None:
                yield rows
                continue
            for i in range(len(rows["ids"])):
                yield {name: column[i] for name, column in rows.items()}


class SampledGenerator(nn.Module):
    """Accepted samples in the place of a generator, for code that evaluates one.

    `sample(n)` returns n samples that it has not returned before; calling the module with latents
    (n, ...) does so too, and does not look at their numbers. The buffers `row` and `skip` say where
    it is, so a module that loads the state_dict of another, with the same arguments, goes on there.
    Samples come on the device of the buffers, to which `.to` moves them; `device` is where G and D
    are. Where classes have quotas (classes="within"), going on makes all samples before again.
    rank, ranks: as in `StreamDataset`; the other arguments are those of `drs.stream`.
    """

    row: Tensor
    skip: Tensor

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        *,
        seed: int = 0,
        batch_size: int = 4096,
        device: torch.device | str | None = None,
        images: str | None = None,
        patience: int = 1_000_000,
        precision: str = "fp32",
        tune: str | tuple[str, ...] = (),
        label_weights: Weights = None,
        only: int | None = None,
        rank: int | None = None,
        ranks: int | None = None,
    ) -> None:
        super().__init__()
        options = Options(
            seed=seed, batch_size=batch_size, device=device, images=images, patience=patience,
            precision=precision, tune=tuning.check(tune), label_weights=label_weights, only=only,
        )  # fmt: skip
        self._process = process(rank, ranks)
        if self._process[1] > 1 and sampler.sequential:
            raise ValueError("adapt='batch' needs all rows in order: use one rank")
        self._begun = begun(gan, sampler, options, self._process[1])
        self._queue: Queue | None = None
        self._at = (0, 0)  # where the queue is
        where = self._begun.options.placed(gan).device
        self.register_buffer("row", torch.zeros((), dtype=torch.int64, device=where))
        self.register_buffer("skip", torch.zeros((), dtype=torch.int64, device=where))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_queue": None}

    def forward(self, z: Tensor) -> Tensor:
        """As many new samples as z has rows."""
        return self.sample(len(z))

    def sample(self, n: int) -> Tensor:
        """n new samples x (n, ...)."""
        return self.rows(n)["x"]

    def rows(self, n: int) -> Rows:
        """n new samples, with "x", "z", "logit", "ids" and, of a GAN with labels, "y"."""
        n, at = integer("n", n, 0), (int(self.row), int(self.skip))
        if self._queue is None or at != self._at:
            chunks = self._begun.chunks(*self._process, row=at[0])
            self._queue = Queue(self._begun.batches(chunks))
            self._queue.take(at[1])
        rows = self._queue.take(n)
        self._at = self._after(at, rows["ids"])
        self.row.fill_(self._at[0])
        self.skip.fill_(self._at[1])
        return {name: column.to(self.row.device) for name, column in rows.items()}

    def _after(self, at: tuple[int, int], ids: Tensor) -> tuple[int, int]:
        """The row at which the last group begins, and how many of its samples were returned."""
        if not len(ids) or self._begun.replays:
            return at[0], at[1] + len(ids)
        size = self._begun.sampler.group
        first = torch.maximum(ids, ~ids) // size * size
        last = int(first[-1])
        given = int((first == last).sum())
        return last, given + (at[1] if last == at[0] else 0)


def process(rank: int | None, ranks: int | None) -> tuple[int, int]:
    """This process's number and how many there are, as given, or those of torch.distributed."""
    if (rank is None) != (ranks is None):
        raise ValueError(f"give both rank and ranks, or none, got rank={rank}, ranks={ranks}")
    if rank is not None and ranks is not None:
        ranks = integer("ranks", ranks, 1)
        return integer("rank", rank, 0, ranks), ranks
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
