"""A table from CTGAN, before and after rejection by a critic that is fitted on the table.

python examples/tables.py    needs pip install -c constraints.txt -e '.[ctgan]'
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ctgan import CTGAN
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import drs_fast as drs

FOLDER = Path("drs-fast-examples/tables")
LEVELS = ("none", "bachelor", "master")


def people(n, seed):
    """Income grows with the degree, and tax is 28 % of income, give or take a twentieth."""
    draw = np.random.default_rng(seed)
    degree = draw.choice(3, n, p=(0.5, 0.3, 0.2))
    income = np.exp(10 + 0.4 * degree + 0.4 * draw.normal(size=n))
    return pd.DataFrame(
        {
            "degree": pd.Categorical.from_codes(degree, LEVELS, ordered=True),
            "income": income.round().astype(np.int64),
            "tax": 0.28 * income * (1 + 0.05 * draw.normal(size=n)),
        }
    )


def compared(name, table, fresh):
    """Prints a correlation, and how well boosted trees tell the table from fresh rows."""
    x, half = pd.concat([table, fresh]).assign(degree=lambda t: t["degree"].cat.codes), len(table)
    y = np.arange(len(x)) < half
    odd = np.arange(len(x)) % 2 == 1
    trees = HistGradientBoostingClassifier(random_state=0).fit(x[odd], y[odd])
    auc = roc_auc_score(y[~odd], trees.predict_proba(x[~odd])[:, 1])
    print(f"{name:12} correlation {table['income'].corr(table['tax']):5.2f}, AUC {auc:.2f}")


def main():
    table, fresh = people(2_000, seed=0), people(1_000, seed=1)
    torch.manual_seed(0)
    model = CTGAN(generator_dim=(64, 64), epochs=20, batch_size=200, enable_gpu=False)
    model.set_random_state(0)
    model.fit(table, ["degree"])

    gan = drs.adapters.ctgan(model, table, max_steps=300)
    run = drs.generate(gan, drs.samplers.DRS(gamma=0.0), 1_000, out=FOLDER / "run")
    made = gan.decoded(run.x[:])

    compared("real", people(1_000, seed=2), fresh)
    compared("CTGAN", model.sample(1_000), fresh)
    compared("after DRS", made, fresh)
    print(f"dtypes equal: {made.dtypes.equals(table.dtypes)}")
    made.to_csv(FOLDER / "people.csv", index=False)


if __name__ == "__main__":
    main()
