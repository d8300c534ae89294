"""How many bins show what the data hold: by cross-validation, which a rule on spread cannot do.

Narrow modes far apart need bins much narrower than the spread of all data suggests.
"""

import torch
from torch import Tensor

COUNTS = (16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200)
Range = tuple[float, float]


def best(values: Tensor, *ranges: Range, most: int = COUNTS[-1]) -> int:
    """Bins on each axis for a histogram of values (n, d), with one range for each column.

    Source: Rudemo, Empirical choice of histograms and kernel density estimators (1982), eq. 2.8.
    """
    n = len(values)
    if n < 2:
        return COUNTS[0]
    volume = 1.0
    for low, high in ranges:
        volume *= high - low
    risks = {}
    for bins in COUNTS:
        if bins <= most:
            held = counts(values, bins, *ranges).double()
            cell = volume / bins ** len(ranges)
            squares = float(held.square().sum()) / n**2
            risks[bins] = (2.0 - (n + 1) * squares) / ((n - 1) * cell)
    return min(risks, key=lambda bins: risks[bins])


def counts(values: Tensor, bins: int, *ranges: Range) -> Tensor:
    """How many of the values (n, d) are in each cell, (bins,) * d int64; the rest is left out."""
    values = values.double().cpu()
    inside = values.isfinite().all(dim=1)
    place = torch.zeros_like(inside, dtype=torch.int64)
    for column, (low, high) in zip(values.T, ranges, strict=True):
        inside &= (column >= low) & (column <= high)
        own = ((column - low) / (high - low) * bins).nan_to_num().clamp(0, bins - 1).long()
        place = place * bins + own
    return torch.bincount(place[inside], minlength=bins ** len(ranges)).view([bins] * len(ranges))
