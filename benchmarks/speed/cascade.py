"""Rejection with G and D in low precision first, against runs that are wholly in one precision.

python -m benchmarks.speed.cascade [--device cuda] [--only MODEL ...] [--ways WAY ...]
                                   [--seconds S] [--rounds N] [--unseen SHARE] [--json FILE]

Only D's logit in full precision decides and only its samples are kept, so the samples of a cascade
must be among those of the fp32 run with the same log_m and gamma, byte for byte; otherwise there
are no figures. Weights are random, and thresholds are those that the cascade found.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import drs_fast as drs
from benchmarks.common import gans
from benchmarks.common.runs import Differs, Timed, lost, timed
from benchmarks.common.timing import describe, environment
from benchmarks.speed.cascade_ways import (
    EXACT,
    LOW,
    TUNED,
    WARM_UP_S,
    Asked,
    Cascade,
    N,
    Way,
    begun,
    in_turns,
    plain_ways,
    same,
    tunes,
)
from drs_fast.gan import GAN
from drs_fast.gan.precision import FP32
from drs_fast.samplers import DRS, OBRS
from drs_fast.squeeze import Squeeze
from drs_fast.tune import tuning

WAYS = {"p80": DRS(percentile=80.0), "gamma 0": DRS(gamma=0.0), "OBRS 10 %": OBRS(budget=0.1)}
MODELS: dict[str, tuple[Callable[[], GAN], int]] = {  # and the batch size
    "digits": (lambda: drs.load("digits"), 4096),
    "DCGAN 32x32": (lambda: gans.he(gans.dcgan(), 2.0), 256),
    "DCGAN 64x64": (lambda: gans.he(gans.dcgan(pixels=64), 2.0), 1024),
    "SAGAN 128x128": (lambda: gans.he(gans.sagan()), 256),
    "StyleGAN2 64x64": (gans.stylegan2, 256),
    "StyleGAN2 32x32, width 16": (lambda: gans.he(gans.stylegan2(16, 32), 1.2), 256),
    "MLP, width 16": (lambda: gans.mlp(16), 256),
}
CPU = ("digits", "DCGAN 32x32", "StyleGAN2 32x32, width 16")
GPU = ("DCGAN 64x64", "SAGAN 128x128", "StyleGAN2 64x64", "digits", "DCGAN 32x32")
STAGE = GPU[:3]  # of benchmarks.gpu
QUICK = ("MLP, width 16",)
BRIEFLY = Asked(seconds=0.3, rounds=2, burn_in=1024, unseen=0.05, by=("bf16",))


def measured(gan: GAN, sampler: Any, asked: Asked) -> dict[str, Any]:
    """The figures of a sampler; Differs if a cascade has other samples."""
    tune = tunes(gan)
    tuned = tuning.applied(gan, tune)
    first = timed(tuned, sampler, N, min(asked.seconds, WARM_UP_S))
    rows: dict[str, Any] = {}
    used: dict[str, Cascade] = {}
    for by in asked.by:
        name = f"cascade, {by}"
        forced = None if by == "auto" else True
        squeeze = Squeeze(sampler, unseen=asked.unseen, use_bound=forced, by=by)
        try:
            one = begun(tuned, squeeze)
        except ValueError as error:
            rows[name] = {"unused": str(error)}
            continue
        rows[name] = {
            "by": one.squeeze.by,
            "low_cost": one.squeeze.low_cost,
            "remark": one.squeeze.remark(one.state),
            "unused": one.squeeze.unused(one.state),
            "search_s": one.before,
            "search_calls": int(one.state.spent),
        }
        if not rows[name]["unused"]:
            used[name] = one
    state = next((one.thresholds for one in used.values()), first.run.state)
    ways = plain_ways(gan, sampler, state, tune)
    ways |= {name: Way(tuned, one.squeeze, one.state) for name, one in used.items()}
    runs, row_seconds = in_turns(ways, asked)
    exact = TUNED if TUNED in ways else EXACT
    for name, one in used.items():
        beside = runs[exact]
        if not same(one.thresholds, state):
            beside = timed(tuned, sampler, N, asked.seconds, one.thresholds)
        rows[name] |= compared(one, runs[name], beside, gan.name)
        rows[name] |= gains(rows[name], name, row_seconds, exact, first.before)
    accepted = next((rows[name]["fp32_accepted"] for name in used), share(runs[exact]))
    plain = {name: row_seconds[name] for name in ways if name not in used}
    return {
        "tune": tune,
        "burn_in_s": first.before,
        "accepted": accepted,
        "row_us": {name: 1e6 * each for name, each in row_seconds.items()},
        "ms": {name: 1e3 * each / accepted for name, each in plain.items()},
        "ratios": {f"{EXACT} / {name}": plain[EXACT] / each for name, each in plain.items()},
        "flips": flips(runs[LOW], runs[exact]),
        "cascades": rows,
    }


def share(run: Timed) -> float:
    """How many of the rows are accepted."""
    return max(1, len(run.samples["ids"])) / run.run.proposals


def flips(low: Timed, exact: Timed) -> float:
    """How many decisions low precision changes, as a share of the samples in fp32."""
    end = min(run.run.proposals for run in (low, exact))
    ours, theirs = (run.samples["ids"][run.samples["ids"] < end] for run in (low, exact))
    common = int(torch.isin(ours, theirs).sum())
    return (len(ours) + len(theirs) - 2 * common) / max(1, len(theirs))


def compared(one: Cascade, run: Timed, beside: Timed, name: str) -> dict[str, Any]:
    """Decisions against those of the fp32 run; Differs if there are other samples."""
    seen_lost, of = lost(run, beside, f"{name}, {one.squeeze}")
    found = one.squeeze.measured(one.state, run.run.tallies)
    return {
        "seen_lost": seen_lost,
        "compared": of,
        "lost_mass": found["lost_mass"],
        "lost_mass_interval": found["lost_mass_interval"],
        "tallies": {key: int(value) for key, value in run.run.tallies.items()},
        "proposals": run.run.proposals,
        "accepted": share(run),
        "fp32_accepted": share(run) / (1.0 - found["lost_mass"]),
    }


def gains(
    row: dict[str, Any], name: str, row_seconds: dict[str, float], exact: str, burn_in: float
) -> dict[str, Any]:
    """Time a sample against fp32 with the same thresholds.

    The limit: low precision sees every row, and full precision only those that are accepted.
    """
    own = row_seconds[name] / row["accepted"]
    plain = {each: row_seconds[each] / row["fp32_accepted"] for each in (EXACT, exact)}
    saved = plain[exact] - own
    return {
        "ms": 1e3 * own,
        "ratios": {f"{each} / it": seconds / own for each, seconds in plain.items()},
        "limit": 1.0 / (row_seconds[LOW] / row_seconds[exact] + row["fp32_accepted"]),
        "pays_from": math.ceil(max(0.0, row["search_s"] - burn_in) / saved) if saved > 0 else None,
    }


def show(row: dict[str, Any]) -> None:
    if "wrong" in row or "skipped" in row:
        print(f"\n{row['model']}, {row['way']}: {row.get('wrong') or row['skipped']}", flush=True)
        return
    tuned = ", ".join(row["tune"]) or "none"
    print(f"\n{row['model']}, {row['way']}: {row['accepted']:.3%} accepted; tuned: {tuned}")
    for name, ms in row["ms"].items():
        flipped = f", {row['flips']:.2%} of decisions flipped" if name == LOW else ""
        faster = row["ratios"][f"{EXACT} / {name}"]
        print(f"  {name:16}{ms:10.4g} ms a sample {faster:6.2f} times fp32{flipped}")
    for name, one in row["cascades"].items():
        if one["unused"]:
            print(f"  {name:16} not used: {one['unused']}")
            continue
        low, high = one["lost_mass_interval"]
        ratios = ", ".join(
            f"{ratio:.2f} times {each[:-5]}" for each, ratio in one["ratios"].items()
        )
        pays = "never pays" if one["pays_from"] is None else f"pays from n = {one['pays_from']:,}"
        print(
            f"  {name:16}{one['ms']:10.4g} ms a sample  {ratios}; limit {one['limit']:.2f}\n"
            f"    by={one['by']!r}; search {one['search_s']:.1f} s (burn-in alone "
            f"{row['burn_in_s']:.1f} s), {pays}\n"
            f"    lost {one['seen_lost']:.3%} of {one['compared']:,} seen, lost mass "
            f"{one['lost_mass']:.3%} ({low:.3%} to {high:.3%})"
        )
    sys.stdout.flush()


def row_of(model: str, way: str, device: str, asked: Asked) -> dict[str, Any]:
    """All figures of a model and a sampler, or what is wrong."""
    (load, batch), sampler = MODELS[model], replace(WAYS[way], burn_in=asked.burn_in)
    gan = load().on(device, batch, FP32)
    row = {"model": model, "batch": batch, "way": way, "load": os.getloadavg()[0]}
    try:
        return row | measured(gan, sampler, asked)
    except Differs as error:
        return row | {"wrong": str(error)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--only", nargs="+", choices=MODELS, metavar="MODEL", help="; ".join(MODELS)
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burn-in", type=int, default=DRS.burn_in, metavar="ROWS")
    parser.add_argument("--unseen", type=float, default=Squeeze.unseen, help="as of drs.Squeeze")
    parser.add_argument("--by", nargs="+", default=["bf16", "auto"], help="as of drs.Squeeze")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    here = environment()
    print(describe(here))
    asked = Asked(
        options.seconds, options.rounds, options.burn_in, options.unseen, tuple(options.by)
    )
    report: dict[str, Any] = {**here, **asdict(asked), "rows": []}
    for model in options.only or (CPU if options.device == "cpu" else GPU):
        for way in options.ways:
            row = row_of(model, way, options.device, asked)
            show(row)
            report["rows"].append(row)
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if any("wrong" in row for row in report["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
