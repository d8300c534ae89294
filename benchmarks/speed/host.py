"""What one call costs the host, by every backend that runs, against the eager line.

python -m benchmarks.speed.host [--json FILE] [-n ROWS]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common.timing import describe, environment
from benchmarks.speed.loop_ways import Differs
from benchmarks.speed.ops import EPS
from drs_fast.core.compacted import Compacted

D, LOG_M, GAMMA = 128, 0.5, 0.0
CALLS, ROUNDS = 40, 150
EAGER = "eager: z[rand < sigmoid(F)]"
Call = Callable[[], Any]


def calls(logit: Tensor, z: Tensor, rng: drs.Rng) -> dict[str, Call]:
    """The ways in which the current backend accepts these rows."""
    out = Compacted.empty(logit, (z,))
    arguments: dict[str, Any] = {"rng": rng, "log_m": LOG_M, "gamma": GAMMA}
    capacity = 1 << len(logit).bit_length()
    ring, other = (
        drs.ops.ring(logit, z, rng=rng, capacity=capacity, log_m=LOG_M) for _ in range(2)
    )
    append = drs.ops.appending(other, log_m=LOG_M, gamma=GAMMA)
    return {
        "accept_compact, out given": lambda: drs.ops.accept_compact(logit, z, **arguments, out=out),
        "accept_compact": lambda: drs.ops.accept_compact(logit, z, **arguments),
        "accept_append": lambda: drs.ops.accept_append(
            logit, z, ring=ring, log_m=LOG_M, gamma=GAMMA
        ),
        "what appending returns": lambda: append(logit, z),
    }


def check(name: str, call: Call, expected: Compacted) -> None:
    """Differs unless the first call accepts the rows that the reference accepts."""
    found, count = call(), int(expected.count)
    accepted = int(found.count if isinstance(found, Compacted) else found.cursor)
    pairs = zip((*found.rows, found.ids), (*expected.rows, expected.ids), strict=True)
    if accepted != count or not all(torch.equal(one[:count], two[:count]) for one, two in pairs):
        raise Differs(f"{name}: other rows than the reference's")


def eager(logit: Tensor, z: Tensor) -> Call:
    def call() -> Tensor:
        d = logit - LOG_M
        f = d - torch.log(1 - torch.exp(d - EPS)) - GAMMA
        return z[torch.rand(len(f), device=f.device) < torch.sigmoid(f)]

    return call


def microseconds(timed: dict[str, Call], rounds: int, synchronize: Call) -> dict[str, float]:
    """The quickest round of each, in turn: other work on the machine only ever adds time."""
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(rounds):
        for name, call in timed.items():
            call()
            synchronize()
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], 1e6 * (time.perf_counter() - start) / CALLS)
            synchronize()
    return best


def measured(device: torch.device, n: int, rounds: int) -> dict[str, Any]:
    """Microseconds a call by backend and way; why the others cannot run."""
    rng = drs.Rng(0)
    z = drs.ops.normal(rng, n, D, device=device)
    logit = z[:, 0].clone()
    with drs.backend("reference"):
        expected = drs.ops.accept_compact(logit, z, rng=rng, log_m=LOG_M, gamma=GAMMA)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    us, skipped = {}, {}
    for name, reason in drs.ops.dispatch.available(device).items():
        if reason is not None:
            skipped[name] = reason
            continue
        with drs.backend(name):
            ways = calls(logit, z, rng)
            for way, call in ways.items():
                check(f"{name}, {way}", call, expected)
            us[name] = microseconds({EAGER: eager(logit, z), **ways}, rounds, synchronize)
    return {
        "device": str(device),
        "n": n,
        "d": D,
        "us": us,
        "skipped": skipped,
    }


def show(row: dict[str, Any]) -> None:
    print(f"N = {row['n']}, d = {row['d']} on {row['device']}; us a call, and in eager lines")
    for name, ways in row["us"].items():
        for way, us in ways.items():
            print(f"{name:12}{way:30}{us:9.2f}{us / ways[EAGER]:8.2f}")
    for name, reason in row["skipped"].items():
        print(f"{name:12}skipped: {reason}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("-n", type=int, default=1, help="rows in a call")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = environment()
    print(describe(report))
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    report["rows"] = [measured(torch.device(at), options.n, options.rounds) for at in devices]
    for row in report["rows"]:
        show(row)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
