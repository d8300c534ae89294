"""accept + compact against what people write instead, and against the limits of memory.

python -m benchmarks.speed.ops [--json FILE] [--all]
"""

import argparse
import functools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common.timing import describe, environment, interleaved
from drs_fast.backends import cpu
from drs_fast.core.compacted import Compacted

EPS = 1e-6
BATCH = 256  # of the loop in public code
NUMBA_BLOCK = 4096
Call = Callable[[], Any]


@dataclass(frozen=True)
class Problem:
    """N proposals with their logits; column 0 of the rows is their number."""

    rows: Tensor  # (N, d) float32
    logit: Tensor  # (N,) float32
    rng: drs.Rng
    log_m: float
    gamma: float
    expected: Compacted  # from the reference backend
    accepted: Tensor  # (count, d) the accepted rows, contiguous
    out: Compacted  # capacity N: the destination of all calls that accept one
    mean: float  # expected number of accepted rows
    sd: float

    @property
    def arguments(self) -> dict[str, Any]:
        return {"rng": self.rng, "log_m": self.log_m, "gamma": self.gamma, "eps": EPS}


def problem(n: int, d: int, acceptance: float) -> Problem:
    """Standard normal logits, and the gamma that accepts this share of them."""
    rng = drs.Rng(0)
    logit = drs.ops.normal(rng, n, 1)[:, 0].contiguous()
    rows = drs.ops.normal(rng, n, d, draw=1)
    rows[:, 0] = torch.arange(n)
    log_m = float(logit.max())
    low, high = -50.0, 50.0
    for _ in range(40):
        gamma = (low + high) / 2
        p = drs.ops.probability(logit, log_m=log_m, gamma=gamma, eps=EPS)
        low, high = (gamma, high) if float(p.mean()) > acceptance else (low, gamma)
    arguments: dict[str, Any] = {"rng": rng, "log_m": log_m, "gamma": gamma, "eps": EPS}
    with drs.backend("reference"):
        expected = drs.ops.accept_compact(logit, rows, **arguments)
    return Problem(
        rows=rows,
        logit=logit,
        rng=rng,
        log_m=log_m,
        gamma=gamma,
        expected=expected,
        accepted=expected.rows[0][: int(expected.count)].clone(),
        out=_destination(expected),
        mean=float(p.sum()),
        sd=math.sqrt(float((p * (1 - p)).sum())),
    )


def _destination(like: Compacted) -> Compacted:
    def zeros(tensor: Tensor) -> Tensor:  # not empty, because a buffer in use has its pages
        return torch.zeros_like(tensor)

    return Compacted(
        tuple(zeros(row) for row in like.rows),
        zeros(like.ids),
        zeros(like.logit),
        zeros(like.count),
        zeros(like.invalid),
        zeros(like.above),
    )


def ours(p: Problem) -> Call:
    return lambda: drs.ops.accept_compact(p.logit, p.rows, **p.arguments, out=p.out)


def ours_allocating(p: Problem) -> Call:
    return lambda: drs.ops.accept_compact(p.logit, p.rows, **p.arguments)


def ours_weighted(p: Problem) -> Call:
    """What a run does that is asked for weights: those of the accepted rows."""
    threshold = {"log_m": p.log_m, "gamma": p.gamma, "eps": EPS}

    def call() -> Compacted:
        kept = drs.ops.accept_compact(p.logit, p.rows, **p.arguments, out=p.out)
        drs.ops.weight(kept.logit[: int(kept.count)], **threshold)
        return kept

    return call


def _keep(p: Problem) -> Tensor:
    d = p.logit - p.log_m
    f = d - torch.log(1 - torch.exp(d - EPS)) - p.gamma
    return torch.rand(len(f)) < torch.sigmoid(f)


def torch_eager(p: Problem) -> Call:
    return lambda: p.rows[_keep(p)]


def torch_preallocated(p: Problem) -> Call:
    def call() -> Tensor:
        kept = _keep(p).nonzero()[:, 0]
        return torch.index_select(p.rows, 0, kept, out=p.out.rows[0][: len(kept)])

    return call


def torch_compiled(p: Problem) -> Call:
    compiled = torch.compile(lambda rows: rows[_keep(p)])
    call = lambda: compiled(p.rows)  # noqa: E731
    try:
        for _ in range(3):
            call()
    except Exception as error:
        raise Missing(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return call


def _numpy_keep(logit: np.ndarray, p: Problem, random: np.random.Generator) -> np.ndarray:
    d = logit - np.float32(p.log_m)
    f = d - np.log(1 - np.exp(d - np.float32(EPS))) - np.float32(p.gamma)
    return random.random(len(f), dtype=np.float32) < 1 / (1 + np.exp(-f))


def numpy_mask(p: Problem) -> Call:
    rows, logit, random = p.rows.numpy(), p.logit.numpy(), np.random.default_rng(0)
    return lambda: rows[_numpy_keep(logit, p, random)]


def numpy_take(p: Problem) -> Call:
    rows, logit, random = p.rows.numpy(), p.logit.numpy(), np.random.default_rng(0)
    out = p.out.rows[0].numpy()

    def call() -> np.ndarray:
        (kept,) = np.nonzero(_numpy_keep(logit, p, random))
        # mode="raise" would go through a copy of out.
        return np.take(rows, kept, axis=0, out=out[: len(kept)], mode="clip")

    return call


def numpy_loop(p: Problem) -> Call:
    random = np.random.default_rng(0)

    def call() -> np.ndarray:
        kept = []
        for start in range(0, len(p.logit), BATCH):
            logit = p.logit[start : start + BATCH].cpu().numpy()
            x = p.rows[start : start + BATCH].cpu().numpy()
            for row, accepted in zip(x, _numpy_keep(logit, p, random), strict=True):
                if accepted:
                    kept.append(row[None])
        return np.concatenate(kept)

    return call


def numba_parallel(p: Problem) -> Call:
    import numba

    numba.set_num_threads(torch.get_num_threads())
    rows, logit, out = p.rows.numpy(), p.logit.numpy(), p.out.rows[0].numpy()
    blocks = -(-len(logit) // NUMBA_BLOCK)
    scratch, start = np.empty((blocks, NUMBA_BLOCK), np.int64), np.zeros(blocks + 1, np.int64)
    arguments = (rows, logit, p.log_m, math.exp(p.gamma), EPS, scratch, start, out)
    kernel = _numba_kernel()
    return lambda: out[: kernel(*arguments)]


@functools.cache
def _numba_kernel() -> Any:
    """Two passes over blocks: decide and list, then copy to the places given by the counts."""
    import numba

    @numba.njit(parallel=True, fastmath=True)
    def accept_compact(rows, logit, log_m, c1, eps, scratch, start, out):  # type: ignore[no-untyped-def]
        for b in numba.prange(len(start) - 1):
            count = 0
            for i in range(b * NUMBA_BLOCK, min((b + 1) * NUMBA_BLOCK, len(logit))):
                e = np.exp(np.float64(logit[i]) - log_m)
                if np.random.random() * (e + c1 * (1 - e * np.exp(-eps))) < e:
                    scratch[b, count] = i
                    count += 1
            start[b + 1] = count
        for b in range(len(start) - 1):
            start[b + 1] += start[b]
        for b in numba.prange(len(start) - 1):
            for j in range(start[b + 1] - start[b]):
                i, to = scratch[b, j], start[b] + j
                for k in range(rows.shape[1]):
                    out[to, k] = rows[i, k]
        return start[-1]

    return accept_compact


def gather(p: Problem) -> Call:
    refuse_without_extension()
    count = int(p.expected.count)
    indices = p.expected.ids[:count].clone()

    def call() -> Tensor:
        return cpu.gather(p.rows, indices, p.out.rows[0])[:count]

    return call


def copy(p: Problem) -> Call:
    target = p.out.rows[0][: len(p.accepted)]
    return lambda: target.copy_(p.accepted)


def streamed_copy(p: Problem) -> Call:
    """The same copy with stores that bypass the caches, like the gather's."""
    refuse_without_extension()
    indices = torch.arange(len(p.accepted))

    def call() -> Tensor:
        return cpu.gather(p.accepted, indices, p.out.rows[0])[: len(indices)]

    return call


class Missing(Exception):
    """A case that cannot run here, and why."""


def refuse_without_extension() -> None:
    reason = cpu.refuses(torch.device("cpu"))
    if reason is not None:
        raise Missing(reason)


@dataclass(frozen=True)
class Case:
    name: str
    prepare: Callable[[Problem], Call]  # everything that need not be repeated
    random: bool = True  # draws its own random numbers
    slow: bool = False  # left out of --all


OURS = Case("drs_fast, out given", ours, random=False)
WEIGHTED = Case("drs_fast, with weights", ours_weighted, random=False)
EAGER = Case("torch eager", torch_eager)
PEERS = (
    Case("torch eager, preallocated", torch_preallocated),
    Case("torch.compile", torch_compiled, slow=True),
    Case("numpy rows[mask]", numpy_mask),
    Case("numpy take(out=)", numpy_take),
    Case("numba, two passes", numba_parallel),
    Case("numpy loop of public code", numpy_loop, slow=True),
)
GATHER = Case("gather, indices known", gather, random=False)
COPY = Case("copy of the accepted rows", copy, random=False)
STREAMED = Case("same, streaming stores", streamed_copy, random=False)
ALLOCATING = Case("drs_fast, no out", ours_allocating, random=False)
CASES = (OURS, ALLOCATING, WEIGHTED, EAGER, *PEERS, GATHER, COPY, STREAMED)

TARGETS = {
    "x eager": 6.0,
    "x best other": 1.8,
    "% of copy": 55.0,
    "x gather": 1.2,
    "x weighted": 1.05,
}
MOST = ("x gather", "x weighted")  # targets that are upper limits


def prepared(case: Case, p: Problem) -> Call:
    """The call to time, after its result was checked; RuntimeError if it is wrong.

    Raises Missing or ImportError if the case cannot run.
    """
    call = case.prepare(p)
    check(case, p, call())
    return call


def check(case: Case, p: Problem, result: Any) -> None:
    """RuntimeError unless it is the reference's result or, if random, a fair number of rows."""
    count = int(p.expected.count)
    if isinstance(result, Compacted):
        same = (
            int(result.count) == count
            and torch.equal(result.ids[:count], p.expected.ids[:count])
            and torch.equal(result.logit[:count], p.expected.logit[:count])
        )
        if not same:
            raise RuntimeError(f"{case.name}: ids, logits or count differ from the reference")
        result = result.rows[0][:count]
    rows = torch.as_tensor(result)
    ids = rows[:, 0].long()
    if not case.random and not torch.equal(rows, p.accepted):
        raise RuntimeError(f"{case.name}: rows differ from the reference")
    if abs(len(rows) - p.mean) > 5 * p.sd:
        raise RuntimeError(
            f"{case.name}: {len(rows)} rows accepted, expected {p.mean:.0f} +- {p.sd:.0f}"
        )
    if not bool((ids.diff() > 0).all()) or not torch.equal(rows, p.rows[ids]):
        raise RuntimeError(f"{case.name}: rows are not the accepted rows in order")


def measure(p: Problem, repeats: int, *, slow: bool) -> dict[str, Any]:
    """Timings of all cases, their ratios, and why a case is missing."""
    calls, skipped = {}, {}
    for case in CASES:
        if case.slow and not slow:
            continue
        try:
            calls[case.name] = prepared(case, p)
        except (Missing, ImportError) as missing:
            skipped[case.name] = str(missing)
    timings = interleaved(calls, repeats)
    median = {name: timing.median for name, timing in timings.items()}
    own = median[OURS.name]
    others = [median[case.name] for case in PEERS if case.name in median]
    ratios = {"x eager": median[EAGER.name] / own, "x best other": min(others) / own}
    ratios["% of copy"] = 100 * median[COPY.name] / own
    if GATHER.name in median:
        ratios["x gather"] = own / median[GATHER.name]
    ratios["x weighted"] = median[WEIGHTED.name] / own
    if STREAMED.name in median:
        ratios["% of streamed copy"] = 100 * median[STREAMED.name] / own
    n, d = p.rows.shape
    return {
        "n": n,
        "d": d,
        "accepted": int(p.expected.count),
        "repeats": repeats,
        "ms": {name: asdict(timing) for name, timing in timings.items()},
        "skipped": skipped,
        "ratios": ratios,
    }


def reached(ratios: dict[str, float]) -> dict[str, bool]:
    return {
        name: ratios[name] <= target if name in MOST else ratios[name] >= target
        for name, target in TARGETS.items()
        if name in ratios
    }


def show(row: dict[str, Any]) -> None:
    share = 100 * row["accepted"] / row["n"]
    print(f"\nN = {row['n']:,}, d = {row['d']} float32, {share:.1f} % accepted")
    print(f"{'':28}{'median ms':>10}{'p10':>9}{'p90':>9}{'GB/s':>7}")
    moved = 2 * 4 * row["d"] * row["accepted"]
    for name, ms in row["ms"].items():
        rate = moved / ms["median"] / 1e6
        print(f"{name:28}{ms['median']:10.2f}{ms['p10']:9.2f}{ms['p90']:9.2f}{rate:7.1f}")
    for name, reason in row["skipped"].items():
        print(f"{name:28}skipped: {reason}")


def show_targets(ratios: dict[str, float]) -> None:
    print()
    for name, good in reached(ratios).items():
        sign = "<=" if name in MOST else ">="
        verdict = "pass" if good else "FAIL"
        print(f"{name:14}{ratios[name]:8.2f}   target {sign} {TARGETS[name]:g}   {verdict}")


def show_grid(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'N':>10}{'d':>5}{'accepted':>10}{'ours ms':>9}", end="")
    print("".join(f"{name:>14}" for name in TARGETS))
    for row in rows:
        share, own = 100 * row["accepted"] / row["n"], row["ms"][OURS.name]["median"]
        ratios = "".join(f"{row['ratios'].get(name, math.nan):14.2f}" for name in TARGETS)
        print(f"{row['n']:>10,}{row['d']:>5}{share:>9.1f}%{own:>9.2f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--all", action="store_true", help="other widths and acceptances as well")
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    report = environment()
    print(describe(report))
    l3 = report["device"]["l3"] or "unknown"
    print(f"caches flushed before every call by reading 640 MB (L3: {l3})")
    main_row = measure(problem(options.n, 128, 0.2), options.repeats, slow=True)
    show(main_row)
    show_targets(main_row["ratios"])
    rows = [main_row]
    if options.all:
        for d in (2, 32, 128, 512):
            n = min(options.n, 128 * options.n // d)  # at most the bytes of the main case
            for share in (0.01, 0.2, 0.8):
                rows.append(measure(problem(n, d, share), options.repeats, slow=False))  # noqa: PERF401
        show_grid(rows[1:])
    if options.json:
        report |= {"targets": TARGETS, "reached": reached(main_row["ratios"]), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
