"""All samplers on 25 Gaussians and on the swiss roll, over five seeds.

python -m benchmarks.quality.toy25 [--toy NAME ...] [--only WAY ...] [--json FILE] [--picture FILE]
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common import metrics, oracle, ways
from benchmarks.common.ways import WAYS, Samples
from benchmarks.quality import comparison
from benchmarks.quality.comparison import COSTS, Row
from drs_fast import zoo
from drs_fast.gan import GAN
from drs_fast.training.fitting import Draws

SAMPLES = 10_000


@dataclass(frozen=True)
class Toy:
    load: Callable[[], GAN]
    real: Callable[[Draws, int], Tensor]
    quality: Callable[[Tensor], dict[str, float]]
    columns: dict[str, tuple[str, str]]


GAUSSIANS = {
    "hq": ("HQ %", "{:.2f}"),
    "modes": ("modes", "{:.1f}"),
    "sd": ("sd/axis", "{:.4f}"),
    "jsd": ("JSD", "{:.4f}"),
    "w1": ("W1", "{:.3f}"),
}
ROLL = {
    "hq": ("HQ %", "{:.2f}"),
    "jsd": ("JSD", "{:.4f}"),
    "w1": ("W1", "{:.3f}"),
}


def gaussians(x: Tensor) -> dict[str, float]:
    return {**asdict(metrics.metrics(x)), "w1": metrics.w1(x)}


def swiss_roll(x: Tensor) -> dict[str, float]:
    return {**asdict(metrics.swiss_roll(x)), "w1": metrics.w1_swiss_roll(x)}


TOYS = {
    "25gaussians": Toy(
        lambda: drs.load("25gaussians"), zoo.gaussians25.sample, gaussians, GAUSSIANS
    ),
    "swissroll": Toy(lambda: drs.load("swissroll"), zoo.swissroll.sample, swiss_roll, ROLL),
    "oracle": Toy(oracle.gan, zoo.gaussians25.sample, gaussians, GAUSSIANS),
}
LEAST_HQ = {"DRS p95": 90.0, "MH calibrated": 90.0, "DDLS": 97.0, "DRE-F-SP + RS": 98.0}


def verdicts(rows: dict[str, Row]) -> dict[str, bool]:
    """Targets on 25 Gaussians for the methods that were run."""
    found = {}
    for name, least in LEAST_HQ.items():
        if name in rows:
            hq, modes = rows[name]["hq"][0], rows[name]["modes"][0]
            found[f"{name}: {hq:.1f} % HQ (target {least:g})"] = hq >= least
            found[f"{name}: {modes:.1f} modes (target 25)"] = modes == 25
    for name, row in rows.items():
        way = WAYS.get(name)
        if way is not None and way.sampler.law.split(",")[0] == "data":
            sd = row["sd"][0]
            found[f"{name}: sd {sd:.4f} (target 0.05 within 20 %)"] = abs(sd / 0.05 - 1) <= 0.2
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = comparison.parser(__doc__, SAMPLES)
    parser.add_argument("--toy", nargs="+", choices=TOYS, default=["25gaussians", "swissroll"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    chosen = {name: WAYS[name] for name in options.only or WAYS}
    report: dict[str, Any] = {}
    pictures: dict[str, dict[str, Samples]] = {}
    judged: dict[str, bool] = {}
    for name in options.toy:
        toy = TOYS[name]
        gan = toy.load()
        comparison.introduce(name, options.n, options.seeds)
        for way in chosen.values():
            ways.check(gan, way.sampler)
        columns = toy.columns | COSTS
        print(comparison.header(columns, ["published HQ %"]), flush=True)

        def show(way: str, row: Row, columns: dict[str, tuple[str, str]] = columns) -> None:
            published = WAYS[way].published if way in WAYS else ""
            print(comparison.line(way, row, columns, [published]), flush=True)

        rows, pictures[name], _ = comparison.runs(
            gan,
            chosen,
            options.n,
            options.seeds,
            options.fits,
            lambda samples, toy=toy: toy.quality(samples.x),
            lambda n, seed, toy=toy: Samples(toy.real(Draws(seed), n)),
            show,
        )
        report[name] = {"model_sha256": gan.sha256(), "rows": rows}
        if name == "25gaussians":
            judged = verdicts(rows)
    comparison.judge(judged)
    if options.json:
        comparison.write(
            options.json,
            report,
            judged,
            {"n": options.n, "seeds": options.seeds, "fits": options.fits or options.seeds},
        )
    if options.picture:
        comparison.scatter(options.picture, pictures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
