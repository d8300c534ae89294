"""Shared by the comparisons of samplers: runs over seeds, tables, verdicts, and one picture."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.timing import describe, environment
from benchmarks.common.ways import WAYS, Prepared, Samples, Way, raw, sampled
from drs_fast.gan import GAN

Row = dict[str, tuple[float, float]]  # mean and standard deviation over the seeds
Quality = Callable[[Samples], dict[str, float]]
COSTS = {
    "g_calls": ("G calls", "{:.4g}"),
    "d_calls": ("D calls", "{:.4g}"),
    "gradients": ("gradients", "{:.4g}"),
    "rate": ("samples/s", "{:.2g}"),
    "prepared_s": ("fit s", "{:.2g}"),
}


def parser(description: str | None, samples: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description)
    made.add_argument("-n", type=int, default=samples, help="samples (default: %(default)s)")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--fits", type=int, help="networks to fit (default: one per seed)")
    made.add_argument(
        "--only", nargs="+", choices=WAYS, metavar="WAY", help=", ".join(WAYS).replace("%", "%%")
    )
    made.add_argument("--json", type=Path, metavar="FILE")
    made.add_argument("--picture", type=Path, metavar="FILE")
    made.add_argument("--threads", type=int, default=2)
    return made


def runs(
    gan: GAN,
    chosen: dict[str, Way],
    n: int,
    seeds: int,
    fits: int | None,
    quality: Quality,
    real: Callable[[int, int], Samples],
    show: Callable[[str, Row], None],
) -> tuple[dict[str, Row], dict[str, Samples], dict[str, list[dict[str, float]]]]:
    """Rows for real samples, the generator and every method; samples of seed 0; all runs."""
    prepared = Prepared(gan, fits or seeds)
    rows: dict[str, Row] = {}
    first: dict[str, Samples] = {}
    found: dict[str, list[dict[str, float]]] = {}

    def add(name: str, take: Callable[[int], tuple[Samples, float]]) -> None:
        found[name] = []
        for seed in range(seeds):
            samples, seconds = take(seed)
            first.setdefault(name, samples)
            costs = {key: getattr(samples, key, seconds) for key in COSTS}
            found[name].append(quality(samples) | costs)
        rows[name] = mean_and_sd(found[name])
        show(name, rows[name])

    add("real", lambda seed: (real(n, seed), math.nan))
    add("raw", lambda seed: (raw(gan, n, seed), 0.0))
    for name, way in chosen.items():

        def take(seed: int, way: Way = way) -> tuple[Samples, float]:
            made, seconds = prepared.get(way, seed)
            return sampled(made, way.sampler, n, seed), seconds

        add(name, take)
    return rows, first, found


def mean_and_sd(found: list[dict[str, float]]) -> Row:
    values = {key: torch.tensor([run[key] for run in found]).double() for key in found[0]}
    return {
        key: (float(value.mean()), float(value.std()) if len(found) > 1 else math.nan)
        for key, value in values.items()
    }


def header(columns: dict[str, tuple[str, str]], last: Sequence[str] = ()) -> str:
    titles = ["", *(title for title, _ in columns.values()), *last]
    return f"| {' | '.join(titles)} |\n|---{'|--:' * (len(titles) - 1)}|"


def line(name: str, row: Row, columns: dict[str, tuple[str, str]], last: Sequence[str] = ()) -> str:
    """One row of a Markdown table: means, with the standard deviation if seeds differ."""
    cells = []
    for key, (_, form) in columns.items():
        mean, sd = row[key]
        spread = "" if key in COSTS or math.isnan(sd) else f" ± {form.format(sd)}"
        cells.append("" if math.isnan(mean) else form.format(mean) + spread)
    return f"| {' | '.join([name, *cells, *last])} |"


def write(path: Path, toys: dict[str, Any], verdicts: dict[str, bool], facts: Any) -> None:
    """Writes results as JSON, which has no NaN: what was not measured becomes null."""
    text = json.dumps(environment() | facts | {"measured": toys, "reached": verdicts}, indent=1)
    path.write_text(text.replace("NaN", "null") + "\n")


def introduce(what: str, n: int, seeds: int) -> None:
    print(describe(environment()))
    print(f"{what}, {n:,} samples, {seeds} seeds: mean ± sd over the seeds\n", flush=True)


def judge(verdicts: dict[str, bool]) -> None:
    print()
    for target, good in verdicts.items():
        print(f"{target:64}{'pass' if good else 'FAIL'}")


def tiles(path: Path, samples: dict[str, Samples]) -> None:
    """Draws 64 images of seed 0 for every method."""
    from drs_fast.report import pictures

    panels = [pictures.Panel(name, taken.x[:64]) for name, taken in samples.items()]
    pictures.grids(path, panels)


def scatter(path: Path, toys: dict[str, dict[str, Samples]]) -> None:
    """Draws samples of seed 0 for every method, with rows of small pictures for each toy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 6
    tall = [-(-len(samples) // columns) for samples in toys.values()]
    figure, axes = pyplot.subplots(sum(tall), columns, figsize=(2 * columns, 2.2 * sum(tall)))
    for axis in axes.flat:
        axis.set_axis_off()
    start = 0
    for samples, rows in zip(toys.values(), tall, strict=True):
        own = axes[start : start + rows].flat
        reach = 1.15 * float(samples["real"].x.abs().max())
        for axis, (name, taken) in zip(own, samples.items(), strict=False):
            x = taken.x[:4000]
            axis.scatter(x[:, 0], x[:, 1], s=0.6, c="#2f6f9f", linewidths=0)
            axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            axis.set_title(name, fontsize=8)
        start += rows
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
