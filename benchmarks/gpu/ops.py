"""Figures of single ops on a device, each after its result was checked."""

import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.gpu import problems as gpu_ops
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.problems import CASES, LATENTS, OURS, Case, Differs, Problem
from benchmarks.gpu.table import WARM, ratios
from benchmarks.speed.ops import Missing
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
MEMORY = 0.6  # of the free memory
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


def tune(clock: Clock, p: Problem, until: float) -> dict[str, Any]:
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
        if time.monotonic() > until:
            row["skipped"][name] = "out of time"
            continue
        with gpu_ops.settings(**values):
            attempt(row, clock, name, functools.partial(measure, clock, p, case))
    return row
