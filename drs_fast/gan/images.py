"""How a run stores samples: as the generator makes them, or as images in 8 or 16 bits a number."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drs_fast.core.arguments import describe, number, one_of
from drs_fast.core.words import counted

FORMS = ("uint8", "float16")
OUTSIDE = "outside"  # the column that says which samples do not fit
LEVELS = 255
MARGIN = 0.01  # of the width of a range, by which numbers may lie outside of it
LARGEST = 1e30  # of the ends of a range, far from what overflows in float32
LARGEST_HALF = 65519.99609375  # in float32, that is finite in float16
RULES = {
    "uint8": "clamp(round((x - low) * (255 / (high - low))), 0, 255) in float32, ties to even, "
    "NaN to 0",
    "float16": "x rounded to float16, ties to even",
}


def value_range(given: Any) -> tuple[float, float]:
    """The ends of a range of numbers; ValueError unless the second is the larger, in float32."""
    try:
        low, high = given
    except (TypeError, ValueError):
        raise ValueError(
            f"value_range must be two numbers such as (-1, 1), got {describe(given)}"
        ) from None
    low, high = (number("value_range", end, -LARGEST, LARGEST) for end in (low, high))
    if not _single(low) < _single(high) or math.isinf(_single(LEVELS / (high - low))):
        raise ValueError(
            "value_range must be (low, high) with low < high, also when rounded to float32, "
            f"got ({low:g}, {high:g})"
        )
    return low, high


def _single(value: float) -> float:
    """The number rounded to float32."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


@dataclass(frozen=True)
class Images:
    """Samples as numbers of `form`, "uint8" or "float16"; for uint8, low becomes 0 and high 255.

    The operations round alike on every device, each by itself, so equal x give equal images.
    """

    form: str
    low: float
    high: float

    def __post_init__(self) -> None:
        one_of("images", self.form, FORMS)

    def stored(self, x: Tensor) -> dict[str, Tensor]:
        """Samples x (n, ...) as they are stored, and which of them do not fit, (n,) bool.

        In uint8 a sample does not fit if a number is NaN or outside of [low, high] by more than 1 %
        of its width; in float16, if one is not finite there.
        """
        if not x.is_floating_point() or 0 in x.shape[1:]:
            raise ValueError(
                f"images={self.form!r} needs samples of floating-point numbers, got {describe(x)}; "
                "leave images out, and x is stored as the generator makes it"
            )
        single = x.float()
        least, most = self._fitting()
        flat = single[:, None].flatten(1)
        fits = (flat.amin(dim=1) >= least) & (flat.amax(dim=1) <= most)
        return {"x": self._converted(single), OUTSIDE: ~fits}

    def _converted(self, x: Tensor) -> Tensor:
        if self.form == "float16":
            return x.half()
        low, scale = _single(self.low), _single(LEVELS / (self.high - self.low))
        # One operation after the other, because a fused multiply-add rounds differently, and with a
        # factor, because PyTorch divides by a number on a GPU by multiplying with its inverse.
        level = (x - low).mul_(scale).round_().clamp_(0, LEVELS).nan_to_num_(0.0)
        return level.to(torch.uint8)

    def _fitting(self) -> tuple[float, float]:
        """The least and the largest number that fits."""
        if self.form == "float16":
            return -LARGEST_HALF, LARGEST_HALF
        margin = MARGIN * (self.high - self.low)
        return _single(self.low - margin), _single(self.high + margin)

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of them."""
        said = {"images": self.form, "image_rule": RULES[self.form]}
        return said if self.form == "float16" else {**said, "value_range": [self.low, self.high]}

    def warning(self, outside: int, n: int) -> str | None:
        """What to tell the user if `outside` of n samples do not fit."""
        if not outside:
            return None
        hold = "holds" if outside == 1 else "hold"
        these = f"{outside:,} of {counted(n, 'sample')} {hold} numbers that are NaN or"
        if self.form == "float16":
            return (
                f"{these} infinite in float16, whose largest is 65,504: leave images (--images) "
                "out, or scale what the generator makes"
            )
        return (
            f"{these} outside of value_range="
            f"({self.low:g}, {self.high:g}) by more than 1 % of its width, and are clipped in "
            "uint8: give the range of what the generator makes, by GAN(..., value_range=(low, "
            "high)) or --value-range LOW HIGH"
        )
