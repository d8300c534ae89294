"""Builds, tests and times the Triton backend on a GPU, against what people write instead.

python -m benchmarks.gpu [--output FILE] [--quick] [--tune]
"""

import argparse
import faulthandler
import functools
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import drs_fast as drs
from benchmarks.common.timing import describe, environment
from benchmarks.gpu import checks as gpu_checks
from benchmarks.gpu import other as gpu_other
from benchmarks.gpu import problems as gpu_ops
from benchmarks.gpu.clock import Clock, HostClock
from benchmarks.gpu.problems import CASES, LATENTS, OURS, Case, Differs, Problem
from benchmarks.gpu.table import TARGETS, WARM, judged, ratios, show, show_targets
from benchmarks.speed import loop
from benchmarks.speed.ops import Missing
from drs_fast.backends import cuda
from drs_fast.backends import triton as backend

Size = tuple[int, int, float, torch.dtype]  # N, d, share accepted, dtype of the rows
SIZES: tuple[Size, ...] = (
    *((n, 128, 0.2, torch.float32) for n in (65_536, 10**6, 1000, 10**4, 10**5, 10**7)),
    *((n, 128, share, torch.float32) for n in (65_536, 10**6) for share in (0.01, 0.8)),
    *((n, 128, 0.2, torch.bfloat16) for n in (65_536, 10**6)),
    *((n, 512, 0.2, torch.float32) for n in (10**6, 65_536, 1000, 10**4, 10**5, 10**7)),
    *((n, 32, 0.2, torch.float32) for n in (10**6, 65_536, 1000, 10**4, 10**5, 10**7)),
)  # most important first
QUICK = (*SIZES[:2], (10**6, 512, 0.2, torch.float32), (10**6, 128, 0.2, torch.bfloat16))
TINY: tuple[Size, ...] = ((1000, 32, 0.2, torch.float32), (1000, 32, 0.2, torch.bfloat16))
RESULTS = Path(__file__).parents[1] / "results" / "gpu.json"
MEMORY = 0.6  # of the free memory
DEADLINE_S, LOOP_S, KILLED_S = 370.0, 440.0, 475.0  # no new size, no new loop, stop
CHUNKS, WARPS, DRAWS = (1024, 2048, 4096, 8192), (4, 8, 16), (1, 2, 4, 8, 16)


def measure(clock: Clock, p: Problem, case: Case, found: dict[str, Any]) -> None:
    """Figures of one case, each after its result was checked; Differs if it is wrong."""
    call = case.prepare(p)
    gpu_ops.poison(p)
    gpu_ops.check(case, p, call())
    found["launch"] = asdict(clock.launch(call))
    if case.graph:
        replay = clock.capture(call)
        gpu_ops.poison(p)
        gpu_ops.check(case, p, replay())
        found["graph"] = asdict(clock.cold(replay))
    if len(p.logit) <= WARM:
        found["warm"] = asdict(clock.warm(call, graph=case.graph))


def attempt(
    row: dict[str, Any], clock: Clock, name: str, fill: Callable[[dict[str, Any]], None]
) -> None:
    """Fills row["ms"][name], or says why figures are missing."""
    found: dict[str, Any] = {}
    try:
        fill(found)
    except Differs as error:
        row["wrong"][name] = str(error)
        found = {}
    except Exception as error:  # a peer's, or out of memory: others continue
        row["skipped"][name] = short(error)
    if found:
        row["ms"][name] = found
    try:
        clock.release()
    except RuntimeError as error:
        row["skipped"][name] = f"the device is lost: {short(error)}"


def short(error: Exception) -> str:
    name = "" if isinstance(error, Missing) else f"{type(error).__name__}: "
    return f"{name}{error}".split("\n")[0]


def blank(**values: Any) -> dict[str, Any]:
    return {**values, "ms": {}, "skipped": {}, "wrong": {}}


def measured(clock: Clock, size: Size, until: float) -> dict[str, Any]:
    n, d, share, dtype = size
    row = blank(n=n, d=d, share=share, dtype=gpu_ops.dtype_name(dtype), accepted=0, ratios={})
    try:
        if time.monotonic() > until:
            raise Missing("out of time")
        clock.release()
        wanted, free = gpu_ops.problem_bytes(*size), clock.free_bytes()
        if wanted > MEMORY * free:
            raise Missing(f"{wanted / 1e9:.0f} GB wanted, {free / 1e9:.0f} GB free")
        p = gpu_ops.problem(clock.device, *size)
    except Exception as error:
        row["skipped"]["all"] = short(error)
        return row
    row["accepted"] = len(p.kept)
    for case in CASES:
        attempt(row, clock, case.name, functools.partial(measure, clock, p, case))
    row["ratios"] = ratios(row)
    return row


def tune(clock: Clock, p: Problem) -> dict[str, Any]:
    """Cold graph replays of one problem with other constants of the backend."""
    row = blank(n=len(p.logit), d=p.rows.shape[1])
    options = [
        (OURS, {"CHUNK": chunk, "OPTIONS": backend.OPTIONS | {"num_warps": warps}})
        for chunk, warps in itertools.product(CHUNKS, WARPS)
    ] + [(LATENTS, {"DRAWS": draws}) for draws in DRAWS]
    for case, values in options:
        shown = [f"{name} {value}" for name, value in values.items() if name != "OPTIONS"]
        if "OPTIONS" in values:
            shown.append(f"{values['OPTIONS']['num_warps']} warps")
        name = f"{case.name}, {', '.join(shown)}"
        with gpu_ops.settings(**values):
            attempt(row, clock, name, functools.partial(measure, clock, p, case))
    return row


def loop_rows(device: str, until: float) -> Iterator[dict[str, Any]]:
    """Whole runs with the default backend."""
    on_gpu = device == "cuda"
    for name, batch in loop.GPU if on_gpu else loop.QUICK:
        seconds, rounds = (0.4, 2) if on_gpu else (0.01, 1)
        if time.monotonic() < until:
            row = loop.row_of(name, batch, device, seconds, rounds)
        else:
            row = {"model": name, "batch": batch, "skipped": "out of time"}
        loop.show(row)
        yield row


def main(arguments: list[str] | None = None) -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"on a GPU {RESULTS.name}")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--tune", action="store_true", help="other settings instead of other sizes")
    parser.add_argument("--no-checks", action="store_true", help="no build, tests or sanitizer")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda",
        help="cpu: tiny sizes in Triton's interpreter, to try this program",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    if not on_gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton and the kernels are imported
    reason = backend.refuses(torch.device(options.device))
    if reason is not None:
        hint = "; --device cpu tries this program without a GPU" if on_gpu else ""
        print(reason + hint, file=sys.stderr)
        return 1
    if on_gpu:
        faulthandler.dump_traceback_later(KILLED_S, exit=True)  # even if a kernel never ends
    report = environment()
    triton = importlib.import_module("triton")
    report["versions"] |= {"triton": triton.__version__, "cuda": torch.version.cuda}
    report |= {"targets": {name: list(target) for name, target in TARGETS.items()}, "steps": {}}
    print(describe(report), flush=True)
    if on_gpu and not options.no_checks:
        report["steps"] = gpu_checks.every_step()
        importlib.invalidate_caches()
        importlib.reload(cuda)  # which has just been built
        drs.ops.dispatch._dispatch.cache_clear()
    clock = Clock() if on_gpu else HostClock()
    report["device"] |= clock.describe()
    print(report["device"], flush=True)

    # An interpreter's times are not worth keeping.
    output = options.output or (RESULTS if on_gpu else None)

    def save() -> None:
        if output is not None:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(report, indent=1) + "\n")

    save()
    sizes = (QUICK if options.quick else SIZES) if on_gpu else TINY
    tables: list[dict[str, Any]] = []
    with drs.backend("triton"):
        if options.tune:
            size = (10**6, 128, 0.2, torch.float32) if on_gpu else TINY[0]
            report["tune"] = tune(clock, gpu_ops.problem(clock.device, *size))
            tables.append(report["tune"])
            show(report["tune"], f"N = {size[0]:,}, d = {size[1]}, other settings")
            save()
        else:
            report["rows"] = []
            for size in sizes:
                row = measured(clock, size, start + DEADLINE_S)
                report["rows"].append(row)
                tables.append(row)
                n, d, share, dtype = size
                title = f"N = {n:,}, d = {d} {row['dtype']}, {100 * share:g} % accepted"
                show(row, title, moved=2 * d * dtype.itemsize * row["accepted"])
                save()
            report["other"] = gpu_other.measured(clock, 10**6 if on_gpu else 1000, attempt, blank)
            tables.append(report["other"])
            show(report["other"], f"other ops, N = {report['other']['n']:,}")
            show_targets(report["rows"])
            report["reached"] = [judged(row) for row in report["rows"]]
            save()
    if not options.tune:
        report["loop"] = []
        for row in loop_rows(options.device, start + LOOP_S):
            report["loop"].append(row)
            save()
        report["loop_targets"] = loop.judged(report["loop"], options.device)
        loop.show_targets(report["loop_targets"])
        save()
    failed = [name for name, step in report["steps"].items() if step["result"] != "passed"]
    for name in failed:
        print(f"{name}: {report['steps'][name]['result']}")
    bad = [name for name in failed if not report["steps"][name]["result"].startswith("skipped")]
    bad += [name for row in tables for name in row["wrong"]]
    bad += [row["model"] for row in report.get("loop", ()) if "wrong" in row]
    faulthandler.cancel_dump_traceback_later()
    print(f"{time.monotonic() - start:.0f} s in all; {len(bad)} failed or wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
