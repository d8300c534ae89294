"""Rows in slices of one shape, so that the bits of a bound do not vary."""

from collections.abc import Iterator

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.gan import GAN

SLICE = 2**14  # rows per call of the first bound

Slice = tuple[Rng, int, Tensor, Tensor | None]  # first row, rows that count, SLICE latents, labels


def drawn(gan: GAN, rng: Rng, n: int) -> Iterator[Slice]:
    """Slices of rows rng.row to rng.row + n, with their latents drawn."""
    for start in range(0, n, SLICE):
        own = rng.at(rng.row + start)
        z, y = ops.latents(gan, own, SLICE), ops.labels(gan, own, SLICE)
        yield own, min(SLICE, n - start), z, y


def given(z: Tensor, y: Tensor | None, rng: Rng) -> Iterator[Slice]:
    """Slices of given latents."""
    for start in range(0, len(z), SLICE):
        own, size = slice(start, start + SLICE), min(SLICE, len(z) - start)
        label = None if y is None else padded(y[own], SLICE)
        yield rng.at(rng.row + start), size, padded(z[own], SLICE), label


def slices(n: int, size: int) -> list[slice]:
    """Ranges of `size` that cover n rows; at least one."""
    return [slice(start, start + size) for start in range(0, max(1, n), size)]


def padded(rows: Tensor, size: int) -> Tensor:
    """The rows, zero-padded to `size` rows."""
    if len(rows) == size:
        return rows
    return torch.cat([rows, rows.new_zeros((size - len(rows), *rows.shape[1:]))])
