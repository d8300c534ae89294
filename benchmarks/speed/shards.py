"""How fast a run of many shards is resumed, opened and verified, and what memory a long run takes.

python -m benchmarks.speed.shards [--json FILE] [--only resume,verify,memory] [--quick]
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import drs_fast as drs
from benchmarks.common.by_hand import SPEC, tried
from benchmarks.common.timing import describe, environment
from drs_fast import store
from drs_fast.store.folder import PIECE, THREADS
from drs_fast.store.manifest import totals

SAMPLES_A_SHARD = 44.5  # that `resumed` accepts of 256 rows
MISSING = 8
MODEL = "25gaussians"
TARGETS = {"resume, complete": 5.0, "resume, unfinished": 5.0, "verify / threads": 0.8}
MEMORY_TARGET = 1.05


def linear() -> drs.GAN:
    return drs.GAN(lambda z: z, lambda x: x[:, 0] - 0.25 * x[:, 1].square(), 2)


def resumed(shards: int) -> dict[str, float]:
    """Seconds for what is done with a run of so many small shards."""
    n = int(SAMPLES_A_SHARD * shards)
    sampler = drs.samplers.DRS(gamma=0.0, log_m=2.0, burn_in=1024)

    def generate() -> int:
        samples = drs.generate(
            linear(), sampler, n, out=out, save=("logit",), batch_size=256, chunk_rows=256
        )
        return len(samples.records)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with _no_fsync():
            made = generate()
        found = {
            "shards": made,
            "resume, complete": _seconds(generate),
            "open": _seconds(lambda: drs.open(out)),
            "verify": _seconds(lambda: _sound(out)),
        }
        for path in sorted(out.glob("chunk-*"))[-MISSING:]:
            path.unlink()
        found["repair"] = _seconds(lambda: store.repair(out))
        found["resume, unfinished"] = _seconds(generate)
        _sound(out)
        return found


def verified(shards: int, shard_bytes: int, rounds: int) -> dict[str, Any]:
    """Bytes a second, from the disk and from memory, of reading, hashing and verifying."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        write(out, shards, shard_bytes)
        files = sorted(out.glob("chunk-*"))
        size = sum(path.stat().st_size for path in files)
        calls: dict[str, Callable[[], None]] = {
            "read, threads": lambda: _each(files, None, THREADS),
            "hash, one thread": lambda: _each(files, hashlib.sha256, 1),
            "hash, threads": lambda: _each(files, hashlib.sha256, THREADS),
            "verify": lambda: _sound(out),
        }
        found: dict[str, Any] = {"bytes": size}
        for place, prepare in (("disk", _forget), ("memory", lambda files: None)):
            rates: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(rounds):
                for name, call in calls.items():
                    prepare(files)
                    rates[name].append(size / _seconds(call))
            found[place] = {name: statistics.median(values) for name, values in rates.items()}
            pairs = zip(rates["verify"], rates["hash, threads"], strict=True)
            found[place]["verify / threads"] = statistics.median(a / b for a, b in pairs)
        return found


def write(out: Path, shards: int, shard_bytes: int) -> None:
    """A run of images of 3 x 32 x 32, made by hand."""
    rows = max(1, shard_bytes // (4 * 3 * 32 * 32))
    x = torch.randn(rows, 3, 32, 32)
    facts = {
        "chunk_rows": rows,
        "model": "by hand",
        "labels": None,
        "version": drs.__version__,
        "law": "data",
        "group": 1,
        "tallies": [],
    }
    with store.Writer.open(out, SPEC, shards * rows) as writer:
        writer.save_state({}, facts)
        for k in range(shards):
            ids = torch.arange(k * rows, (k + 1) * rows)
            tensors = {"ids": ids, "x": x, "logit": torch.full((rows,), float(k))}
            writer.append(k, tensors, cut=False, counters=tried(rows))
        summary = totals(writer.records.values(), writer.facts, writer.n)
        writer.finish({**summary, "calls_total": shards * rows})


def memory(sizes: tuple[int, int], save: str, rounds: int) -> dict[str, Any]:
    """Largest memory of processes that write a run of each size, in MiB, and seconds."""
    peaks: dict[int, list[float]] = {n: [] for n in sizes}
    seconds: dict[int, float] = {}
    for _ in range(rounds):
        for n in sizes:
            begun = time.perf_counter()
            command = [sys.executable, "-m", "benchmarks.speed.shards", "--peak", str(n), save]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peaks[n].append(float(said))
            seconds[n] = time.perf_counter() - begun
    least, most = (statistics.median(peaks[n]) for n in sizes)
    return {"MiB": peaks, "seconds": seconds, "ratio": most / least}


def peak(n: int, save: str) -> float:
    """Largest memory of this process after a run, in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        columns = tuple(save.split(","))
        drs.generate(drs.load(MODEL), drs.samplers.DRS(), n, out=Path(folder) / "run", save=columns)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def _sound(out: Path) -> None:
    problems = store.verify(out)
    if problems:
        raise RuntimeError(f"the run that was timed is damaged: {problems}")


def _each(files: list[Path], kind: Callable[[], Any] | None, threads: int) -> None:
    """Reads files, and hashes them if told how."""

    def read(path: Path) -> None:
        piece, found = memoryview(bytearray(PIECE)), kind() if kind else None
        with open(path, "rb", buffering=0) as file:
            while size := file.readinto(piece):
                if found is not None:
                    found.update(piece[:size])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, files))


def _forget(files: list[Path]) -> None:
    """Drops files from the system's memory, where that can be asked for."""
    if hasattr(os, "posix_fadvise"):
        for path in files:
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


@contextmanager
def _no_fsync() -> Iterator[None]:
    """Makes a run faster that nobody will miss."""
    fsync, os.fsync = os.fsync, lambda file: None
    try:
        yield
    finally:
        os.fsync = fsync


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measured(only: set[str], *, quick: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "resume" in only:
        found["resume"] = resumed(50 if quick else 10_000)
    if "verify" in only:
        found["verify"] = verified(*(3, 2**16, 1) if quick else (16, 64 * 2**20, 3))
    if "memory" in only:
        sizes, rounds = ((1000, 2000), 1) if quick else ((10**6, 10**7), 3)
        found["memory"] = {save: memory(sizes, save, rounds) for save in ("logit", "x,logit")}
    return found


def show(found: dict[str, Any]) -> None:
    for name, value in found.get("resume", {}).items():
        target = f" (target: below {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"{name}: {value:.2f} s{target}" if name != "shards" else f"{value} shards")
    for place in ("disk", "memory"):
        for name, value in found.get("verify", {}).get(place, {}).items():
            target = f"{value:.2f} (target {TARGETS[name]})" if name in TARGETS else ""
            print(f"from {place}, {name}: {target or f'{value / 1e6:,.0f} MB/s'}")
    for save, value in found.get("memory", {}).items():
        peaks = "; ".join(
            f"n = {n:,}: {', '.join(f'{mib:.0f}' for mib in mibs)} MiB, {value['seconds'][n]:.0f} s"
            for n, mibs in value["MiB"].items()
        )
        print(f"save {save}: {peaks}; ratio {value['ratio']:.3f} (target {MEMORY_TARGET})")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="resume,verify,memory")
    parser.add_argument("--quick", action="store_true", help="a few samples, to try it")
    parser.add_argument("--peak", nargs=2, metavar=("N", "SAVE"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.peak:
        print(peak(int(options.peak[0]), options.peak[1]))
        return 0
    there = environment()
    print(f"{describe(there)}; {THREADS} threads that hash", flush=True)
    found = measured(set(options.only.split(",")), quick=options.quick)
    show(found)
    if options.json:
        report = {**there, "targets": {**TARGETS, "memory": MEMORY_TARGET}, "found": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
