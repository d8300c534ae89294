"""Which bounds a search may use: by name, or by what a clock says before the run."""

import math
from collections.abc import Callable
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


def settle(
    gan: GAN, sampler: RejectionSampler, say: Callable[[str], None]
) -> tuple[str, float | None]:
    """Networks, and the precision by which a sample is expected to be cheapest, if one may pay.

    Returns `by` and `low_cost`. say: told what was found.
    """
    if not sampler.by_logit or not lowered.weight_bytes(gan, FP32):
        return LATENT, None
    gan.row()  # so that an error of G or D is not taken for one of low precision
    found, refused = list[Lower](), list[str]()
    for precision in lowered.lower_than(gan):
        try:
            found.append(lowered.measured(gan, precision, PAIRED))
        except (ValueError, torch.OutOfMemoryError) as error:
            refused.append(f"{precision} cannot be used ({str(error).splitlines()[0]})")
    best = min(found, key=expected, default=None)
    if best is None or expected(best) >= WORTH:
        refused += [
            f"{each.precision} takes {each.cost:.2f} of the time of {gan.precision} here and is "
            f"off by {each.error:.2g} nats, so a sample may take {expected(each):.2f} of its time "
            f"(at most {WORTH} is worth a search)"
            for each in found
        ]
        if refused:
            say(f"squeeze: by={LATENT!r}, because {'; '.join(refused)}")
        return LATENT, None
    by, cost = f"{LATENT},{best.precision}", float(f"{best.cost:.2g}")
    say(f"squeeze: by={by!r}, low_cost={cost:g}; {memory(gan, best.precision)}")
    return by, cost


def ready(gan: GAN, by: str, low: str) -> None:
    """ValueError where G and D cannot run in this precision, before anything is written."""
    gan.row()
    try:
        lowered.lowered(gan, low)
    except ValueError as error:
        reason = str(error).partition("; ")[0]
        raise ValueError(
            f"by={by!r} cannot be used here: {reason}; use by='latent', or leave by out"
        ) from error


def memory(gan: GAN, precision: str) -> str:
    """What the second weights take, in words."""
    needed = lowered.weight_bytes(gan, precision) / 2**20
    return f"the weights of G and D in {precision} take another {needed:,.3g} MiB"


def expected(low: Lower) -> float:
    """About the share of a sample's time that remains with low precision as a bound."""
    above = math.exp(min(MARGIN * low.error, 50.0))
    return low.cost + min(1.0, USUAL_ACCEPTANCE * above + low.infinite)
