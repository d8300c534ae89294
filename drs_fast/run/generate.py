"""Runs any sampler over rows 0, 1, ... until there are n samples."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from os import PathLike
from typing import overload

import torch
from torch import Tensor

from drs_fast.core import BURN_IN_ROW, Batch, OutOfTime, Sampler, Stale, Starvation, slow
from drs_fast.core.arguments import integer
from drs_fast.gan import GAN
from drs_fast.gan.images import OUTSIDE
from drs_fast.run import auto, clock, pages, weighed
from drs_fast.run.collected import Collected, Rows
from drs_fast.run.options import Options, Weights
from drs_fast.run.progress import Progress
from drs_fast.run.saving import save_run
from drs_fast.run.schedule import Run
from drs_fast.run.steps import Landed
from drs_fast.run.stopwatch import DRAIN
from drs_fast.run.weighed import open_run
from drs_fast.run.worker import Worker
from drs_fast.samplers.common import weights
from drs_fast.samplers.common.weights import Weighing
from drs_fast.store import Samples
from drs_fast.tune import tuning

ENDLESS = ((0, 0, BURN_IN_ROW),)  # one chunk of all rows


@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: None = ..., save: tuple[str, ...] = ...,
    images: str | None = ..., max_proposals: int | None = ..., max_seconds: float | None = ...,
    patience: int = ..., chunk_rows: int | None = ..., precision: str = ...,
    tune: str | tuple[str, ...] = ..., cuda_graph: bool = ..., label_weights: Weights = ...,
    only: int | None = ..., progress: bool = ..., worker: None = ...,
) -> Batch: ...  # fmt: skip
@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: str | PathLike[str], save: tuple[str, ...] = ...,
    images: str | None = ..., max_proposals: int | None = ..., max_seconds: float | None = ...,
    patience: int = ..., chunk_rows: int | None = ..., precision: str = ...,
    tune: str | tuple[str, ...] = ..., cuda_graph: bool = ..., label_weights: Weights = ...,
    only: int | None = ..., progress: bool = ..., worker: Worker | str | None = ...,
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
    images: str | None = None,
    max_proposals: int | None = None,
    max_seconds: float | None = None,
    patience: int = 1_000_000,
    chunk_rows: int | None = None,
    precision: str = "fp32",
    tune: str | tuple[str, ...] = (),
    cuda_graph: bool = True,
    label_weights: Weights = None,
    only: int | None = None,
    progress: bool = False,
    worker: Worker | str | None = None,
) -> Batch | Samples:
    """Draws n samples: the first n accepted rows of this seed.

    batch_size: rows in a call of G and D, rounded up to a power of two or, from 256 on, a multiple
        of 256. A call for fewer rows is padded to 128 or a multiple of 256 on a CPU, and to a whole
        batch on a GPU. Equal logits give equal samples; sizes below 128, and on a GPU any two, may
        give logits whose last bits differ, and with them rare decisions.
    out: a directory to write to, resumed where an earlier call stopped; what is returned then reads
        it lazily. Without it, a Batch of exactly n rows.
    save: which of "x", "z", "logit" `out` keeps; ids (and labels) always.
    images: how x is stored, "uint8" or "float16", converted on the device after D has judged it; by
        default as G makes it. For uint8, GAN(..., value_range=(low, high)) says what becomes 0 and
        255. `outside`, in stats or the manifest, counts samples that do not fit.
    max_proposals: rows to try in all. patience: rows without an accepted one before giving up.
    max_seconds: when to end with OutOfTime: in memory after a step, in `out` after a chunk, where
        the same call goes on, with any max_seconds. Burn-in counts, but is finished and kept; a
        call that goes on makes at least one chunk, so that repeated calls reach n.
    chunk_rows: rows a shard is made from, a power of two times the sampler's group.
    precision: of G and D: "fp32", which never is TF32; "tf32", on GPUs; "bf16" or "fp16". With the
        last two, stats (or the manifest) have a `flip_rate`, the share of 1,000 burn-in rows whose
        decision it changes.
    tune: of "fold", "cast", "channels_last" and "compile", how to run G and D; ValueError where
        they do not run so, or where it changes logits too much. "auto" times them together and in
        other batch sizes, for at most 60 s or 5 % of the expected run, and keeps what is fastest;
        `out` goes on with what it kept. Give that by name for the same bytes.
    label_weights, only: of a GAN with labels, how often each class is proposed, in place of the
        GAN's own label_weights, or the one class to draw.
    cuda_graph: whether a step on a GPU is captured once and replayed, where G and D allow it and
        about 100 batches are to come.
    worker: "2/8" for the second of eight processes that write to one `out` at the same time. Each
        makes whole chunks, and the last one ends the run, in the bytes of a single process; what is
        returned may then still lack samples.
    Raises Starvation, Stale or OutOfTime (in memory with what there is in `partial`), BadLogits, or
    Conflict if `out` holds another run, or G and D give other numbers than at its beginning.
    """
    n = integer("n", n, 0)
    options = Options(
        seed=seed, batch_size=batch_size, device=device, save=save, images=images,
        max_proposals=max_proposals, max_seconds=max_seconds, patience=patience,
        chunk_rows=chunk_rows, precision=precision, tune=tuning.check(tune), cuda_graph=cuda_graph,
        label_weights=label_weights, only=only, progress=progress, worker=worker,
    )  # fmt: skip
    if worker is not None and out is None:
        raise ValueError("worker needs out, the directory that all workers write to")
    limit = clock.Limit(options.max_seconds)
    # Before G and D are called, because that leaves caches.
    with slow.said("taking the sha256 of the model", enabled=progress):
        model = None if out is None else options.placed(gan).sha256()
    with pages.kept():
        run = _run(gan, sampler, n, options, limit, out)
        if out is None or model is None:
            return _generated(run, n)
        save_run(run, out, model)
        return open_run(out)


def _run(
    gan: GAN,
    sampler: Sampler,
    n: int | None,
    options: Options,
    limit: clock.Limit | None = None,
    out: str | PathLike[str] | None = None,
) -> Run:
    """The run that is asked for, with by name what a clock decides."""
    if options.tune == tuning.AUTO:
        plain = Run(gan, sampler, n, replace(options, tune=()), limit)
        options = auto.settled(plain, out)
    run = Run(gan, sampler, n, options, limit)
    run.settle(lambda: None if out is None else auto.recorded(run, out))
    return run


def _generated(run: Run, n: int) -> Batch:
    run.begin()
    collected = Collected({name: run.example[name] for name in run.names}, n)
    with Progress(n, enabled=run.options.progress) as bar:
        try:
            for landed in run.landed(ENDLESS, run.names, bar):
                with run.watch.on(DRAIN):
                    collected.add(landed.rows)
            run.check_time("raise it, or write to a directory, where the same call goes on")
        except (OutOfTime, Starvation, Stale) as stop:
            stop.partial = _collected(run, collected)
            raise
    run.warn()
    batch = _collected(run, collected)
    run.say_seconds(batch.seconds)
    return batch


def stream(
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
    cuda_graph: bool = True,
    label_weights: Weights = None,
    only: int | None = None,
) -> Iterator[Batch]:
    """Yields batches of accepted rows without end: those of `generate`, in the same order.

    If every class has a quota (classes="within"), rows of a class that is ahead wait their turn: at
    the end of each batch, the samples so far are those of `generate`, in another order.
    The share of the data that log_m clips is not estimated here.
    """
    options = Options(
        seed=seed, batch_size=batch_size, device=device, images=images, patience=patience,
        precision=precision, tune=tuning.check(tune), cuda_graph=cuda_graph,
        label_weights=label_weights, only=only,
    )  # fmt: skip
    run = _run(gan, sampler, None, options)
    run.begin()
    return streamed(run)


def streamed(run: Run, chunks: Iterable[tuple[int, int, int]] = ENDLESS) -> Iterator[Batch]:
    """Yields the accepted rows of chunks: number, first row, end."""
    with pages.kept():
        for landed in run.landed(chunks, run.names, Progress(None, enabled=False)):
            yield _owned(landed, run)


def _owned(landed: Landed, run: Run) -> Batch:
    """A step's samples in tensors of their own, so that its proposals can be freed."""
    rows = landed.rows or [{name: run.example[name][:0] for name in (*run.names, *run.counted)}]
    tensors = {name: torch.cat([piece[name] for piece in rows]) for name in rows[0]}
    outside = tensors.pop(OUTSIDE, None)
    batch = _batch(tensors, weighed.of_run(run, None), invalid=landed.invalid, above=landed.above)
    if outside is None:
        return batch
    return replace(batch, stats={**batch.stats, OUTSIDE: outside.sum()})


def _collected(run: Run, collected: Collected) -> Batch:
    with run.watch.on(DRAIN):
        tensors = collected.tensors()
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
    y = tensors.get("y")
    tried = None if y is None else weights.tried(tensors["ids"], y, run.gan.labels or 0)
    weighing = weighed.of_run(run, tried)
    worth = weighed.worth(len(tensors["ids"]), weighing, lambda: [tensors])
    stats |= {name: value for name, value in worth.items() if value is not None}
    return replace(_batch(tensors, weighing, **stats), seconds=run.watch.seconds())


def _batch(tensors: Rows, weighing: Weighing, **stats: float) -> Batch:
    return Batch(
        x=tensors["x"],
        z=tensors["z"],
        y=tensors.get("y"),
        logit=tensors["logit"],
        ids=tensors["ids"],
        count=torch.tensor(len(tensors["ids"]), device="cpu"),
        stats={name: _number(value) for name, value in stats.items()},
        weigh=functools.partial(weighing.of, tensors),
    )


def _number(value: float) -> Tensor:
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    return torch.tensor(value, dtype=dtype, device="cpu")
