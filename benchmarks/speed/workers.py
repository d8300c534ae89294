"""Two workers against one process on the same run, and what starting a worker costs.

python -m benchmarks.speed.workers [--model digits] [-n 200000] [--rounds 3] [--json FILE]

Each worker has one thread. A run is timed from where all its processes have imported PyTorch to
where the last of them has returned. Its CPU seconds, of all processes together, do not depend on
other work that takes the cores; they would allow as much, were nothing serial.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing.managers import SyncManager
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import torch
from torch import distributed

import drs_fast as drs
from benchmarks.common.timing import describe, environment
from drs_fast.cli import launcher
from drs_fast.store.format import SECONDS

WAITING = 600.0  # seconds for all processes to have started
FASTER, START = 1.85, 3.0  # targets: times one process; seconds beyond `import torch`


class Job(NamedTuple):
    """One run of `generate`."""

    model: str
    n: int
    chunk_rows: int


class Seconds(NamedTuple):
    """Seconds that passed, and those of a CPU."""

    wall: float
    cpu: float


def part(job: Job, out: Path, launched: Mapping[str, str], all_there: Barrier) -> Seconds:
    """The seconds of one of the processes that make the run, which torchrun would launch so."""
    torch.set_num_threads(1)
    gan = drs.load(job.model)
    gan.logits(torch.zeros(1, gan.latent_dim))
    all_there.wait(WAITING)
    start, cpu = time.monotonic(), time.process_time()
    drs.generate(
        gan,
        drs.samplers.DRS(),
        job.n,
        out=out,
        chunk_rows=job.chunk_rows,
        worker=launcher.worker(None, launched),
    )
    return Seconds(time.monotonic() - start, time.process_time() - cpu)


def run(job: Job, out: Path, workers: int, manager: SyncManager) -> list[Seconds]:
    """The seconds of each process."""
    store = distributed.TCPStore("localhost", 0, None, True, timedelta(seconds=WAITING))
    agent = {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(workers),
    }
    all_there = manager.Barrier(workers)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        parts = [
            pool.submit(part, job, out, {**agent, "RANK": str(rank)}, all_there)
            for rank in range(workers)
        ]
        return [each.result() for each in parts]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != SECONDS}


def measured(job: Job, workers: int, rounds: int) -> dict[str, Any]:
    """How much faster several workers are, in pairs of runs that follow each other."""
    wall, cpu = [], []
    manager = multiprocessing.get_context("spawn").Manager()
    with manager, tempfile.TemporaryDirectory() as folder:
        for i in range(rounds):
            found = {}
            for count in (1, workers) if i % 2 == 0 else (workers, 1):
                found[count] = run(job, Path(folder) / f"{i}-{count}", count, manager)
            if contents(Path(folder) / f"{i}-1") != contents(Path(folder) / f"{i}-{workers}"):
                raise RuntimeError("the bytes differ")
            one, several = (
                Seconds(max(each.wall for each in parts), sum(each.cpu for each in parts))
                for parts in (found[1], found[workers])
            )
            print(f"  1: {one.wall:6.2f} s, CPU {one.cpu:6.2f}; ", end="")
            print(f"{workers}: {several.wall:6.2f} s, CPU {several.cpu:6.2f}", flush=True)
            wall.append(one.wall / several.wall)
            cpu.append(workers * one.cpu / several.cpu)
    return {"workers": workers, "faster": statistics.median(wall), "cpu": statistics.median(cpu)}


def starting(model: str, rounds: int) -> dict[str, float]:
    """Seconds of a worker that finds the run complete, beyond those of `import torch`."""
    beyond = []
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "drs_fast", "generate", model, "-n", "100", "--out", folder, "--quiet"]
        of_command(words)
        for _ in range(rounds):
            alone, whole = of_command(["-c", "import torch"]), of_command([*words, "--worker=2/2"])
            beyond.append(Seconds(whole.wall - alone.wall, whole.cpu - alone.cpu))
    wall, cpu = map(statistics.median, zip(*beyond, strict=True))
    return {"wall": wall, "cpu": cpu}


def of_command(words: list[str]) -> Seconds:
    start, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, *words], check=True)
    after = os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])  # of children
    return Seconds(time.monotonic() - start, cpu)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits")
    parser.add_argument("-n", type=int, default=200_000)
    parser.add_argument("--chunk-rows", type=int, default=8192)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes
    torch.set_num_threads(1)
    report = environment()
    print(describe(report))
    job = Job(options.model, options.n, options.chunk_rows)
    print(f"{job.n:,} samples of {job.model}, chunks of {job.chunk_rows:,} rows")
    report |= {"job": job._asdict(), **measured(job, options.workers, options.rounds)}
    report["start"] = starting(options.model, options.rounds)
    print(
        f"{options.workers} workers: {report['faster']:.2f} times as fast as one process, ", end=""
    )
    print(f"{report['cpu']:.2f} by CPU seconds at most (target for 2: {FASTER:g})")
    start = report["start"]
    print(f"starting a worker: {start['wall']:.2f} s beyond `import torch`, ", end="")
    print(f"{start['cpu']:.2f} of a CPU (target: below {START:g})")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
