"""One step: the rows that the bounds leave, through G and D, and what was counted."""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch

from drs_fast import ops
from drs_fast.core import Batch, Rng
from drs_fast.samplers.common import rejection
from drs_fast.samplers.common.rejection import Rejection, of_rows
from drs_fast.squeeze import audit
from drs_fast.squeeze.bounds.precision import PrecisionBound
from drs_fast.squeeze.rooms import Rooms
from drs_fast.squeeze.slices import Slice
from drs_fast.squeeze.stages import Stages
from drs_fast.squeeze.state import SqueezeState


def step(
    decides: Rejection,
    state: SqueezeState,
    rng: Rng,
    slices: Iterable[Slice],
    *,
    low: PrecisionBound | None,
    rooms: Rooms | None,
    weighted: bool,
    by_kind: bool,
) -> Batch:
    """The samples of some slices.

    low, rooms: as `Stages` takes them. weighted: whether samples get weights. by_kind: whether the
    loss is counted for each kind of bound, too.
    """
    stages = Stages(decides, state, rng, low, rooms)
    rows, asked, infinite, beyond = stages.survivors(slices)
    x, logit = decides.judge.logits(rows.z, rows.y)
    if rooms is not None:
        logit = torch.where(rows.on, logit, -math.inf)
    at = of_rows(decides.state, rows.y, decides.eps)
    accepted, passed = (ops.probability(each, **at) for each in (logit, rows.bound))
    weight = None
    if weighted:
        weight = ops.weight(logit, **at)
        weight = weight * (accepted / audit.reached(accepted, passed, rows.chance))
    batch = rejection.compacted(
        x, logit, decides.state, rows.z, rows.y, rng, decides.eps, rows.ids, weight
    )
    judged = rows.on.sum()
    batch = decides.complete(replace(batch, stats={**batch.stats, "calls": judged}))
    seen = passed + (1.0 - passed) * rows.chance
    audited = (rows.audited & ~rows.passing).sum()
    counts = {"judged": judged, "audited": audited, "beyond": beyond}
    typical = state.numbers.typical
    sums = audit.tallied(accepted, passed, seen, typical)
    if by_kind:
        bounds = (ops.probability(each, **at) for each in (rows.latent, rows.low))
        lost = (audit.tallied(accepted, each, seen, typical)["lost"] for each in bounds)
        sums |= dict(zip(audit.LOW, (asked, infinite, *lost), strict=True))
    return replace(batch, stats={**batch.stats, **counts, **sums})
