"""Whole runs against plain PyTorch loops on the same G and D, and against G and D alone.

python -m benchmarks.loop [--device cuda] [--quick] [--json FILE]
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import drs_fast as drs
from benchmarks import gans
from benchmarks.timing import describe, environment
from drs_fast import pages
from drs_fast.engine import ENDLESS
from drs_fast.progress import Progress
from drs_fast.run import Run

EPS = 1e-6
ACCEPTANCE = 0.2
MODELS: dict[str, Callable[[], drs.GAN]] = {
    "25gaussians": lambda: drs.load("25gaussians"),
    "digits": lambda: drs.load("digits"),
    "MLP": gans.mlp,
    "DCGAN 32x32": gans.dcgan,
    "SAGAN 128x128": gans.sagan,
    "SAGAN 128x128, width 8": lambda: gans.sagan(8),
    "MLP, width 16": lambda: gans.mlp(16),
}
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
OURS, TO_DISK, CALLED = "drs_fast", "drs_fast to disk", "drs_fast without a graph"
PLAIN, PLAIN_TO_DISK, NUMPY = "plain PyTorch", "plain PyTorch to disk", "logits to NumPy, list"
LIMIT, KEPT = "limit: G and D alone", "limit, freed pages kept"
EXTRA = 2  # blocks of ours beyond the steps: burn-in, and one that shows the shapes
# What must be reached: model, batch, ratio, sign, value.
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


class Differs(Exception):
    """A loop that gives other samples than the reference: it gets no figure."""


@dataclass(frozen=True)
class Problem:
    gan: drs.GAN
    batch: int
    sampler: drs.samplers.DRS  # with log_m and gamma fixed
    log_m: float
    gamma: float
    z: Tensor  # of one batch
    steps: int
    n: int  # what so many steps accept

    @property
    def device(self) -> torch.device:
        return self.gan.device


def problem(name: str, batch: int, device: str, seconds: float) -> Problem:
    """Steps for about so many seconds, and thresholds that accept a fifth."""
    gan = MODELS[name]().on(device, batch)
    found = drs.samplers.DRS(target_acceptance=ACCEPTANCE).init(gan, drs.Rng(0))
    log_m, gamma = float(found.log_m), float(found.gamma)
    sampler = drs.samplers.DRS(log_m=log_m, gamma=gamma, burn_in=256)
    z = drs.ops.latents(gan, drs.Rng(0), batch)
    p = Problem(gan, batch, sampler, log_m, gamma, z, 3, 0)
    alone(p)
    steps = max(2, round(seconds / (timed(lambda: alone(p), p.device) / 3)))
    n = 0
    for row in range(0, steps * batch, batch):
        rng = drs.Rng(0, row)
        logit = gan.logits(drs.ops.latents(gan, rng, batch))[1]
        n += int(drs.ops.accept(logit, rng, log_m=log_m, gamma=gamma, eps=EPS).sum())
    return Problem(gan, batch, sampler, log_m, gamma, z, steps, n)


def alone(p: Problem) -> None:
    with torch.inference_mode():
        for _ in range(p.steps):
            p.gan.discriminator(p.gan.generator(p.z))


def ours(p: Problem, **options: Any) -> drs.Batch:
    return drs.generate(p.gan, p.sampler, p.n, batch_size=p.batch, **options)


def ours_to_disk(p: Problem) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return drs.generate(p.gan, p.sampler, p.n, batch_size=p.batch, out=f"{folder}/run")


def plain(p: Problem) -> tuple[Tensor, Tensor]:
    """What people write: a mask, and the accepted rows in a list."""
    x, logit = [], []
    with torch.inference_mode():
        for _ in range(p.steps):
            z = torch.randn(p.batch, p.gan.latent_dim, device=p.device)
            made = p.gan.generator(z)
            score = p.gan.discriminator(made).reshape(-1)
            keep = torch.rand_like(score) < torch.sigmoid(_shifted(p, score))
            x.append(made[keep])
            logit.append(score[keep])
    return torch.cat(x), torch.cat(logit)


def plain_to_disk(p: Problem) -> None:
    x, logit = plain(p)
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"x": x.cpu(), "logit": logit.cpu()}, f"{folder}/run.pt")


def _shifted(p: Problem, logit: Tensor) -> Tensor:
    d = logit - p.log_m
    return d - torch.log(1 - torch.exp(d - EPS)) - p.gamma


def numpy_list(p: Problem) -> list[Any]:
    """The way of the published rejection samplers: decisions in NumPy, images one by one."""
    images: list[Any] = []
    generator = np.random.default_rng(0)
    with torch.inference_mode():
        for _ in range(p.steps):
            z = torch.randn(p.batch, p.gan.latent_dim, device=p.device)
            made = p.gan.generator(z)
            logit = p.gan.discriminator(made).reshape(-1).cpu().numpy().astype(np.float64)
            d = np.minimum(logit - p.log_m, 0.0)
            f = d - np.log(1 - np.exp(d - EPS)) - p.gamma
            keep = generator.random(len(logit)) < 1 / (1 + np.exp(-f))
            x = made.cpu().numpy()
            images += [x[i] for i in np.flatnonzero(keep)]
    return images


def check(p: Problem) -> None:
    """The samples of every way of ours against the reference's decisions on the same logits."""
    kept: dict[str, list[Tensor]] = {"ids": [], "x": []}
    for row in range(0, p.steps * p.batch, p.batch):
        rng = drs.Rng(0, row)
        x, logit = p.gan.logits(drs.ops.latents(p.gan, rng, p.batch))
        with drs.backend("reference"):
            keep = drs.ops.accept(logit, rng, log_m=p.log_m, gamma=p.gamma, eps=EPS)
        kept["x"].append(x[keep])
        kept["ids"].append(keep.nonzero()[:, 0] + row)
    ids, x = torch.cat(kept["ids"]), torch.cat(kept["x"])
    ways = {OURS: ours(p)}
    if p.device.type == "cuda":
        ways[CALLED] = ours(p, cuda_graph=False)
    for name, batch in ways.items():
        if not (torch.equal(batch.ids, ids) and torch.equal(batch.x, x)):
            raise Differs(f"{name}: other samples than the reference's")


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds, until the device is done."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parts(p: Problem, repeats: int) -> dict[str, float]:
    """Milliseconds of a step's parts, each measured after G and D have swept the caches."""
    x, logit = p.gan.logits(p.z)
    ring = drs.ops.ring(logit, x, rng=drs.Rng(0), capacity=_power(p.batch), log_m=p.log_m)
    append = drs.ops.appending(ring, log_m=p.log_m, gamma=p.gamma, eps=EPS)
    one = Problem(p.gan, p.batch, p.sampler, p.log_m, p.gamma, p.z, 1, 0)
    calls: dict[str, Callable[[], Any]] = {
        "G and D": functools.partial(alone, one),
        "draw": lambda: drs.ops.latents(p.gan, drs.Rng(0), p.batch),
        "accept": lambda: append(logit, x),
    }
    if p.device.type == "cuda":
        from benchmarks.gpu_clock import Clock

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
    """A step's, after the first ones; as PyTorch counts them."""
    if p.device.type != "cuda":
        return None
    gan = p.gan.on(block=p.batch)
    run = Run(gan, p.sampler, None, 0, None, 10**9, (), True)
    run.begin(progress=False)
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


def measure(p: Problem, rounds: int) -> dict[str, float]:
    """Seconds of every loop, interleaved; medians."""
    calls: dict[str, Callable[[], Any]] = {
        LIMIT: lambda: alone(p),
        OURS: lambda: ours(p),
        TO_DISK: lambda: ours_to_disk(p),
        PLAIN: lambda: plain(p),
        PLAIN_TO_DISK: lambda: plain_to_disk(p),
        NUMPY: lambda: numpy_list(p),
    }
    if p.device.type == "cuda":
        calls[CALLED] = lambda: ours(p, cuda_graph=False)
    else:
        calls[KEPT] = lambda: _kept(p)
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for i in range(rounds + 1):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            seconds = timed(calls[name], p.device)
            if i:  # the first round warms up
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def _kept(p: Problem) -> None:
    with pages.kept():
        alone(p)


def row_of(name: str, batch: int, device: str, seconds: float, rounds: int) -> dict[str, Any]:
    """All figures of one model; without them, and with the reason, where a check fails."""
    row: dict[str, Any] = {"model": name, "batch": batch}
    try:
        p = problem(name, batch, device, seconds)
        check(p)
        found = measure(p, rounds)
        share = parts(p, max(5, min(200, p.steps)))
        waits = synchronisations(p)
    except Differs as error:
        return row | {"wrong": str(error)}
    except RuntimeError as error:  # of a device that is too small
        return row | {"skipped": str(error).split("\n")[0]}
    limit = found[LIMIT] / p.steps
    row |= {"steps": p.steps, "accepted": p.n, "seconds": found, "parts_ms": share}
    row["samples_per_s"] = {n: p.n / s for n, s in found.items() if not n.startswith("limit")}
    row["ratios"] = {
        "drs_fast / limit": limit * (p.steps + EXTRA) / found[OURS],
        "to disk / limit": limit * (p.steps + EXTRA) / found[TO_DISK],
        "drs_fast / plain": found[PLAIN] / found[OURS],
        "to disk / plain to disk": found[PLAIN_TO_DISK] / found[TO_DISK],
        "drs_fast / NumPy": found[NUMPY] / found[OURS],
        "draw / G and D": share["draw"] / share["G and D"],
        "accept / G and D": share["accept"] / share["G and D"],
        "store / step": 1.0 - found[OURS] / found[TO_DISK],
    }
    if waits is not None:
        row["ratios"]["synchronisations a step"] = waits
        row["ratios"]["graph / calls"] = found[CALLED] / found[OURS]
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
    """The targets of the models that have figures."""
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
    parser.add_argument("--rounds", type=int, default=5)
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
    verdicts = judged(rows, options.device)
    show_targets(verdicts)
    if options.json:
        report |= {"rows": rows, "targets": verdicts}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any("wrong" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
