"""Runs any sampler over rows 0, 1, ... until there are n samples."""

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import overload

import torch
from torch import Tensor

from drs_fast.core import BURN_IN_ROW, Batch, Sampler, Stale, Starvation
from drs_fast.core.arguments import integer
from drs_fast.gan import GAN, block_rows, classes
from drs_fast.run import pages
from drs_fast.run.collected import Collected, Rows
from drs_fast.run.progress import Progress
from drs_fast.run.saving import checked_chunk, columns, save_run
from drs_fast.run.schedule import Run
from drs_fast.run.steps import Landed
from drs_fast.store import Samples, open_run

PATIENCE = 1_000_000
ENDLESS = ((0, 0, BURN_IN_ROW),)  # one chunk of all rows
Weights = Sequence[float] | Tensor | None


@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: None = ..., save: tuple[str, ...] = ...,
    max_proposals: int | None = ..., patience: int = ..., chunk_rows: int | None = ...,
    precision: str = ..., tune: tuple[str, ...] = ..., cuda_graph: bool = ...,
    label_weights: Weights = ..., only: int | None = ..., progress: bool = ...,
) -> Batch: ...  # fmt: skip
@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: str | PathLike[str], save: tuple[str, ...] = ...,
    max_proposals: int | None = ..., patience: int = ..., chunk_rows: int | None = ...,
    precision: str = ..., tune: tuple[str, ...] = ..., cuda_graph: bool = ...,
    label_weights: Weights = ..., only: int | None = ..., progress: bool = ...,
) -> Samples: ...  # fmt: skip
def generate(
    gan: GAN,
    sampler: Sampler,
    n: int,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
    out: str | PathLike[str] | None = None,
    save: tuple[str, ...] = ("x", "logit"),
    max_proposals: int | None = None,
    patience: int = PATIENCE,
    chunk_rows: int | None = None,
    precision: str = "fp32",
    tune: tuple[str, ...] = (),
    cuda_graph: bool = True,
    label_weights: Weights = None,
    only: int | None = None,
    progress: bool = False,
) -> Batch | Samples:
    """Draws n samples: the first n accepted rows of this seed.

    Equal logits give equal samples at every batch size. But G and D may round differently at sizes
    below 128, and on a GPU at any two sizes: the last bits of a logit, and rarely a decision, may
    then differ.

    batch_size: rows per call of G and D, rounded up to a power of two or, from 256 on, to a
        multiple of 256. A call for fewer rows is padded: on a CPU to 128 or a multiple of 256, on a
        GPU to a whole batch.
    out: directory to write to. If an earlier call stopped there, it is resumed. Returns samples
        that are read from it lazily; without `out`, a Batch of exactly n rows.
    save: which of "x", "z", "logit" to keep in `out`. ids (and labels) are always kept.
    max_proposals: most rows to try in all. patience: rows without a sample before giving up.
    chunk_rows: rows to try for each shard, the sampler's group times a power of two.
    precision: of G and D, "fp32" or "bf16". With "bf16", stats (or the manifest) have a
        `flip_rate`: the share of burn-in rows whose decision it changes.
    tune: how to run G and D, from "channels_last" and "compile"; `drs.plan` measures which is
        faster. ValueError if a variant fails, or changes the logits too much.
    label_weights, only: for a GAN with labels. How often to propose each class, instead of the
        GAN's own label_weights; or the one class to draw.
    cuda_graph: on a GPU, capture a step once and replay it, if G and D allow it.
    Raises Starvation or Stale (for a run in memory, `partial` holds the samples so far), BadLogits,
    or store.Conflict if `out` holds another run, or G and D now return other numbers than when the
    run began.
    """
    n, patience = integer("n", n, 0), integer("patience", patience, 1)
    if max_proposals is not None:
        max_proposals = integer("max_proposals", max_proposals, 1)
    if chunk_rows is not None:
        chunk_rows = integer("chunk_rows", chunk_rows, 1)
    gan = _placed(gan, device, batch_size, precision, label_weights, only)
    run = Run(gan, sampler, n, seed, max_proposals, patience, tune, cuda_graph)
    kept, rows = columns(run.gan, save), checked_chunk(chunk_rows, sampler.group)
    with pages.kept():
        if out is None:
            return _generated(run, n, progress)
        save_run(run, out, kept, rows, progress)
        return open_run(out)


def _placed(
    gan: GAN,
    device: torch.device | str | None,
    batch_size: int,
    precision: str,
    label_weights: Weights,
    only: int | None,
) -> GAN:
    if not isinstance(gan, GAN):
        raise ValueError(f"gan must be a drs.GAN, got {type(gan).__name__}; use drs.load")
    if only is not None:
        if label_weights is not None:
            raise ValueError("got both only and label_weights; give at most one of them")
        label_weights = classes.only(gan.labels, only)
    if label_weights is not None:
        gan = gan.labelled(label_weights)
    return gan.on(device, block_rows(batch_size), precision)


def _generated(run: Run, n: int, progress: bool) -> Batch:
    run.begin(progress)
    collected = Collected({name: run.example[name] for name in run.names}, n)
    with Progress(n, enabled=progress) as bar:
        try:
            for landed in run.landed(ENDLESS, run.names, bar):
                collected.add(landed.rows)
        except (Starvation, Stale) as stop:
            stop.partial = _collected(run, collected.tensors())
            raise
    run.warn()
    return _collected(run, collected.tensors())


def stream(
    gan: GAN,
    sampler: Sampler,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
    patience: int = PATIENCE,
    precision: str = "fp32",
    tune: tuple[str, ...] = (),
    cuda_graph: bool = True,
    label_weights: Weights = None,
    only: int | None = None,
) -> Iterator[Batch]:
    """Yields batches of accepted rows without end: those of `generate`, in the same order.

    If every class has a quota (classes="within"), rows of a class that is ahead wait their turn: at
    the end of each batch, the samples so far are those of `generate`, in another order.
    The share of the data that log_m clips is not estimated here.
    """
    integer("patience", patience, 1)
    gan = _placed(gan, device, batch_size, precision, label_weights, only)
    run = Run(gan, sampler, None, seed, None, patience, tune, cuda_graph)
    run.begin(progress=False)
    return _streamed(run)


def _streamed(run: Run) -> Iterator[Batch]:
    with pages.kept():
        for landed in run.landed(ENDLESS, run.names, Progress(None, enabled=False)):
            yield _owned(landed, run)


def _owned(landed: Landed, run: Run) -> Batch:
    """A step's samples in tensors of their own, so that its proposals can be freed."""
    rows = landed.rows or [{name: row[:0] for name, row in run.example.items()}]
    tensors = {name: torch.cat([piece[name] for piece in rows]) for name in rows[0]}
    return _batch(tensors, invalid=landed.invalid, above=landed.above)


def _collected(run: Run, tensors: Rows) -> Batch:
    totals = run.totals()
    stats: dict[str, float] = {"proposals": run.rows_until(tensors["ids"]), **totals}
    for name, value in run.measured(totals).items():
        if isinstance(value, list):
            of = name.removesuffix("_interval")
            stats[f"{of}_low"], stats[f"{of}_high"] = value
        else:
            stats[name] = value
    if run.flip_rate is not None:
        stats["flip_rate"] = run.flip_rate
    return _batch(tensors, **stats)


def _batch(tensors: Rows, **stats: float) -> Batch:
    return Batch(
        x=tensors["x"],
        z=tensors["z"],
        y=tensors.get("y"),
        logit=tensors["logit"],
        ids=tensors["ids"],
        count=torch.tensor(len(tensors["ids"]), device="cpu"),
        stats={name: _number(value) for name, value in stats.items()},
    )


def _number(value: float) -> Tensor:
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    return torch.tensor(value, dtype=dtype, device="cpu")
