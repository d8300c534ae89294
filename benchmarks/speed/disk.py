"""Shards to disk against bare writing of the same bytes, and a run to disk against one in memory.

python -m benchmarks.speed.disk [--json FILE] [--quick]
"""

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common import gans
from benchmarks.common.by_hand import SPEC, tried
from benchmarks.common.timing import describe, environment
from drs_fast.store import Writer
from drs_fast.store.folder import THREADS
from drs_fast.store.format import shard_name

IMAGE = (3, 64, 64)
TARGETS = {"shards / bare": 0.85, "to disk / in memory": 0.97}


def shards(count: int, images: int) -> list[dict[str, Tensor]]:
    """Shards of random images. Few tensors are shared by many, because memory is small."""
    x = [torch.randn(images, *IMAGE) for _ in range(min(count, THREADS + 1))]
    return [
        {
            "ids": torch.arange(k * images, (k + 1) * images),
            "x": x[k % len(x)],
            "logit": torch.zeros(images),
        }
        for k in range(count)
    ]


def store(folder: Path, made: list[dict[str, Tensor]]) -> None:
    """What a run does with its shards."""
    images = len(made[0]["ids"])
    counters = tried(images)
    before: Future[None] | None = None

    def append(chunk: int, rows: dict[str, Tensor], before: Future[None] | None) -> None:
        writer.append(chunk, rows, cut=False, counters=counters, after=before)

    with Writer.open(folder, SPEC, images * len(made)) as writer:
        for chunk, rows in enumerate(made):
            before = writer.submit(append, chunk, rows, before)
        if before is not None:
            before.result()


def bare(folder: Path, made: list[dict[str, Tensor]]) -> None:
    """Writes and fsyncs the tensors' bytes by as many threads, with nothing else."""

    def write(name: int) -> None:
        file = os.open(folder / str(name), os.O_WRONLY | os.O_CREAT)
        for rows in made[name].values():
            rest = rows.reshape(-1).view(torch.uint8).numpy().data
            while rest:
                rest = rest[os.write(file, rest) :]
        os.fsync(file)
        os.close(file)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(write, range(len(made))))


def check(made: list[dict[str, Tensor]]) -> None:
    """RuntimeError unless the shards and records are those of one thread and the library."""
    with tempfile.TemporaryDirectory() as name:
        store(Path(name), made)
        lines = [
            json.loads(line) for line in (Path(name) / "shards.jsonl").read_text().splitlines()
        ]
        for chunk, (line, rows) in enumerate(zip(lines, made, strict=True)):
            data = (Path(name) / shard_name(chunk)).read_bytes()
            right = safetensors.torch.save(rows)
            if data != right or line["sha256"] != hashlib.sha256(right).hexdigest():
                raise RuntimeError(f"shard {chunk} differs from what safetensors writes")


def run(gan: drs.GAN, n: int, folder: str | None) -> None:
    sampler = drs.samplers.DRS(target_acceptance=0.2, burn_in=512)
    out = folder and Path(folder) / "run"
    drs.generate(gan, sampler, n, batch_size=256, out=out)


def seconds(call: Callable[[str], Any]) -> tuple[float, float]:
    """The seconds that pass, and those that all cores work."""
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        call(folder)
        return time.perf_counter() - start, time.process_time() - used


def ratio(
    rounds: int, reference: Callable[[str], Any], ours: Callable[[str], Any]
) -> dict[str, Any]:
    """Medians over rounds in which both are timed, the first one in turn."""
    times: dict[str, list[tuple[float, float]]] = {"reference": [], "ours": []}
    calls = [("reference", reference), ("ours", ours)]
    for k in range(rounds):
        for name, call in calls[:: 1 if k % 2 else -1]:
            times[name].append(seconds(call))
    pairs = zip(times["reference"], times["ours"], strict=True)
    return {"ratio": statistics.median(a / b for (a, _), (b, _) in pairs), **times}


def measured(device: torch.device, *, quick: bool, rounds: int = 5) -> dict[str, Any]:
    """Ratios and seconds; images are those of a DCGAN of 64 x 64 pixels with random weights."""
    images, count, n = (8, 3, 16) if quick else (1333, 15, 4096)
    check(shards(6, 7))
    made = shards(count, images)
    gan = gans.dcgan(16, pixels=64).on(device, 256)
    return {
        "shards / bare": ratio(
            rounds, lambda f: bare(Path(f), made), lambda f: store(Path(f), made)
        ),
        "to disk / in memory": ratio(rounds, lambda f: run(gan, n, None), lambda f: run(gan, n, f)),
    }


def show(found: dict[str, Any]) -> None:
    for name, value in found.items():
        reference, ours = (min(value[key]) for key in ("reference", "ours"))
        print(
            f"{name}: median {value['ratio']:.3f} (target {TARGETS[name]}); fastest "
            f"{reference[0]:.2f} and {ours[0]:.2f} s, of all cores {reference[1]:.2f} and "
            f"{ours[1]:.2f} s"
        )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few samples, to try it")
    options = parser.parse_args(words)
    there = environment()
    print(f"{describe(there)}; {THREADS} threads that write", flush=True)
    found = measured(torch.device("cpu"), quick=options.quick, rounds=1 if options.quick else 5)
    show(found)
    if options.json:
        report = {**there, "writers": THREADS, "targets": TARGETS, "found": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
