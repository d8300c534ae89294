"""Shared by samplers that move latents or samples along a critic's gradient."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Rng
from drs_fast.gan import GAN

SPACES = ("latent", "sample")


class Prior(NamedTuple):
    """log p0(z) = -precision |z|^2 / 2 + const where every |z_j - centre| <= box, else -inf."""

    precision: float
    box: float
    centre: float = 0.0

    def inside(self, z: Tensor) -> Tensor:
        """Which rows (n, d) lie within the walls, (n,) bool."""
        return (_from(z, self.centre).abs() <= self.box).all(dim=1)


PRIORS = {
    "normal": Prior(1.0, math.inf),
    "uniform": Prior(0.0, 1.0),
    "uniform01": Prior(0.0, 0.5, 0.5),
    "truncated normal": Prior(1.0, 2.0),
}


def prior(gan: GAN) -> Prior:
    """The density of the GAN's latents; ValueError if it is not known."""
    if not isinstance(gan.prior, str):
        raise ValueError(
            "the density of the latents is needed, but prior is a callable; make it part of the "
            "generator: GAN(lambda z: G(prior(z)), ..., prior='normal')"
        )
    usual, scale = PRIORS[gan.prior], gan.truncation
    return usual if scale == 1.0 else Prior(usual.precision / scale**2, scale * usual.box)


def walls(gan: GAN) -> tuple[float, float]:
    """Box and centre: latents have every |z_j - centre| <= box, infinite if none is known."""
    return prior(gan)[1:] if isinstance(gan.prior, str) else (math.inf, 0.0)


def _from(z: Tensor, centre: float) -> Tensor:
    return z - centre if centre else z


def log_density(z: Tensor, prior: Prior) -> Tensor:
    """log p0 up to a constant, (n,) float64."""
    return torch.where(
        prior.inside(z), -prior.precision / 2 * row_sum(z.double().square()), -torch.inf
    )


def reflected(z: Tensor, box: float, centre: float = 0.0) -> Tensor:
    """Latents folded back into the box at its walls; those inside stay as they are."""
    if math.isinf(box):
        return z
    away = _from(z, centre)
    way = torch.remainder(away + box, 4 * box)
    folded = torch.where(way <= 2 * box, way - box, 3 * box - way).clamp(-box, box)
    return torch.where(away.abs() <= box, z, folded + centre)


def bounced(z: Tensor, velocity: Tensor, box: float, centre: float = 0.0) -> tuple[Tensor, Tensor]:
    """Latents reflected at the walls, with their velocities turned round at every wall they hit."""
    if math.isinf(box):
        return z, velocity
    hit = torch.ceil((_from(z, centre).abs() - box) / (2 * box))
    return reflected(z, box, centre), torch.where(hit % 2 == 1, -velocity, velocity)


def row_sum(values: Tensor) -> Tensor:
    """Sums (n,) of the rows (n, ...), added by halves: the order depends only on the width.

    torch.sum takes an order that may depend on n.
    """
    values = values.flatten(1)
    while values.shape[1] > 1:
        half = (values.shape[1] + 1) // 2
        rest = values[:, half:]
        values = torch.cat([values[:, : rest.shape[1]] + rest, values[:, rest.shape[1] : half]], 1)
    return values[:, 0]


def sigmoid(logit: Tensor) -> Tensor:
    """1 / (1 + exp(-logit)), float32.

    The last bit of torch.sigmoid depends on the number of rows.
    """
    small = ops.probability(-logit.abs(), log_m=0.0, eps=0.0)  # exp(-|logit|)
    return (torch.where(logit < 0.0, small, 1.0) / (1.0 + small)).float()


def steady(slope: Tensor) -> Tensor:
    """The gradients, set to 0 in rows where one is not finite."""
    return choose(finite(slope), slope, torch.zeros_like(slope))


def finite(rows: Tensor) -> Tensor:
    """Which rows (n, ...) have no NaN and no infinity, (n,) bool."""
    return torch.isfinite(rows).flatten(1).all(dim=1)


def known_finite(*rows: Tensor) -> bool:
    """Whether all rows are known to have no NaN and no infinity.

    One sum each decides, if the host need not wait for a GPU; a sum that overflows leaves it open.
    """
    return all(each.device.type == "cpu" and math.isfinite(each.sum()) for each in rows)


def choose(where: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Whole rows: from `rows` where (n,) bool is True, elsewhere from `others` (n, ...)."""
    return torch.where(beside(where, rows), rows, others)


def beside(values: Tensor, rows: Tensor) -> Tensor:
    """values (n,) in the shape (n, 1, ...), to broadcast over rows (n, ...)."""
    return values.view(-1, *[1] * (rows.ndim - 1))


def finished(
    x: Tensor,
    z: Tensor,
    y: Tensor | None,
    logit: Tensor,
    rng: Rng,
    tallies: Mapping[str, Tensor | int],
) -> Batch:
    """The rows with a finite logit, in order; the others are not samples."""
    good = torch.isfinite(logit)
    order = torch.argsort((~good).to(torch.uint8), stable=True)
    ids = torch.arange(len(logit), device=logit.device) + rng.row
    stats = {
        "invalid": (torch.isnan(logit) | torch.isposinf(logit)).sum(),
        "above": torch.zeros((), dtype=torch.int64, device=logit.device),
    }
    for name, value in tallies.items():
        stats[name] = torch.as_tensor(value, dtype=torch.int64, device=logit.device)
    return Batch(
        x=x[order],
        z=z[order],
        y=None if y is None else y[order],
        logit=logit[order],
        ids=ids[order],
        count=good.sum(),
        stats=stats,
    )
