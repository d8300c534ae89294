"""Ratios, targets and tables of the GPU benchmark."""

import math
import operator
import sys
from typing import Any

from benchmarks.gpu.problems import CUDA, EAGER, GATHER, LATENTS, OURS, TWO

KINDS = ("launch", "graph", "warm", "host")
WARM = 65_536  # up to this many rows, launches dominate
TARGETS = {
    "accept_compact / index_select": ("<=", 1.10),
    "accept_latents / index_select": ("<", 0.75),
    "torch eager / accept_compact": (">=", 10.0),
    "accept_compact, us in a graph": ("<", 12.0),
    "CUDA C++ / Triton": ("<=", 1.0),
}


COMPARE = {"<": operator.lt, "<=": operator.le, ">=": operator.ge}


def ratios(row: dict[str, Any]) -> dict[str, float]:
    """Medians: cold graph replays against each other, warm calls against each other."""
    median = {
        (name, kind): timing["median"]
        for name, kinds in row["ms"].items()
        for kind, timing in kinds.items()
    }
    own, limit = (OURS.name, "graph"), (GATHER.name, "graph")
    wanted = {
        "accept_compact / index_select": (own, limit),
        "accept_latents / index_select": ((LATENTS.name, "graph"), limit),
        "CUDA C++ / Triton": ((CUDA.name, "graph"), own),
        "two launches / one": ((TWO.name, "graph"), own),
        "torch eager / accept_compact": ((EAGER.name, "warm"), (OURS.name, "warm")),
        "torch eager / accept_compact, both cold": ((EAGER.name, "launch"), (OURS.name, "launch")),
    }
    found = {
        name: median[above] / median[below]
        for name, (above, below) in wanted.items()
        if above in median and below in median
    }
    if (OURS.name, "warm") in median:
        found["accept_compact, us in a graph"] = 1e3 * median[OURS.name, "warm"]
    return found


def judged(row: dict[str, Any]) -> dict[str, bool | None]:
    """The targets for this size, and whether they are reached; None without a figure."""
    if row["dtype"] != "float32" or row["share"] != 0.2 or row["d"] < 128:
        return {}
    large, small = row["n"] >= 10**6, row["n"] <= WARM and row["d"] == 128
    verdict: dict[str, bool | None] = {}
    for name, (sign, target) in TARGETS.items():
        wanted = large if name.endswith("index_select") else small or name == "CUDA C++ / Triton"
        if wanted:
            value = row["ratios"].get(name)
            verdict[name] = None if value is None else COMPARE[sign](value, target)
    return verdict


def show(row: dict[str, Any], title: str, moved: int = 0) -> None:
    """moved: bytes that a case moves if it does not say so itself."""
    print(f"\n{title}")
    print(f"{'':34}" + "".join(f"{name + ' us':>10}" for name in KINDS) + f"{'GB/s':>7}")
    for name, kinds in row["ms"].items():
        columns = [_us(kinds.get(kind)) for kind in KINDS]
        cold, total = kinds.get("graph", kinds.get("launch")), kinds.get("bytes", moved)
        rate = f"{total / cold['median'] / 1e6:7.0f}" if total and cold else ""
        print(f"{name:34}{''.join(columns)}{rate}")
    for kind in ("skipped", "wrong"):
        for name, reason in row[kind].items():
            print(f"{name:34}{kind}: {reason}")
    sys.stdout.flush()


def _us(timing: dict[str, float] | None) -> str:
    return f"{'-':>10}" if timing is None else f"{1e3 * timing['median']:10.1f}"


def show_targets(rows: list[dict[str, Any]]) -> None:
    print("\ntargets (20 % of float32 rows)")
    for row in rows:
        for name, reached in judged(row).items():
            sign, target = TARGETS[name]
            value = row["ratios"].get(name, math.nan)
            verdict = {True: "pass", False: "FAIL", None: "not measured"}[reached]
            size = f"{row['n']:>10,} x {row['d']:<5}"
            print(f"{size}{name:32}{value:8.2f}   target {sign} {target:g}   {verdict}")
