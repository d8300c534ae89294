"""A table of known structure: tax follows income, income follows degree and age, and so on."""

import numpy as np
import pandas as pd

DEGREES = ("none", "school", "bachelor", "master")
CITIES = ("Bern", "Graz", "Lyon", "Oslo", "Turin")
DISCRETE = ["degree", "city", "owner"]


def households(n: int, seed: int) -> pd.DataFrame:
    """n rows with whole numbers, fractions, ordered categories, text and truth values."""
    draw = np.random.default_rng(seed)
    degree = draw.choice(4, n, p=(0.35, 0.3, 0.25, 0.1))
    age = draw.normal(44, 14, n).round().clip(18, 90).astype(np.int64)
    income = np.exp(9.8 + 0.35 * degree + 0.015 * (age - 44) + 0.3 * draw.normal(size=n))
    tax = 0.28 * income * (1 + 0.05 * draw.normal(size=n))
    owner = draw.random(n) < 1 / (1 + np.exp(-(age - 44) / 6 - (degree - 1)))
    return pd.DataFrame(
        {
            "age": age,
            "degree": pd.Categorical.from_codes(degree, DEGREES, ordered=True),
            "income": income.round(2),
            "tax": tax.round(2),
            "city": draw.choice(CITIES, n, p=(0.1, 0.15, 0.3, 0.2, 0.25)),
            "owner": owner,
        }
    )


def coded(table: pd.DataFrame) -> pd.DataFrame:
    """The table in numbers: categories by their place."""
    return table.assign(
        degree=table["degree"].cat.codes, city=table["city"].map(CITIES.index)
    ).astype(float)


def area_under_curve(made: pd.DataFrame, fresh: pd.DataFrame, seed: int) -> float:
    """How well boosted trees tell made from fresh rows, on the half they were not trained on."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    x = np.concatenate([coded(made), coded(fresh)])
    y = np.repeat([0, 1], [len(made), len(fresh)])
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = np.array_split(order, 2)
    trees = HistGradientBoostingClassifier(random_state=seed).fit(x[train], y[train])
    return float(roc_auc_score(y[test], trees.predict_proba(x[test])[:, 1]))


def correlation_error(made: pd.DataFrame, fresh: pd.DataFrame) -> float:
    """The mean distance between the correlations of two tables, over all pairs of columns."""
    ours, theirs = (
        np.corrcoef(coded(table).drop(columns="city"), rowvar=False) for table in (made, fresh)
    )
    return float(np.abs(ours - theirs)[np.triu_indices(len(ours), 1)].mean())
