"""How often a run's precision decides otherwise than fp32 would."""

from typing import Any

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng, Sampler
from drs_fast.gan import GAN
from drs_fast.samplers.common.rejection import RejectionSampler

ROWS = 1_000  # whatever n is, because n may grow and a run's bytes may not depend on where it began


def flip_rate(gan: GAN, exact: GAN, sampler: Sampler, state: Any, rng: Rng) -> float:
    """Share of burn-in rows whose decision differs between this GAN and the exact one.

    The rows are the first 1,000 in whole groups. Of those that burn-in saw, only the exact logits
    are computed here, if the sampler decides by the logits that its state keeps.
    """
    rows = -(-ROWS // sampler.group) * sampler.group
    here = rng.at(BURN_IN_ROW)
    z, y = ops.latents(gan, here, rows), ops.labels(gan, here, rows)
    if isinstance(sampler, RejectionSampler) and not sampler.sequential:
        mine = sampler.decided(gan, state, z, y, here, seen=True)
        theirs = sampler.decided(exact, state, z, y, here, seen=False)
        return int((mine ^ theirs).sum()) / rows
    kept = [_ids(one, sampler, state, z, y, here) for one in (gan, exact)]
    return (len(kept[0]) + len(kept[1]) - 2 * int(torch.isin(*kept).sum())) / rows


def _ids(gan: GAN, sampler: Sampler, state: Any, z: Tensor, y: Tensor | None, rng: Rng) -> Tensor:
    """The ids of the rows that become samples."""
    batch = sampler.step(gan, state, z, y, rng)[1]
    return batch.ids[: int(batch.count)]
