"""The same G and D in a lower precision, whose logit plus a margin bounds the exact one."""

import math

from torch import Tensor

from drs_fast.gan import GAN
from drs_fast.gan.where import conditions
from drs_fast.tune.lowered import lowered


class PrecisionBound:
    """z (n, d) [, y (n,)] -> logit (n,) in a lower precision, float32.

    A margin is in nats. A logit that is not finite tells nothing, so its row passes; except for
    the -inf of a row that a predicate of drs.where turns down.
    """

    def __init__(self, gan: GAN, precision: str) -> None:
        self.gan = lowered(gan, precision)
        self.turns_down = bool(conditions(gan))

    def scores(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        logit = self.gan.verdicts(z, y)
        if not self.turns_down:
            logit = logit.nan_to_num(nan=math.nan, posinf=math.inf, neginf=math.inf)
        return (logit,)

    def raised(self, margin: float, *scores: Tensor) -> Tensor:
        (logit,) = scores
        return logit + margin
