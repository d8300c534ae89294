"""Which bounds a search may use: by name, or by what a clock says before the run."""

import math
from typing import Any, NamedTuple

import torch

from drs_fast.gan import GAN
from drs_fast.gan.precision import BF16, FP16, FP32, TF32
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.tune import lowered
from drs_fast.tune.lowered import Lower

AUTO, LATENT = "auto", "latent"
LOW = (BF16, FP16, TF32)
USUAL_COST = 0.5  # of low precision that was given by name, as a share of full precision
USUAL_ACCEPTANCE = 0.2  # of DRS as it is by default
MARGIN = 3.0  # errors that a margin is expected to take
WORTH = 0.85  # share of a sample's time that must be expected, to look for a margin
PAIRED = 256  # rows for the error


class Chosen(NamedTuple):
    """Bounds that were named."""

    latent: bool
    low: str  # a precision; "" for none
    cost: float

    @staticmethod
    def of(by: str, low_cost: float | None) -> "Chosen":
        """What is named; networks alone until "auto" is settled."""
        names = [LATENT] if by == AUTO else by.split(",")
        low = next((name for name in names if name in LOW), "")
        cost = USUAL_COST if low_cost is None else low_cost
        return Chosen(LATENT in names, low, cost if low else math.inf)


def checked(by: Any) -> str:
    """The names in their fixed order; ValueError for unknown ones or two precisions."""
    names = [name.strip() for name in by.split(",")] if isinstance(by, str) else []
    low = sorted({*names} & {*LOW})
    if names != [AUTO] and (not names or {*names} - {LATENT, *LOW} or len(low) > 1):
        raise ValueError(
            f"by must be 'auto', 'latent', one of {', '.join(LOW)}, or 'latent' and one of them "
            f"as in 'latent,bf16', got {by!r}"
        )
    return ",".join(name for name in (AUTO, LATENT, *LOW) if name in names)


class Settled(NamedTuple):
    """The fields of a Squeeze whose bounds a clock has chosen."""

    by: str
    low_cost: float | None


def measured(gan: GAN, sampler: RejectionSampler) -> Settled:
    """Networks, and the precision that a sample is expected to be cheapest with, if one may pay."""
    best, least = Settled(LATENT, None), WORTH
    if not sampler.by_logit or not lowered.weight_bytes(gan, FP32):
        return best
    for precision in lowered.lower_than(gan):
        try:
            found = lowered.measured(gan, precision, PAIRED)
        except (ValueError, torch.OutOfMemoryError):  # G or D fails in it, or does not fit
            continue
        if (share := expected(found)) < least:
            best, least = Settled(f"{LATENT},{precision}", float(f"{found.cost:.2g}")), share
    return best


def expected(low: Lower, acceptance: float = USUAL_ACCEPTANCE) -> float:
    """About the share of a sample's time that remains with low precision as a bound."""
    above = math.exp(min(MARGIN * low.error, 50.0))
    return low.cost + min(1.0, acceptance * above + low.infinite)
