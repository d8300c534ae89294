"""Whole runs against plain PyTorch loops on the same G and D, and against G and D alone.

python -m benchmarks.speed.loop [--device cuda] [--quick] [--json FILE]
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import drs_fast as drs
from benchmarks.common.timing import describe, environment
from benchmarks.speed.loop_ways import (
    CALLED,
    EPS,
    KEPT,
    LIMIT,
    MODELS,
    NUMPY,
    OURS,
    PLAIN,
    PLAIN_TO_DISK,
    TO_DISK,
    WAYS,
    Differs,
    Problem,
    alone,
    check,
    problem,
    timed,
)
from drs_fast.run.generate import ENDLESS
from drs_fast.run.options import Options
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run

CPU = (
    ("25gaussians", 4096),
    ("digits", 4096),
    ("MLP", 1024),
    ("DCGAN 32x32", 256),
    ("SAGAN 128x128, width 8", 256),
)
GPU = (
    ("MLP", 1024),
    ("MLP", 65_536),
    ("DCGAN 32x32", 256),
    ("DCGAN 32x32", 1024),
    ("25gaussians", 4096),
    ("SAGAN 128x128", 256),
)
QUICK = (("MLP, width 16", 256),)
MODEL_S = 240.0  # no new round of a model after about this long
PROBED = 256  # rows of the probe, in calls of 128; on a GPU they take a block
# Targets: model, batch, ratio, sign, value.
TARGETS: dict[str, tuple[tuple[str, int, str, str, float], ...]] = {
    "cpu": (
        ("digits", 4096, "to disk / limit", ">=", 0.95),
        ("25gaussians", 4096, "to disk / limit", ">=", 0.85),
        *((name, batch, "drs_fast / plain", ">=", 1.0) for name, batch in CPU),
        *((name, batch, "to disk / plain to disk", ">=", 1.0) for name, batch in CPU),
    ),
    "cuda": (
        ("DCGAN 32x32", 1024, "accept / G and D", "<=", 0.01),
        ("MLP", 65_536, "accept / G and D", "<=", 0.03),
        ("MLP", 1024, "drs_fast / plain", ">=", 3.0),
        ("DCGAN 32x32", 256, "drs_fast / plain", ">=", 1.5),
        *((name, batch, "synchronisations a step", "<=", 0.0) for name, batch in GPU),
    ),
}


def parts(p: Problem, repeats: int) -> dict[str, float]:
    """Milliseconds of a step's parts, each measured after G and D have filled the caches."""
    x, logit = p.gan.logits(p.z)
    ring = drs.ops.ring(logit, x, rng=drs.Rng(0), capacity=_power(p.batch), log_m=p.log_m)
    append = drs.ops.appending(ring, log_m=p.log_m, gamma=p.gamma, eps=EPS)
    one = dataclasses.replace(p, steps=1)
    calls: dict[str, Callable[[], Any]] = {
        "G and D": functools.partial(alone, one),
        "draw": lambda: drs.ops.latents(p.gan, drs.Rng(0), p.batch),
        "accept": lambda: append(logit, x),
    }
    if p.device.type == "cuda":
        from benchmarks.gpu.clock import Clock

        clock = Clock()
        return {name: clock.warm(call, graph=True).median for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            if name != "G and D":
                alone(one)
            times[name].append(1e3 * timed(call, p.device))
    return {name: statistics.median(values) for name, values in times.items()}


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


def synchronisations(p: Problem, steps: int = 32) -> float | None:
    """Synchronisations per step after the first steps, as PyTorch counts them."""
    if p.device.type != "cuda":
        return None
    gan = p.gan.on(block=p.batch)
    run = Run(gan, p.sampler, None, Options(batch_size=gan.block, patience=10**9))
    run.begin()
    landed = run.landed(ENDLESS, run.names, Progress(None, enabled=False))
    for _ in range(8):
        next(landed)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(steps):
                next(landed)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return len(caught) / steps


def measure(p: Problem, rounds: int) -> dict[str, list[float]]:
    """Seconds of every loop, round by round.

    On a CPU each runs once in a new process, as people run it, because speed depends on earlier
    use of memory, and our loops change how memory is returned.
    """
    on_gpu = p.device.type == "cuda"
    names = [name for name in WAYS if name != (KEPT if on_gpu else CALLED)]
    times: dict[str, list[float]] = {name: [] for name in names}
    start = time.monotonic()
    for i in range(rounds + on_gpu):
        if i > 1 and time.monotonic() - start > MODEL_S:
            break
        first = i % len(names)
        for name in names[first:] + names[:first]:
            seconds = seconds_of(p, name) if on_gpu else elsewhere(p, name)
            if i or not on_gpu:  # on a GPU the first round warms up
                times[name].append(seconds)
    return times


def seconds_of(p: Problem, name: str) -> float:
    """Seconds of a run, after G and D have been called once."""
    alone(dataclasses.replace(p, steps=1))
    return timed(functools.partial(WAYS[name], p), p.device)


def elsewhere(p: Problem, name: str) -> float:
    """seconds_of in a new process."""
    given = (p.name, p.batch, p.log_m, p.gamma, p.steps, p.n)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_seconds_of, name, torch.get_num_threads(), given).result()


def _seconds_of(name: str, threads: int, given: tuple[Any, ...]) -> float:
    torch.set_num_threads(threads)
    return seconds_of(Problem.of(*given), name)


def row_of(name: str, batch: int, device: str, seconds: float, rounds: int) -> dict[str, Any]:
    """All figures of one model, or the reason if a check fails."""
    row: dict[str, Any] = {"model": name, "batch": batch}
    try:
        p = problem(name, batch, device, seconds)
        check(p)
        times = measure(p, rounds)
        share = parts(p, max(5, min(200, p.steps)))
        waits = synchronisations(p)
    except Differs as error:
        return row | {"wrong": str(error)}
    except (RuntimeError, ValueError) as error:  # the device is too small
        return row | {"skipped": str(error).split("\n")[0]}
    found = {name: statistics.median(values) for name, values in times.items()}

    def ratio(above: str, below: str) -> float:
        """The median over rounds, because other load on the machine comes and goes."""
        pairs = zip(times[above], times[below], strict=True)
        return statistics.median(one / other for one, other in pairs)

    # In a long run the extra ones do not matter.
    probed = PROBED if p.device.type == "cpu" else p.batch
    beside = {OURS: p.sampler.burn_in, TO_DISK: p.sampler.burn_in + probed}  # rows
    steps = {way: p.steps / (p.steps + rows / p.batch) for way, rows in beside.items()}

    def fair(above: str, below: str) -> float:
        return ratio(above, below) / steps[below]

    row |= {"steps": p.steps, "accepted": p.n, "seconds": found, "parts_ms": share}
    row["samples_per_s"] = {n: p.n / s for n, s in found.items() if not n.startswith("limit")}
    row["ratios"] = {
        "drs_fast / limit": fair(LIMIT, OURS),
        "to disk / limit": fair(LIMIT, TO_DISK),
        "drs_fast / plain": fair(PLAIN, OURS),
        "to disk / plain to disk": fair(PLAIN_TO_DISK, TO_DISK),
        "drs_fast / NumPy": fair(NUMPY, OURS),
        "draw / G and D": share["draw"] / share["G and D"],
        "accept / G and D": share["accept"] / share["G and D"],
        "store / step": 1.0 - ratio(OURS, TO_DISK),
    }
    if KEPT in times:
        row["ratios"]["to disk / limit, pages kept"] = fair(KEPT, TO_DISK)
    if waits is not None:
        row["ratios"]["synchronisations a step"] = waits
        row["ratios"]["graph / calls"] = ratio(CALLED, OURS)
    return row


def show(row: dict[str, Any]) -> None:
    print(f"\n{row['model']}, batch {row['batch']:,}", end="")
    if "seconds" not in row:
        print(f": {row.get('wrong') or row.get('skipped')}", flush=True)
        return
    print(f", {row['steps']} steps, {row['accepted']:,} samples")
    for name, seconds in row["seconds"].items():
        rate = row["samples_per_s"].get(name)
        shown = "" if rate is None else f"{rate:14,.0f} samples/s"
        print(f"  {name:28}{1e3 * seconds / row['steps']:10.3f} ms a step{shown}")
    for name, ratio in row["ratios"].items():
        print(f"  {name:28}{ratio:10.3f}")
    sys.stdout.flush()


def judged(rows: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """The targets of the models with figures."""
    ratios = {(row["model"], row["batch"]): row.get("ratios", {}) for row in rows}
    verdicts = []
    for model, batch, name, sign, target in TARGETS[device]:
        value = ratios.get((model, batch), {}).get(name)
        if value is not None:
            reached = value >= target if sign == ">=" else value <= target
            verdicts.append(
                {"model": model, "batch": batch, "ratio": name, "value": value}
                | {"target": f"{sign} {target:g}", "reached": reached}
            )
    return verdicts


def show_targets(verdicts: list[dict[str, Any]]) -> None:
    print("\ntargets of the loop")
    for v in verdicts:
        where = f"{v['model']}, {v['batch']:,}"
        verdict = "pass" if v["reached"] else "FAIL"
        print(f"{where:32}{v['ratio']:28}{v['value']:9.3f}   target {v['target']:8}{verdict}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="one tiny model, to try this program")
    parser.add_argument("--only", metavar="MODEL", choices=MODELS, help="one model")
    parser.add_argument("--seconds", type=float, default=2.0, help="of G and D in a run")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    report = environment()
    print(describe(report))
    chosen = QUICK if options.quick else CPU if options.device == "cpu" else GPU
    rows = []
    for name, batch in chosen:
        if options.only in (None, name):
            rows.append(row_of(name, batch, options.device, options.seconds, options.rounds))
            show(rows[-1])
            if options.json:
                report |= {"rows": rows, "targets": judged(rows, options.device)}
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    show_targets(judged(rows, options.device))
    return 1 if any("wrong" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
