"""Runs a sampler over rows 0, 1, ... until n samples are there. Knows no sampler."""

import functools
import math
import sys
from collections.abc import Iterable, Iterator
from os import PathLike
from typing import Any, overload

import torch

from drs_fast import loop, ops, pages, tuning
from drs_fast.arguments import integer
from drs_fast.collected import Collected, Rows
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
from drs_fast.loop import Landed, Step
from drs_fast.progress import Progress
from drs_fast.store import Samples, open_run

PATIENCE = 1_000_000
ENDLESS = ((0, 0, BURN_IN_ROW),)  # one chunk of all rows


@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: None = ..., save: tuple[str, ...] = ...,
    max_proposals: int | None = ..., patience: int = ..., chunk_rows: int | None = ...,
    precision: str = ..., tune: tuple[str, ...] = ..., cuda_graph: bool = ...,
    progress: bool = ...,
) -> Batch: ...  # fmt: skip
@overload
def generate(
    gan: GAN, sampler: Sampler, n: int, *, seed: int = ..., batch_size: int = ...,
    device: torch.device | str | None = ..., out: str | PathLike[str], save: tuple[str, ...] = ...,
    max_proposals: int | None = ..., patience: int = ..., chunk_rows: int | None = ...,
    precision: str = ..., tune: tuple[str, ...] = ..., cuda_graph: bool = ...,
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
    precision: str = "fp32",
    tune: tuple[str, ...] = (),
    cuda_graph: bool = True,
    progress: bool = False,
) -> Batch | Samples:
    """n samples: the first n accepted rows of the seed, whatever the batch size.

    out: a directory to write to, resumed where an earlier call stopped; what is returned then reads
        it lazily. Without it, a Batch of exactly n rows.
    save: which of "x", "z", "logit" `out` keeps; ids (and labels) always.
    max_proposals: rows to try in all. patience: rows without an accepted one before giving up.
    chunk_rows: rows a shard is made from, a power of two times the sampler's group.
    precision: of G and D, "fp32" or "bf16"; then stats (or the manifest) have a `flip_rate`, the
        share of burn-in rows whose decision it changes.
    tune: of "channels_last" and "compile", which to try in burn-in; what is not faster is dropped.
    cuda_graph: whether a step on a GPU is captured once and replayed, where G and D allow it.
    Raises Starvation (in memory with what there is in `partial`), BadLogits, or store.Conflict if
    `out` holds another run.
    """
    n, patience = integer("n", n, 0), integer("patience", patience, 1)
    if max_proposals is not None:
        max_proposals = integer("max_proposals", max_proposals, 1)
    if chunk_rows is not None:
        chunk_rows = integer("chunk_rows", chunk_rows, 1)
    gan = _placed(gan, device, batch_size, precision)
    run = Run(gan, sampler, n, seed, max_proposals, patience, tune, cuda_graph)
    from drs_fast.saving import checked_chunk, columns, save_run

    kept, rows = columns(run.gan, save), checked_chunk(chunk_rows, sampler.group)
    with pages.kept():
        if out is None:
            return _generated(run, n, progress)
        save_run(run, out, kept, rows, progress)
        return open_run(out)


def _placed(gan: GAN, device: torch.device | str | None, batch_size: int, precision: str) -> GAN:
    if not isinstance(gan, GAN):
        raise ValueError(f"gan must be a drs.GAN, got {type(gan).__name__}; drs.load makes one")
    return gan.on(device, block_rows(batch_size), precision)


def _generated(run: "Run", n: int, progress: bool) -> Batch:
    run.begin(progress)
    collected = Collected({name: run.example[name] for name in run.names}, n)
    with Progress(n, enabled=progress) as bar:
        try:
            for landed in run.landed(ENDLESS, run.names, bar):
                collected.add(landed.rows)
        except Starvation as hunger:
            hunger.partial = _collected(run, collected.tensors())
            raise
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
) -> Iterator[Batch]:
    """Batches of accepted rows, for ever: those that `generate` gives, in the same order."""
    integer("patience", patience, 1)
    gan = _placed(gan, device, batch_size, precision)
    run = Run(gan, sampler, None, seed, None, patience, tune, cuda_graph)
    run.begin(progress=False)
    return _streamed(run)


def _streamed(run: "Run") -> Iterator[Batch]:
    with pages.kept():
        for landed in run.landed(ENDLESS, run.names, Progress(None, enabled=False)):
            yield _owned(landed, run)


class Run:
    """One seed's way through the rows, with the counts that say when to give up."""

    def __init__(
        self,
        gan: GAN,
        sampler: Sampler,
        n: int | None,
        seed: int,
        max_proposals: int | None,
        patience: int,
        tune: tuple[str, ...],
        cuda_graph: bool,
    ) -> None:
        if isinstance(sampler, type) or not hasattr(sampler, "step"):
            raise ValueError(
                f"sampler must be an instance such as drs.samplers.DRS(), got {sampler!r}"
            )
        self.gan, self.sampler = gan, sampler
        self.tune, self.cuda_graph = tuning.check(tune), cuda_graph
        self.rng = Rng(seed)
        self.step_rows = math.lcm(self.gan.block, sampler.group)
        self.n, self.max_proposals, self.patience = n, max_proposals, patience
        self.state: Any = None
        self.flip_rate: float | None = None
        self.accepted = self.proposals = self.invalid = self.above = self.idle = 0

    def begin(self, progress: bool) -> dict[str, Any]:
        """Burn-in; returns what it found apart from the sampler's state."""
        say = functools.partial(print, file=sys.stderr) if progress else lambda line: None
        self.gan, tuned = tuning.fastest(self.gan, self.tune, say)
        self.state = self.sampler.init(self.gan, self.rng)
        found: dict[str, Any] = {"tuned": list(tuned)}
        if self.gan.precision != "fp32":
            self.flip_rate = tuning.flip_rate(
                self.gan, self.sampler, self.state, self.rng, self.step_rows
            )
            found["flip_rate"] = self.flip_rate
        return found

    def resume(self, state: Any, found: dict[str, Any]) -> None:
        """Goes on from a burn-in of an earlier run."""
        self.gan = tuning.applied(self.gan, tuple(found["tuned"]))
        self.state = state

    @functools.cached_property
    def example(self) -> Rows:
        """One row of everything that a step can give, for shapes and dtypes."""
        rng = Rng(0, BURN_IN_ROW)
        z, y = ops.latents(self.gan, rng, 1), ops.labels(self.gan, rng, 1)
        x, logit = self.gan.logits(z, y)
        rows = {
            "ids": torch.zeros(1, dtype=torch.int64, device=z.device),
            "logit": logit,
            "x": x,
            "z": z,
        }
        return rows if y is None else rows | {"y": y}

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that a sample has."""
        return ("ids", "logit", "x", "z", *(() if self.gan.labels is None else ("y",)))

    def landed(
        self, chunks: Iterable[tuple[int, int, int]], names: tuple[str, ...], bar: Progress
    ) -> Iterator[Landed]:
        """The accepted rows of chunks (number, first row, end), until n of them are there.

        Of the step that brings the n-th, `accepted` counts all, but the rows end there.
        """
        if self.accepted == self.n:
            return
        example = {name: self.example[name] for name in names}
        lane = loop.lane(
            self.gan, self.sampler, self.state, self.rng, self.step_rows, example, self.cuda_graph
        )
        for landed in loop.landed(lane, self._steps(chunks)):
            tried = landed.step.size
            missing = math.inf if self.n is None else self.n - self.accepted
            taken = int(min(landed.accepted, missing))
            if taken < landed.accepted:
                landed = landed._replace(rows=_first(landed.rows, taken))
                tried = int(landed.rows[-1]["ids"][-1]) + 1 - landed.step.row
            self._tally(landed, taken)
            bar.advance(taken, tried)
            yield landed
            if self.accepted == self.n:
                return
            self._check_hunger()
        raise Starvation(
            f"{self.accepted:,} samples after max_proposals={self.max_proposals:,}; "
            "raise it, or lower gamma"
        )

    def _steps(self, chunks: Iterable[tuple[int, int, int]]) -> Iterator[Step]:
        """Whole groups, no step across two chunks, and no more rows than may still be tried."""
        left = math.inf if self.max_proposals is None else self.max_proposals - self.proposals
        for chunk, row, end in chunks:
            while row < end:
                size = int(min(self.step_rows, end - row, left))
                size -= size % self.sampler.group
                if size <= 0:
                    return
                left -= size
                yield Step(row, size, chunk, last=row + size == end)
                row += size

    def _tally(self, landed: Landed, taken: int) -> None:
        size = landed.step.size
        self.accepted += taken
        self.proposals += size
        self.idle = 0 if taken else self.idle + size
        self.invalid += landed.invalid
        self.above += landed.above
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


def _first(pieces: list[Rows], count: int) -> list[Rows]:
    """The first rows of them all; views."""
    kept = []
    for piece in pieces:
        here = min(count, len(piece["ids"]))
        if here:
            kept.append({name: rows[:here] for name, rows in piece.items()})
        count -= here
    return kept


def _owned(landed: Landed, run: Run) -> Batch:
    """A step's rows in tensors of their own, which do not keep all proposals alive."""
    rows = landed.rows or [{name: row[:0] for name, row in run.example.items()}]
    tensors = {name: torch.cat([piece[name] for piece in rows]) for name in rows[0]}
    return _batch(tensors, invalid=landed.invalid, above=landed.above)


def _collected(run: Run, tensors: Rows) -> Batch:
    last = tensors["ids"][-1:].tolist()
    stats: dict[str, float] = {
        "proposals": last[0] + 1 if last else 0,
        "calls": run.proposals,
        "invalid": run.invalid,
        "above": run.above,
    }
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
        count=torch.tensor(len(tensors["ids"])),
        stats={name: torch.tensor(value) for name, value in stats.items()},
    )


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
