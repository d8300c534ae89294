"""What `python -m benchmarks.gpu` does, stage by stage."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import drs_fast as drs
from benchmarks.gpu import checks, ops, other, profile
from benchmarks.gpu import problems as gpu_ops
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.table import judged, show, show_targets
from benchmarks.speed import cascade, disk, host, loop
from drs_fast.backends import cuda


@dataclass(frozen=True)
class Machine:
    """Where a stage measures, what it adds to, and when it may begin nothing new."""

    clock: Clock
    report: dict[str, Any]
    save: Callable[[], None]
    quick: bool = False
    until: float = float("inf")  # on the clock of time.monotonic

    @property
    def device(self) -> torch.device:
        return self.clock.device

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


def build(machine: Machine) -> None:
    """The extensions, in place, and CUB's peer."""
    if machine.on_gpu:
        machine.report["steps"] |= checks.build()
        importlib.invalidate_caches()
        importlib.reload(cuda)  # which has just been built
        drs.ops.dispatch._dispatch.cache_clear()


def tests(machine: Machine) -> None:
    """The GPU tests, and every kernel under a sanitizer."""
    if machine.on_gpu:
        machine.report["steps"] |= checks.tests()


def single_ops(machine: Machine) -> None:
    """accept_compact and its kin for many sizes, and the other ops."""
    report, clock = machine.report, machine.clock
    sizes = (ops.QUICK if machine.quick else ops.SIZES) if machine.on_gpu else ops.TINY
    report["rows"] = []
    with drs.backend("triton"):
        for size in sizes:
            row = ops.measured(clock, size, machine.until)
            report["rows"].append(row)
            n, d, share, dtype = size
            title = f"N = {n:,}, d = {d} {row['dtype']}, {100 * share:g} % accepted"
            show(row, title, moved=2 * d * dtype.itemsize * row["accepted"])
            machine.save()
        report["other"] = other.measured(
            clock, 10**6 if machine.on_gpu else 1000, ops.attempt, ops.blank
        )
    show(report["other"], f"other ops, N = {report['other']['n']:,}")
    show_targets(report["rows"])
    report["reached"] = [judged(row) for row in report["rows"]]


def hosts(machine: Machine) -> None:
    """What a call costs the host, by every backend."""
    for n in (1, 4096) if machine.on_gpu else (1,):
        row = host.measured(machine.device, n, rounds=40 if machine.on_gpu else 1)
        host.show(row)
        machine.report.setdefault("host", []).append(row)


def loops(machine: Machine) -> None:
    """Whole runs with the default backend, in memory and to disk."""
    report, device = machine.report, machine.device.type
    report["loop"] = []
    seconds, rounds = (0.4, 2) if machine.on_gpu else (0.01, 1)
    for name, batch in loop.GPU if machine.on_gpu else loop.QUICK:
        if time.monotonic() < machine.until:
            row = loop.row_of(name, batch, device, seconds, rounds)
        else:
            row = {"model": name, "batch": batch, "skipped": "out of time"}
        loop.show(row)
        report["loop"].append(row)
        machine.save()
    report["loop_targets"] = loop.judged(report["loop"], device)
    loop.show_targets(report["loop_targets"])


def cascades(machine: Machine) -> None:
    """Low precision first: every model at p80, then at rarer samples."""
    machine.report["cascade"] = []
    models = cascade.STAGE if machine.on_gpu else cascade.QUICK
    for way in cascade.WAYS if machine.on_gpu else ("p80",):
        for model in models:
            if time.monotonic() < machine.until:
                row = cascade.row_of(model, way, machine.device.type, cascade.BRIEFLY)
            else:
                row = {"model": model, "way": way, "skipped": "out of time"}
            cascade.show(row)
            machine.report["cascade"].append(row)
            machine.save()


def disks(machine: Machine) -> None:
    """Shards against bare writing, and image runs to disk against the same in memory."""
    machine.report["disk"] = disk.measured(machine.device, quick=not machine.on_gpu, rounds=3)
    disk.show(machine.report["disk"])


def profiles(machine: Machine) -> None:
    """The top kernels of a step, of runs whose speed is not explained yet."""
    machine.report["profile"] = []
    for name, batch, graph in profile.RUNS if machine.on_gpu else profile.QUICK:
        if time.monotonic() > machine.until:
            print(f"profile of {name}, {batch:,}: out of time")
            break
        row = profile.profiled(name, batch, machine.device.type, graph=graph)
        profile.show(row)
        machine.report["profile"].append(row)
        machine.save()


def tune(machine: Machine) -> None:
    """accept_compact and accept_latents with other constants of the Triton backend."""
    size = (10**6, 128, 0.2, torch.float32) if machine.on_gpu else ops.TINY[0]
    with drs.backend("triton"):
        problem = gpu_ops.problem(machine.device, *size)
        machine.report["tune"] = ops.tune(machine.clock, problem, machine.until)
    show(machine.report["tune"], f"N = {size[0]:,}, d = {size[1]}, other settings")


# In the order in which they run, each with its share of the time.
STAGES: dict[str, tuple[Callable[[Machine], None], float]] = {
    "build": (build, 50.0),
    "tests": (tests, 190.0),
    "host": (hosts, 15.0),
    "ops": (single_ops, 70.0),
    "loop": (loops, 75.0),
    "cascade": (cascades, 75.0),
    "disk": (disks, 25.0),
    "profile": (profiles, 25.0),
    "tune": (tune, 20.0),
}


def deadlines(chosen: list[str], seconds: float) -> dict[str, float]:
    """When each stage must begin nothing new: the time is shared out among those chosen."""
    whole, passed, ends = sum(STAGES[name][1] for name in chosen), 0.0, {}
    for name in chosen:
        passed += STAGES[name][1]
        ends[name] = seconds * passed / whole
    return ends
