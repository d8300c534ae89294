"""Logits of discarded proposals, from which a sampler finds log_m and gamma."""

import warnings

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, BadLogits, Rng, check_invalid
from drs_fast.gan import GAN, classes
from drs_fast.gan.where import check_alone, names
from drs_fast.samplers.common.sigmoid import ends_in_sigmoid

ENOUGH = 100  # logits that look like probabilities, to say that they are
MOST = 2**61  # rows: where the training rows begin
NONE = 3.0  # events that may be expected, at 95 %, where none was seen
GOOD = 100  # logits for good thresholds
EACH = 1_000  # rows of a class, at least, where classes are looked at one by one


def burn_in(gan: GAN, rng: Rng, n: int, *, each: bool = False) -> tuple[Tensor, Tensor | None]:
    """Logits (n,) float32 and labels (n,) of rows from 2^62 on, which no run reaches.

    each: let the classes, if any, take turns so that none is missing, and raise n to 1,000 rows of
        each.
    """
    if n > MOST:
        raise ValueError(f"burn_in must be at most 2^61, because more rows are reserved, got {n}")
    each = each and gan.labels is not None
    if each:
        n = max(n, EACH * len(classes.occurring(gan.labels or 0, gan.label_weights)))
    logits, labels = [], []
    for start in range(0, n, gan.block):
        rows, size = rng.at(BURN_IN_ROW + start), min(gan.block, n - start)
        y = turns_of(gan, start, size) if each else ops.labels(gan, rows, size)
        # Fewer than a block are a large part of what a short run costs.
        x, logit = gan.logits(ops.latents(gan, rows, size), y, alone=n < gan.block)
        if not start and names(gan):
            check_alone(gan, x, y)
        logits.append(logit)
        labels.append(y)
    logit = torch.cat(logits)
    check(gan, logit)
    return logit, None if gan.labels is None else torch.cat([y for y in labels if y is not None])


def turns_of(gan: GAN, start: int, n: int) -> Tensor:
    """The labels (n,) of burn-in rows from `start` on, where classes take turns."""
    return classes.turns(gan.labels or 0, gan.label_weights, start, n).to(gan.device)


def by_class(gan: GAN, logit: Tensor, y: Tensor | None) -> list[Tensor]:
    """The logits of each class that occurs, or all; an error if a class has no finite logit."""
    if y is None:
        return [logit]
    occurring = classes.occurring(gan.labels or 0, gan.label_weights)
    groups = [logit[y == k] for k in occurring]
    for k, group in zip(occurring, groups, strict=True):
        if not len(group):
            raise ValueError(f"burn_in={len(logit)} rows have none of class {k}; raise burn_in")
        if not bool(torch.isfinite(group).any()):
            why = _unsatisfied(gan, len(group), f" of class {k}")
            raise BadLogits(why or f"none of {len(group):,} logits of class {k} is finite")
    return groups


def counted(gan: GAN, logit: Tensor) -> Tensor:
    """The logits that thresholds are found from: of the samples that satisfy its predicates."""
    return logit[~torch.isneginf(logit)] if names(gan) else logit


def _unsatisfied(gan: GAN, n: int, of: str = "") -> str:
    """What to say where none of n proposals satisfies the GAN's predicates; "" without them."""
    return names(gan) and (
        f"none of {n:,} burn-in proposals{of} satisfies {names(gan)}, so at most {NONE / n:.2g} of "
        f"them do (at 95 %); thresholds from {GOOD} that do take at least {GOOD * n / NONE:,.0f} "
        f"proposals: raise burn_in (--burn-in), or check the predicate"
    )


def valid(logit: Tensor) -> Tensor:
    """The logits that are neither NaN nor +inf. -inf is valid: a sample that cannot be real."""
    return logit[~(torch.isnan(logit) | torch.isposinf(logit))]


def check(gan: GAN, logit: Tensor) -> None:
    """Raises BadLogits or ValueError if these cannot be the logits of a usable discriminator.

    Values that are all in [0, 1] are an error if D ends in a sigmoid, otherwise a warning: true log
    ratios can lie there too, because they are known up to a constant.
    """
    good = valid(logit)
    check_invalid(len(logit) - len(good), len(logit))
    if not bool(torch.isfinite(good).any()):
        raise BadLogits(
            _unsatisfied(gan, len(logit))
            or f"none of {len(logit):,} logits is finite: the discriminator rejects everything "
            "with certainty; check its input range and weights"
        )
    low, high = float(good.min()), float(good.max())
    if gan.link != "logit" or not 0.0 <= low < high <= 1.0:
        return
    seen = (
        f"discriminator returned only values in [0, 1] ({low:.4g} to {high:.4g}), which look like"
    )
    fix = "use link='probability', or remove its sigmoid"
    escape = "If they are logits, say so with link=lambda logit: logit"
    if ends_in_sigmoid(gan):
        raise ValueError(f"{seen} probabilities, and its last step is a sigmoid; {fix}. {escape}")
    if len(good) >= ENOUGH:  # a few logits may lie there by chance
        warnings.warn(
            f"{seen} probabilities, but may be logits. If they are probabilities, {fix}. {escape}; "
            "with real samples, drs.doctor(gan) or `drs-fast doctor MODEL --real FILE` can tell",
            stacklevel=2,
        )
