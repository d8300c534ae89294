"""Checks whether real samples have other units than generated ones, as [0, 255] for [-1, 1]."""

import math
from typing import NamedTuple

from torch import Tensor

from drs_fast.doctor.words import number

ELEMENTS = 2**22  # numbers in the samples that are examined; large samples give a few rows more
ROWS = 256
UNITS = {"[0, 1]": (0.0, 1.0), "[-1, 1]": (-1.0, 1.0), "[0, 255]": (0.0, 255.0)}  # narrowest first
STANDARD = "ImageNet's standard scores"
COLOURS = {  # (x - mean) / sd of the three channels in [0, 1], taken together
    "[0, 1]": UNITS["[0, 1]"],
    "[-1, 1]": UNITS["[-1, 1]"],
    STANDARD: (-0.485 / 0.229, (1.0 - 0.406) / 0.225),
    "[0, 255]": UNITS["[0, 255]"],
}
ALIKE = 0.5  # of an sd: two GANs of one data set may be this far apart
SCALE = 10.0  # ratio of the sds if no unit is in the table, as for metres and kilometres


class Values(NamedTuple):
    """Statistics of all numbers in some samples."""

    least: float
    low: float  # 99 % lie above this
    high: float  # and below this
    greatest: float
    mean: float
    sd: float

    def distance(self, other: "Values") -> float:
        """Wasserstein distance between normals with these means and sds."""
        return math.hypot(self.mean - other.mean, self.sd - other.sd)


def values(x: Tensor) -> Values:
    flat = x[: max(ROWS, ELEMENTS // max(1, x[0].numel()))].flatten().double().sort().values
    tail = len(flat) // 200
    ends = (flat[0], flat[tail], flat[-1 - tail], flat[-1], flat.mean(), flat.std(correction=0))
    return Values(*map(float, ends))


class Conversion(NamedTuple):
    """x -> slope * x + offset. fits: whether real values are then spread as generated ones."""

    words: str
    slope: float
    offset: float
    fits: bool


def conversion(real: Values, made: Values, *, colours: bool, doubted: bool) -> Conversion | None:
    """How to convert real samples to the units of generated ones, or None if these are the same.

    A distance alone proves nothing, because a GAN may be that far from its data. The units differ
    if a change of units brings mean and sd of the real values nearer to the generated ones, and
    either all generated values stay within the other unit, as after a tanh, or the discriminator's
    verdict on the real samples is doubted. A discriminator that judges them rightly was trained on
    them as they are.
    """
    table = COLOURS if colours else UNITS
    unit = _unit(table, real.low, real.high)
    kept = _unit(table, made.least, made.greatest)
    found = {}
    for name, ends in table.items():
        if unit is not None and name != unit and (name == kept or doubted):
            slope = (ends[1] - ends[0]) / (table[unit][1] - table[unit][0])
            offset = ends[0] - slope * table[unit][0]
            moved = real._replace(mean=slope * real.mean + offset, sd=slope * real.sd)
            distance = moved.distance(made)
            if distance < real.distance(made) and moved.sd <= SCALE * made.sd:
                words = f"{slope:.4g} * x {offset:+.4g} takes {unit} to {name}"
                fits = name == kept or distance <= ALIKE * made.sd
                found[distance] = Conversion(words, slope, offset, fits)
    if found:
        return found[min(found)]
    if doubted and not 1.0 / SCALE <= real.sd / max(made.sd, 1e-300) <= SCALE:
        words = f"their sd is {number(real.sd)}, that of the generated ones is {number(made.sd)}"
        slope = made.sd / max(real.sd, 1e-300)
        return Conversion(words, slope, made.mean - slope * real.mean, fits=False)
    return None


def small(real: Values) -> bool:
    """Whether real values fill a unit of pictures that networks take, such as [-1, 1]."""
    return _unit(COLOURS, real.low, real.high) not in (None, "[0, 255]")


def _unit(table: dict[str, tuple[float, float]], least: float, greatest: float) -> str | None:
    """The narrowest unit that holds these values, if they fill more than half of it."""
    for name, (low, high) in table.items():
        if low <= least and greatest <= high:
            return name if greatest - least > (high - low) / 2 else None
    return None
