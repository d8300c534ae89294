"""CTGAN on a table of known structure, and what rejection makes of it.

python -m benchmarks.quality.ctgan [-n ROWS] [--seeds K] [--epochs E ...] [--json FILE]

Every seed has its own table of 8,000 rows, CTGAN and critic. Rows that neither has seen judge: how
well boosted trees tell them from made ones (0.5: not at all), and the error of correlations.
"""

import warnings
from typing import Any

import pandas as pd
import torch
from ctgan import CTGAN

import drs_fast as drs
from benchmarks.common.households import (
    DISCRETE,
    area_under_curve,
    correlation_error,
    households,
)
from benchmarks.quality import comparison
from benchmarks.quality.comparison import Row
from drs_fast.samplers import DRS, MH

ROWS = 8_000
SAMPLES = 3_000
STEPS = 1_000  # of the critic
UNSEEN, REFERENCE = 10_000, 20_000  # seeds of tables that judge, beyond those of the fits
WAYS = {"DRS p80": DRS(), "DRS gamma 0": DRS(gamma=0.0), "MH": MH(chain_length=320)}
COLUMNS = {
    "auc": ("AUC", "{:.3f}"),
    "correlation": ("correlation error", "{:.3f}"),
    "dtypes": ("dtypes equal", "{:.0f}"),
    "calls": ("calls a row", "{:.4g}"),
}


def fitted(epochs: int, seed: int) -> tuple[CTGAN, pd.DataFrame]:
    table = households(ROWS, seed)
    model = CTGAN(epochs=epochs, enable_gpu=False)
    model.set_random_state(seed)
    torch.manual_seed(seed)  # of the first weights, which the model's own seed leaves out
    model.fit(table, DISCRETE)
    return model, table


def measured(n: int, epochs: int, seed: int) -> dict[str, dict[str, float]]:
    """The figures of every way to make n rows."""
    model, table = fitted(epochs, seed)
    fresh = households(n, UNSEEN + seed)
    gan = drs.adapters.ctgan(model, table, max_steps=STEPS, seed=seed)
    z = drs.ops.latents(gan, drs.Rng(seed), n)
    made = {
        "real": (households(n, REFERENCE + seed), 0.0),
        "CTGAN, model.sample": (model.sample(n), 1.0),
        "CTGAN, as a GAN": (gan.decoded(gan.samples(z)), 1.0),
    }
    for name, sampler in WAYS.items():
        batch = drs.generate(gan, sampler, n, seed=seed)
        made[name] = gan.decoded(batch.x), float(batch.stats["calls"]) / n
    return {
        name: {
            "auc": area_under_curve(rows, fresh, seed),
            "correlation": correlation_error(rows, fresh),
            "dtypes": float(rows.dtypes.equals(table.dtypes)),
            "calls": calls,
        }
        for name, (rows, calls) in made.items()
    }


def verdicts(rows: dict[str, Row], epochs: int) -> dict[str, bool]:
    """The targets of rejection, against the rows of `model.sample`."""
    before, after = rows["CTGAN, model.sample"], rows["DRS gamma 0"]
    fall = before["auc"][0] - after["auc"][0]
    ratio = after["correlation"][0] / before["correlation"][0]
    return {
        f"{epochs} epochs: AUC falls by {fall:.3f} (target 0.03)": fall >= 0.03,
        f"{epochs} epochs: correlation error x {ratio:.3f} (target 0.5)": ratio <= 0.5,
        f"{epochs} epochs: dtypes equal": after["dtypes"] == (1.0, 0.0),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = comparison.parser(__doc__, SAMPLES)
    parser.add_argument("--epochs", type=int, nargs="+", default=[30])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "log_m is too small")
    report: dict[str, Any] = {}
    judged: dict[str, bool] = {}
    for epochs in options.epochs:
        name = f"{epochs} epochs"
        comparison.introduce(f"CTGAN of {name}", options.n, options.seeds)
        runs = []
        for seed in range(options.seeds):
            runs.append(measured(options.n, epochs, seed))
            print(f"seed {seed}: {runs[-1]}", flush=True)
        rows = {way: comparison.mean_and_sd([run[way] for run in runs]) for way in runs[0]}
        print(comparison.header(COLUMNS))
        for way, row in rows.items():
            print(comparison.line(way, row, COLUMNS), flush=True)
        report[name] = {"rows": rows}
        judged |= verdicts(rows, epochs)
    comparison.judge(judged)
    if options.json:
        facts = {"n": options.n, "seeds": options.seeds, "rows": ROWS, "steps": STEPS}
        comparison.write(options.json, report, judged, facts)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
