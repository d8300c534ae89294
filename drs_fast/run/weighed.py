"""The weights of a run's samples, in memory and on disk, and what they are worth."""

from collections.abc import Callable, Iterable, Mapping
from os import PathLike

import torch
from torch import Tensor

from drs_fast import store
from drs_fast.core.sampler import BATCH, EQUAL, UNKNOWN, WAYS, Thresholds
from drs_fast.gan import classes
from drs_fast.run.materialized import Materialized
from drs_fast.run.schedule import Run
from drs_fast.samplers.common import weights
from drs_fast.samplers.common.effective import effective
from drs_fast.samplers.common.weights import Weighing
from drs_fast.store import Corrupt, Samples

DIGITS = 9  # of the facts, because sums differ in their last digits from processor to processor
OF_STREAMS = Weighing(
    UNKNOWN,
    "a batch of drs.stream has no weights where each class has a quota, because they depend on how "
    "soon the quota is full; use drs.generate",
)


def of_run(run: Run, tried: Tensor | None) -> Weighing:
    """How the samples of a run are weighted.

    tried: from `weights.tried`, of all samples; None if only some of them are known.
    """
    sampler, state = run.chosen()
    if sampler.weighs == UNKNOWN:
        return weights.unknown(type(sampler).__name__, sampler.law)
    if sampler.weighs == EQUAL:
        return Weighing(EQUAL)
    thresholds = sampler.thresholds(run.gan, state)
    if not thresholds.log_m.ndim:
        return Weighing(sampler.weighs, thresholds=thresholds)
    if tried is None:
        return OF_STREAMS
    proposed = classes.shares(run.gan.labels or 0, run.gan.label_weights)
    factors = weights.of_classes(thresholds.log_m, proposed, run.shares, tried)
    return Weighing(sampler.weighs, thresholds=thresholds, factors=factors)


def of_samples(samples: Samples) -> Weighing:
    """How the samples of a run on disk are weighted."""
    manifest = samples.manifest
    if "weighing" not in manifest:
        return Weighing(
            UNKNOWN,
            f"{samples.path} was begun by version {manifest.get('version', 'unknown')}, which did "
            "not say how samples are weighted; generate them again in another directory",
        )
    way = manifest["weighing"]
    if way not in WAYS:
        raise Corrupt(f"{samples.path}: weighing must be one of {WAYS}, got {way!r}")
    if way == UNKNOWN:
        return weights.unknown(manifest["sampler"]["name"], manifest.get("law", "no known law"))
    if way == EQUAL:
        return Weighing(way)
    log_m, gamma = (_numbers(samples, name) for name in ("log_m", "gamma"))
    if log_m.shape != gamma.shape:
        raise Corrupt(f"{samples.path}: log_m and gamma must be as many, got {log_m} and {gamma}")
    thresholds = Thresholds(log_m, gamma, manifest.get("eps") or 0.0)
    if not log_m.ndim:
        return Weighing(way, thresholds=thresholds)
    tried, labels = torch.zeros_like(log_m, dtype=torch.int64), len(log_m)
    for chunk in range(len(samples.counts)):
        rows = samples.telling(chunk)
        tried = torch.maximum(tried, weights.tried(rows["ids"], rows["y"], labels))
    shares = classes.shares(labels, manifest["label_weights"])
    # With the same bits as the GAN that proposed them had.
    proposed = classes.weights(labels, _numbers(samples, "proposed").tolist())
    factors = weights.of_classes(log_m, classes.shares(labels, proposed), shares, tried)
    return Weighing(way, thresholds=thresholds, factors=factors)


def _numbers(samples: Samples, name: str) -> Tensor:
    """A number, or one per class, that weights rest on."""
    found, labels = dict(samples.manifest).get(name), samples.manifest.get("labels")
    if not (len(found) == labels if isinstance(found, list) else isinstance(found, (int, float))):
        raise Corrupt(
            f"{samples.path}: weights rest on {name}, a number or one for each of {labels} classes;"
            f" got {found!r}"
        )
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def open_run(path: str | PathLike[str]) -> Samples:
    """Opens the samples that `generate` wrote to a directory, finished or not."""
    return store.open_run(path, weights_of, Materialized)


def weights_of(samples: Samples) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """A function from columns of samples on disk to their weights.

    ValueError if they have none, or what tells them was not saved.
    """
    weighing = of_samples(samples)
    if weighing.way == UNKNOWN:
        raise ValueError(weighing.why)
    if not told(samples, weighing):
        saved = [name for name in samples.columns if name not in ("ids", "y")]
        raise ValueError(
            f"{samples.path} holds {', '.join(samples.columns)}, which does not tell weights: "
            f"generate again with --save {','.join([*saved, 'weight'])}"
        )
    return weighing.of


def told(samples: Samples, weighing: Weighing) -> bool:
    """Whether the columns on disk tell the weights."""
    needed = {EQUAL: "ids", BATCH: "weight"}.get(weighing.way, "logit")
    return not samples.counts or needed in samples.shard(0).rows


def worth_of(samples: Samples) -> dict[str, float | None]:
    """What samples on disk are worth; empty where their weights are not known."""
    weighing = of_samples(samples)
    if weighing.thresholds is None or not told(samples, weighing):
        return {}
    return worth(len(samples), weighing, samples.all_telling)


def worth(
    n: int, weighing: Weighing, pieces: Callable[[], Iterable[Mapping[str, Tensor]]]
) -> dict[str, float | None]:
    """What n weighted samples are worth, by the names that the manifest and stats have.

    Empty if the samples have no weights, or all the same. The pieces are read once more if some
    weight is too large for a number, because only then all must be in the unit of the largest.
    """
    if weighing.thresholds is None:
        return {}
    unit = 0.0

    def weighted(rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal unit
        unit = max(unit, weighing.beyond(rows))
        return weighing.relative(rows), weighing.above(rows)

    found = effective(n, map(weighted, pieces()))
    if unit:
        found = effective(
            n, ((weighing.relative(rows, unit), weighing.above(rows)) for rows in pieces())
        )
    return {
        "effective_samples": _rounded(found.size),
        "largest_weight": _rounded(found.largest),
        "above_weight": _rounded(found.above),
        "tail_index": None if found.tail is None else _rounded(found.tail),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
