"""Rows of a table as CTGAN's generator makes them, and as a critic sees them."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn


class Numbers(nn.Module):
    """A column of numbers, each of which CTGAN scales by one of several normal components.

    mean, sd: (k,) float64 of the components. reach: what the generator's 1 stands for, in standard
        deviations. limits: of a column of integers.
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self, mean: Tensor, sd: Tensor, reach: float, limits: tuple[float, float] | None
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)
        self.reach, self.limits = reach, limits
        self.width = 1 + len(mean)  # numbers that the generator returns for it

    def made(self, raw: Tensor, u: Tensor) -> Tensor:
        component = picked(raw[:, 1:], u)
        scaled = raw[:, 0].tanh().double() * self.reach
        value = scaled * self.sd[component] + self.mean[component]
        return value if self.limits is None else value.round().clamp(*self.limits)

    def seen(self, value: Tensor) -> Tensor:
        """Each component's share of the density at these values, and the values scaled by it."""
        scaled = (value[:, None] - self.mean) / self.sd
        share = (-0.5 * scaled.square() - self.sd.log()).softmax(dim=1)
        return torch.cat([share, share * scaled.clamp(-self.reach, self.reach)], dim=1)


class Categories(nn.Module):
    """A column of categories, each of which is known by its place among them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def made(self, raw: Tensor, u: Tensor) -> Tensor:
        return picked(raw, u).double()

    def seen(self, value: Tensor) -> Tensor:
        return one_hot(value, self.width)


Columns = Iterable[Numbers | Categories]


class Rows(nn.Module):
    """Latents (n, latent_dim) -> rows (n, columns) float64.

    A latent holds the generator's normals, one for its condition, and one for each column. Normal
    distribution functions of the latter are uniform. They pick a category with the probabilities of
    the softmax, as CTGAN does by Gumbel noise.

    frequency: (k,) float64, how often each condition is proposed.
    """

    cumulative: Tensor

    def __init__(
        self, generator: nn.Module, normals: int, frequency: Tensor, columns: Columns
    ) -> None:
        super().__init__()
        self.generator, self.normals = generator, normals
        self.columns = nn.ModuleList(columns)
        self.register_buffer("cumulative", (frequency / frequency.sum()).cumsum(0)[:-1])
        self.conditions = len(frequency)
        self.latent_dim = normals + 1 + len(self.columns)

    def forward(self, z: Tensor) -> Tensor:
        normals, others = z.tensor_split((self.normals,), dim=1)
        u, *own = torch.special.ndtr(others.double()).unbind(dim=1)
        condition = one_hot(torch.bucketize(u.contiguous(), self.cumulative), self.conditions)
        raw = self.generator(torch.cat([normals, condition.to(z)], dim=1)).float()
        columns = list(cast(Columns, self.columns))
        parts = raw.split_with_sizes([column.width for column in columns], dim=1)
        each = zip(columns, parts, own, strict=True)
        return torch.stack([column.made(part, u) for column, part, u in each], dim=1)


class Seen(nn.Module):
    """Rows (n, columns) -> features (n, d) from which a critic learns."""

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self.columns = nn.ModuleList(columns)

    def forward(self, x: Tensor) -> Tensor:
        each = zip(cast(Columns, self.columns), x.unbind(dim=1), strict=True)
        return torch.cat([column.seen(value) for column, value in each], dim=1)


def one_hot(places: Tensor, count: int) -> Tensor:
    return (places[:, None] == torch.arange(count, device=places.device)).double()


def picked(logits: Tensor, u: Tensor) -> Tensor:
    """The places (n,) where the sums of softmax(logits) (n, k) reach u (n,) in [0, 1]."""
    reached = logits.double().softmax(dim=1).cumsum(dim=1)[:, :-1]
    return (reached < u[:, None]).sum(dim=1)
