"""Runs that are written to a directory, chunk by chunk, and resumed there."""

import dataclasses
import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from drs_fast import __version__
from drs_fast.core import GAN, RNG_VERSION, Sampler
from drs_fast.engine import Collected, Run, probe
from drs_fast.progress import Progress
from drs_fast.store import Conflict, Writer

SAVEABLE = ("x", "z", "logit")
SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 2**14
CHUNK_ROWS = 2**18


def save_run(
    run: Run,
    out: str | PathLike[str],
    columns: tuple[str, ...],
    chunk_rows: int | None,
    progress: bool,
) -> None:
    """Writes the run's samples to `out`, or the ones that an earlier call has not written."""
    sampler, n = run.sampler, run.n or 0
    row_bytes = _row_bytes(run.gan, columns)
    spec = {
        "rng_version": RNG_VERSION,
        "model_sha256": run.gan.sha256(),
        "sampler": {"name": type(sampler).__name__, **dataclasses.asdict(sampler)},  # type: ignore[call-overload]
        "seed": run.rng.seed,
        "batch_size": run.gan.block,
        "device": run.gan.device.type,
        "save": list(columns),
    }
    if chunk_rows is not None:
        spec["chunk_rows"] = chunk_rows
    with Writer.open(out, spec, n, bytes_per_sample=row_bytes) as writer:
        if writer.complete:
            return
        if sampler.sequential and writer.records:
            raise Conflict(
                f"{out} holds part of a run whose rows depend on all before them (adapt='batch'), "
                "which cannot be resumed; choose another --out"
            )
        if writer.state is None:
            run.state = sampler.init(run.gan, run.rng)
            tensors = run.state._asdict()
            rows = spec.get("chunk_rows") or _chunk_rows(
                tensors, sampler.group, row_bytes, run.gan.block
            )
            facts = {
                "chunk_rows": rows,
                "model": run.gan.name,
                "version": __version__,
                "law": sampler.law,
            }
            numbers = {
                k: v.tolist() for k, v in tensors.items() if v.numel() <= (run.gan.labels or 1)
            }
            writer.save_state(tensors, {"eps": getattr(sampler, "eps", None), **numbers, **facts})
        else:
            tensors = {name: t.to(run.gan.device) for name, t in writer.state.items()}
            run.state = sampler.State(**tensors)
        with Progress(n, enabled=progress) as bar:
            _fill(run, writer, writer.facts["chunk_rows"], columns, bar)
        writer.finish(_summary(writer, sampler, n))


def _fill(run: Run, writer: Writer, rows: int, columns: tuple[str, ...], bar: Progress) -> None:
    """Computes the chunks that are not there yet, in order, until n samples are."""
    n, chunk, before = run.n or 0, 0, 0
    collected = Collected(min(n, rows), ("ids", *columns), torch.device("cpu"))
    while before < n:
        record = writer.records.get(chunk)
        if record is None:
            start = run.proposals
            counts = (run.invalid, run.above)
            collected.count = 0
            for batch in run.batches(chunk * rows, rows, n - before, bar):
                collected.add(batch)
            calls = run.proposals - start
            tensors = collected.tensors()
            ids = tensors["ids"]
            writer.append(
                chunk,
                tensors,
                cut=not run.whole,
                counters={
                    "last_row": int(ids[-1]) if len(ids) else -1,
                    "calls": calls,
                    "invalid": run.invalid - counts[0],
                    "above": run.above - counts[1],
                },
            )
            record = writer.records[chunk]
        else:
            run.accepted += record.count
            run.proposals += record.counters["calls"]
            run.idle = 0 if record.count else run.idle + record.counters["calls"]
            run.invalid += record.counters["invalid"]
            run.above += record.counters["above"]
            bar.skip(record.count)
        before += record.count
        chunk += 1


def _summary(writer: Writer, sampler: Sampler, n: int) -> dict[str, Any]:
    totals = {
        key: sum(record.counters[key] for record in writer.records.values())
        for key in ("calls", "invalid", "above")
    }
    last = max((record.counters["last_row"] for record in writer.records.values()), default=-1)
    return {
        "proposals": last + 1,
        "invalid": totals["invalid"],
        "above": totals["above"],
        "calls_per_sample": totals["calls"] / n if n else None,
        "calls_total": totals["calls"] + getattr(sampler, "burn_in", 0),
    }


def _row_bytes(gan: GAN, columns: tuple[str, ...]) -> int:
    x, logit = probe(gan)
    tensors = {
        "x": x,
        "logit": logit,
        "z": torch.empty(1, gan.latent_dim),
        "y": torch.empty(1).long(),
    }
    return 8 + sum(tensors[name].nbytes for name in columns)


def columns(gan: GAN, save: tuple[str, ...]) -> tuple[str, ...]:
    """What is kept of every sample, in a fixed order; ValueError for what cannot be."""
    names = tuple(save.split(",")) if isinstance(save, str) else tuple(save)
    unknown = [name for name in names if name not in (*SAVEABLE, "ids", "")]
    if unknown:
        raise ValueError(f"save takes {', '.join(SAVEABLE)} (ids always), got {unknown[0]!r}")
    kept = [name for name in SAVEABLE if name in names]
    return (*kept, "y") if gan.labels is not None else tuple(kept)


def _chunk_rows(tensors: dict[str, Tensor], group: int, row_bytes: int, block: int) -> int:
    """Rows that give a shard of at most 64 MiB or 16,384 samples at the expected acceptance."""
    acceptance = float(tensors["acceptance"]) if "acceptance" in tensors else 1.0 / group
    samples = max(1.0, min(SHARD_ROWS, SHARD_BYTES / row_bytes))
    groups = max(samples / max(acceptance, samples / CHUNK_ROWS), 2 * block - 1) / group
    return group << math.floor(math.log2(max(groups, 1.0)))


def checked_chunk(rows: int | None, group: int) -> int | None:
    """chunk_rows; ValueError unless it is the group times a power of two."""
    if rows is None:
        return None
    groups = rows // group
    if rows % group or groups & (groups - 1):
        raise ValueError(f"chunk_rows must be {group} times a power of two, got {rows}")
    return rows
