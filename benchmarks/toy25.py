"""Quality of samplers on 25 Gaussians, over five seeds.

python -m benchmarks.toy25 [--model NAME] [--json FILE]
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.metrics import metrics, w1
from benchmarks.timing import describe, environment
from drs_fast.core import Sampler
from drs_fast.ratio.fitting import Draws
from drs_fast.samplers import DRS
from drs_fast.zoo.gaussians25 import sample

MODEL = "25gaussians"
SAMPLES, SEEDS = 10_000, range(5)
GAIN = 20.0  # points of HQ that gamma = 0 should gain over raw, with all modes kept


@dataclass(frozen=True)
class Samples:
    x: Tensor  # (n, 2)
    acceptance: float = math.nan
    calls: float = math.nan  # of G and D per sample, burn-in not counted
    rate: float = math.nan  # samples per second, burn-in counted


Case = Callable[[drs.GAN, int, int], Samples]  # gan, n, seed


def real(gan: drs.GAN, n: int, seed: int) -> Samples:
    return Samples(sample(Draws(seed), n))


def raw(gan: drs.GAN, n: int, seed: int) -> Samples:
    start = time.perf_counter()
    with torch.inference_mode():
        x = gan.generator(drs.ops.latents(gan, drs.Rng(seed), n))
    return Samples(x, acceptance=1.0, calls=1.0, rate=n / (time.perf_counter() - start))


def sampled(sampler: Sampler) -> Case:
    def case(gan: drs.GAN, n: int, seed: int) -> Samples:
        start = time.perf_counter()
        batch = drs.generate(gan, sampler, n, seed=seed)
        seconds = time.perf_counter() - start
        last_row = int(batch.ids[-1]) + 1
        calls = float(batch.stats["proposals"]) / n
        return Samples(batch.x, acceptance=n / last_row, calls=calls, rate=n / seconds)

    return case


SAMPLERS: dict[str, Sampler] = {
    "DRS p80": DRS(percentile=80),
    "DRS p95": DRS(percentile=95),
    "DRS gamma 0": DRS(gamma=0.0),
}
CASES: dict[str, Case] = {
    "real": real,
    "raw": raw,
    **{name: sampled(sampler) for name, sampler in SAMPLERS.items()},
}


def load(name: str) -> drs.GAN:
    return drs.load("benchmarks.oracle:gan" if name == "oracle" else name)


def check(gan: drs.GAN, sampler: Sampler, n: int = 500) -> None:
    """Raises RuntimeError unless the reference backend gives the same rows."""
    fast = drs.generate(gan, sampler, n)
    with drs.backend("reference"):
        slow = drs.generate(gan, sampler, n)
    if not (torch.equal(fast.ids, slow.ids) and torch.equal(fast.x, slow.x)):
        raise RuntimeError(f"{sampler} gives other rows than the reference backend")


def measure(gan: drs.GAN, case: Case, n: int, seed: int) -> dict[str, float]:
    samples = case(gan, n, seed)
    return {
        **asdict(metrics(samples.x)),
        "w1": w1(samples.x),
        "acceptance": samples.acceptance,
        "calls": samples.calls,
        "rate": samples.rate,
    }


def mean_and_sd(runs: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    values = {name: torch.tensor([run[name] for run in runs]).double() for name in runs[0]}
    return {name: (float(value.mean()), float(value.std())) for name, value in values.items()}


FORMATS = {
    "hq": ("HQ %", "{:.2f}"),
    "modes": ("modes", "{:.1f}"),
    "sd": ("sd/axis", "{:.5f}"),
    "jsd": ("JSD", "{:.5f}"),
    "jsd_nojunk": ("JSD no junk", "{:.5f}"),
    "w1": ("W1", "{:.4f}"),
    "acceptance": ("accepted", "{:.4f}"),
    "calls": ("calls/sample", "{:.2f}"),
    "rate": ("samples/s", "{:.2g}"),
}


def show(rows: dict[str, dict[str, tuple[float, float]]]) -> None:
    print(f"\n{'':13}" + "".join(f"{title:>20}" for title, _ in FORMATS.values()))
    for name, row in rows.items():
        cells = []
        for key, (_, form) in FORMATS.items():
            mean, sd = row[key]
            both = f"{form.format(mean)} +- {form.format(sd)}"
            cells.append("-" if math.isnan(mean) else both)
        print(f"{name:13}" + "".join(f"{cell:>20}" for cell in cells))


def reached(rows: dict[str, dict[str, tuple[float, float]]]) -> dict[str, bool]:
    gain = rows["DRS gamma 0"]["hq"][0] - rows["raw"]["hq"][0]
    return {
        f"gamma = 0 gains {gain:.1f} points of HQ (target {GAIN:g})": gain >= GAIN,
        "gamma = 0 keeps 25 modes": rows["DRS gamma 0"]["modes"][0] == 25,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL, help='a model name, or "oracle"')
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    gan = load(options.model)
    report: dict[str, Any] = environment()
    print(f"{options.model}, {SAMPLES:,} samples, {len(SEEDS)} seeds: mean +- sd")
    print(describe(report))
    for sampler in SAMPLERS.values():
        check(gan, sampler)
    rows = {
        name: mean_and_sd([measure(gan, case, SAMPLES, seed) for seed in SEEDS])
        for name, case in CASES.items()
    }
    show(rows)
    print()
    verdicts = reached(rows)
    for target, good in verdicts.items():
        print(f"{target:50}{'pass' if good else 'FAIL'}")
    if options.json:
        report |= {"model": options.model, "model_sha256": gan.sha256(), "n": SAMPLES}
        known = {  # JSON has no NaN
            name: {key: value for key, value in row.items() if not math.isnan(value[0])}
            for name, row in rows.items()
        }
        report |= {"seeds": len(SEEDS), "mean_sd": known, "reached": verdicts}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
