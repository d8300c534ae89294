"""Runs a sampler over rows 0, 1, ... until n samples are there. Knows no sampler."""

import dataclasses
import math
from collections.abc import Iterator
from os import PathLike
from typing import Any, NoReturn, overload

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.arguments import integer
from drs_fast.core import (
    BURN_IN_ROW,
    GAN,
    Batch,
    Rng,
    Sampler,
    Starvation,
    block_rows,
    check_invalid,
)
from drs_fast.progress import Progress
from drs_fast.store import Samples, open_run

PATIENCE = 1_000_000


@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: None = ..., save: tuple[str, ...] = ...,
    max_proposals: int | None = ..., patience: int = ..., chunk_rows: int | None = ...,
    progress: bool = ...,
) -> Batch: ...  # fmt: skip
@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: str | PathLike[str], save: tuple[str, ...] = ...,
    max_proposals: int | None = ..., patience: int = ..., chunk_rows: int | None = ...,
    progress: bool = ...,
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
    progress: bool = False,
) -> Batch | Samples:
    """n samples: the first n accepted rows of the seed, whatever the batch size.

    out: a directory to write to, resumed where an earlier call stopped; what is returned then reads
        it lazily. Without it, a Batch of exactly n rows.
    save: which of "x", "z", "logit" `out` keeps; ids (and labels) always.
    max_proposals: rows to try in all. patience: rows without an accepted one before giving up.
    chunk_rows: rows a shard is made from, a power of two times the sampler's group.
    Raises Starvation (in memory with what there is in `partial`), BadLogits, or store.Conflict if
    `out` holds another run.
    """
    n, patience = integer("n", n, 0), integer("patience", patience, 1)
    if max_proposals is not None:
        max_proposals = integer("max_proposals", max_proposals, 1)
    if chunk_rows is not None:
        chunk_rows = integer("chunk_rows", chunk_rows, 1)
    run = Run(gan, sampler, n, seed, batch_size, device, max_proposals, patience)
    from drs_fast.saving import checked_chunk, columns, save_run

    kept, rows = columns(run.gan, save), checked_chunk(chunk_rows, sampler.group)
    if out is not None:
        save_run(run, out, kept, rows, progress)
        return open_run(out)
    run.state = sampler.init(run.gan, run.rng)
    names = (
        ("x", "z", "logit", "ids") if run.gan.labels is None else ("x", "z", "logit", "ids", "y")
    )
    collected = Collected(n, names, None)
    with Progress(n, enabled=progress) as bar:
        try:
            for batch in run.batches(0, None, n, bar):
                collected.add(batch)
        except Starvation as hunger:
            hunger.partial = _batch(run, collected)
            raise
    return _batch(run, collected)


def stream(
    gan: GAN,
    sampler: Sampler,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    device: torch.device | str | None = None,
    patience: int = PATIENCE,
) -> Iterator[Batch]:
    """Batches of accepted rows, for ever: those that `generate` gives, in the same order."""
    integer("patience", patience, 1)
    run = Run(gan, sampler, None, seed, batch_size, device, None, patience)
    run.state = sampler.init(run.gan, run.rng)
    batches = run.batches(0, None, None, Progress(None, enabled=False))
    return (_owned(batch) for batch in batches)


class Run:
    """One seed's way through the rows, with the counts that say when to give up."""

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        n: int | None,
        seed: int,
        batch_size: int,
        device: torch.device | str | None,
        max_proposals: int | None,
        patience: int,
    ) -> None:
        if not isinstance(gan, GAN):
            raise ValueError(f"gan must be a drs.GAN, got {type(gan).__name__}; drs.load makes one")
        if isinstance(sampler, type) or not hasattr(sampler, "step"):
            raise ValueError(
                f"sampler must be an instance such as drs.samplers.DRS(), got {sampler!r}"
            )
        self.gan = gan.on(device, block_rows(batch_size))
        self.sampler = sampler
        self.rng = Rng(seed)
        self.step_rows = math.lcm(self.gan.block, sampler.group)
        self.n, self.max_proposals, self.patience = n, max_proposals, patience
        self.state: Any = None
        self.accepted = self.proposals = self.invalid = self.above = self.idle = 0
        self.whole = False  # whether the last rows asked for were all used

    def batches(
        self, first: int, rows: int | None, wanted: int | None, bar: Progress
    ) -> Iterator[Batch]:
        """The accepted rows among [first, first + rows), until `wanted` of them are there."""
        row, missing = first, math.inf if wanted is None else wanted
        end = BURN_IN_ROW if rows is None else first + rows
        while row < end and missing > 0:
            size = self._size(end - row)
            rng = self.rng.at(row)
            z = ops.latents(self.gan, rng, size)
            y = ops.labels(self.gan, rng, size)
            self.state, batch = self.sampler.step(self.gan, self.state, z, y, rng)
            row += size
            count = int(batch.count)
            self.whole = row == end and count <= missing
            taken = int(min(count, missing))
            missing -= taken
            self._tally(batch, taken, size)
            tried = size if taken == count else int(batch.ids[taken - 1]) - rng.row + 1
            bar.advance(taken, tried)
            yield _first(batch, taken)
            if missing > 0:
                self._check_hunger()

    def _size(self, left: int) -> int:
        """Rows of the next step: whole groups, and no more than may still be tried."""
        size = min(self.step_rows, left)
        if self.max_proposals is not None:
            allowed = self.max_proposals - self.proposals
            size = min(size, allowed - allowed % self.sampler.group)
            if size == 0:
                self._give_up()
        return size

    def _tally(self, batch: Batch, taken: int, size: int) -> None:
        self.accepted += taken
        self.proposals += size
        self.idle = 0 if taken else self.idle + size
        self.invalid += int(batch.stats.get("invalid", 0))
        self.above += int(batch.stats.get("above", 0))
        check_invalid(self.invalid, self.proposals)

    def _check_hunger(self) -> None:
        if self.idle >= self.patience:
            raise Starvation(
                f"none of the last {self.idle:,} proposals was accepted ({self.accepted:,} of "
                f"{self.proposals:,} in all); {_histogram(self.gan, self.rng, self.state)}\n"
                "  1. lower gamma, or choose it by target_acceptance (for example 0.1)\n"
                "  2. train the discriminator on, or calibrate it: a few overconfident logits make "
                "log_m too large\n"
                "  3. give log_m yourself: logits above it are accepted almost surely, and counted"
            )

    def _give_up(self) -> NoReturn:
        raise Starvation(
            f"{self.accepted:,} samples after max_proposals={self.max_proposals:,}; "
            "raise it, or lower gamma"
        )


class Collected:
    """Samples copied one batch after another into tensors allocated once.

    Many small tensors, kept while large ones come and go, would scatter over the memory.
    """

    def __init__(self, capacity: int, names: tuple[str, ...], device: torch.device | None) -> None:
        self.capacity, self.names, self.device = capacity, names, device
        self.count = 0
        self._tensors: dict[str, Tensor] = {}

    def add(self, batch: Batch) -> None:
        """Appends the rows [0, count) of a batch."""
        end = self.count + int(batch.count)
        for name in self.names:
            rows = getattr(batch, name)
            if name not in self._tensors:
                shape = (self.capacity, *rows.shape[1:])
                where = rows.device if self.device is None else self.device
                self._tensors[name] = torch.empty(shape, dtype=rows.dtype, device=where)
            self._tensors[name][self.count : end] = rows[: int(batch.count)]
        self.count = end

    def tensors(self) -> dict[str, Tensor]:
        """The samples so far; views of the tensors that `add` writes to."""
        return {name: rows[: self.count] for name, rows in self._tensors.items()}


def _first(batch: Batch, count: int) -> Batch:
    """The first samples of a batch; views."""
    return dataclasses.replace(
        batch,
        x=batch.x[:count],
        z=batch.z[:count],
        y=None if batch.y is None else batch.y[:count],
        logit=batch.logit[:count],
        ids=batch.ids[:count],
        count=torch.full_like(batch.count, count),
    )


def _owned(batch: Batch) -> Batch:
    """The same in tensors of its own, which do not keep all proposals alive."""
    parts = vars(batch).items()
    tensors: dict[str, Any] = {k: v.clone() for k, v in parts if isinstance(v, Tensor)}
    return dataclasses.replace(batch, **tensors)


def _batch(run: Run, collected: Collected) -> Batch:
    if not collected.count:  # one block knows the shapes
        x, logit = probe(run.gan)
        z, y = ops.latents(run.gan, run.rng, 0), ops.labels(run.gan, run.rng, 0)
        ids = torch.empty(0, dtype=torch.int64, device=logit.device)
        return Batch(x[:0], z, y, logit[:0], ids, torch.tensor(0), _stats(run, ids))
    tensors = collected.tensors()
    return Batch(
        x=tensors["x"],
        z=tensors["z"],
        y=tensors.get("y"),
        logit=tensors["logit"],
        ids=tensors["ids"],
        count=torch.tensor(collected.count),
        stats=_stats(run, tensors["ids"]),
    )


def _stats(run: Run, ids: Tensor) -> dict[str, Tensor]:
    numbers = {
        "proposals": int(ids[-1]) + 1 if len(ids) else 0,
        "calls": run.proposals,
        "invalid": run.invalid,
        "above": run.above,
    }
    return {name: torch.tensor(value) for name, value in numbers.items()}


def probe(gan: GAN) -> tuple[Tensor, Tensor]:
    """One sample and its logit, for their shapes and dtypes."""
    rng = Rng(0, BURN_IN_ROW)
    return gan.logits(ops.latents(gan, rng, 1), ops.labels(gan, rng, 1))


def _histogram(gan: GAN, rng: Rng, state: Any) -> str:
    """The burn-in logits in words."""
    logit = getattr(state, "logits", None)
    if logit is None:
        logit = gan.logits(ops.latents(gan, rng, gan.block), ops.labels(gan, rng, gan.block))[1]
    finite = logit[torch.isfinite(logit)].double()
    quantiles = torch.quantile(finite[:100_000], finite.new_tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    low, quarter, middle, upper, top = (f"{float(q):.3g}" for q in quantiles)
    log_m = getattr(state, "log_m", None)
    against = "" if log_m is None else f", log_m = {float(log_m.max()):.4g}"
    return (
        f"logits of {len(logit):,} proposals: lowest {low}, a quarter below {quarter}, half below "
        f"{middle}, three quarters below {upper}, highest {top}{against}. Remedies:"
    )
