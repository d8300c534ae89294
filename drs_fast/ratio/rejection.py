"""What every rejection sampler does with its thresholds, once they are found."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.compacted import Ring
from drs_fast.core import Batch, Rng
from drs_fast.gan import GAN
from drs_fast.ratio.burn_in import by_class


class Rejection(NamedTuple):
    """What rejects rows: the GAN whose logits count, thresholds, and eps."""

    judge: GAN
    state: "RejectionState"
    eps: float


class RejectionState(NamedTuple):
    """log_m and gamma are () or, with labels, (K,)."""

    log_m: Tensor  # float64
    gamma: Tensor  # float64
    acceptance: Tensor  # () float64, expected share of accepted rows
    logits: Tensor  # (burn_in,) float32


def thresholds(
    gan: GAN,
    logit: Tensor,
    y: Tensor | None,
    eps: float,
    found: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> RejectionState:
    """log_m and gamma by `found`, from all logits of the burn-in or from those of each class."""
    classes = by_class(gan, logit, y)
    log_m, gamma = (torch.stack(values) for values in zip(*map(found, classes), strict=True))
    if y is None:
        log_m, gamma = log_m[0], gamma[0]
    state = RejectionState(log_m, gamma, logit.new_zeros((), dtype=torch.float64), logit)
    acceptance = ops.probability(logit, **of_rows(state, y, eps)).mean()
    return state._replace(acceptance=acceptance)


def compacted(
    x: Tensor,
    logit: Tensor,
    state: RejectionState,
    z: Tensor,
    y: Tensor | None,
    rng: Rng,
    eps: float,
    ids: Tensor | None = None,
) -> Batch:
    """The rows that pass; ids: their numbers, unless they are rng.row, rng.row + 1, ..."""
    rows = (x, z) if y is None else (x, z, y)
    kept = ops.accept_compact(logit, *rows, rng=rng, ids=ids, **of_rows(state, y, eps))
    return Batch(
        x=kept.rows[0],
        z=kept.rows[1],
        y=None if y is None else kept.rows[2],
        logit=kept.logit,
        ids=kept.ids,
        count=kept.count,
        stats={"invalid": kept.invalid, "above": kept.above},
    )


def appending(
    gan: GAN, state: RejectionState, ring: Ring, names: tuple[str, ...], eps: float
) -> Callable[[Tensor, Tensor | None], None]:
    """What `compacted` does for the ring's next rows, and adds the named ones to the ring."""
    append = None if gan.labels else ops.appending(ring, **of_rows(state, None, eps))

    def step(z: Tensor, y: Tensor | None) -> None:
        x, logit = gan.logits(z, y)
        rows: dict[str, Any] = {"x": x, "z": z, "y": y}
        kept = [rows[name] for name in names]
        if append is not None:
            append(logit, *kept)
        else:
            ops.accept_append(logit, *kept, ring=ring, **of_rows(state, y, eps))

    return step


def of_rows(state: RejectionState, y: Tensor | None, eps: float) -> dict[str, Any]:
    """The threshold: one for all rows or, with labels, one for each."""
    log_m, gamma = state.log_m, state.gamma
    if y is not None:
        log_m, gamma = log_m[y], gamma[y]
    return {"log_m": log_m, "gamma": gamma, "eps": eps}
