"""Logits of held-out real samples and of as many generated samples."""

from typing import NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import HELD_OUT_ROW, BadLogits, Rng
from drs_fast.core.arguments import integer
from drs_fast.gan import GAN
from drs_fast.gan.real_data import alike
from drs_fast.samplers.common.burn_in import check
from drs_fast.training.fitting import Draws

LEAST = 10  # samples of each kind


class Logits(NamedTuple):
    """Logits of real and of generated samples, each (n,) float64 on the CPU."""

    real: Tensor
    generated: Tensor

    def where(self, keep: Tensor) -> "Logits":
        return Logits(self.real[keep], self.generated[keep])

    def valid(self) -> "Logits":
        """The logits without NaN and +inf."""
        return Logits(*(logit[~(logit.isnan() | logit.isposinf())] for logit in self))

    def finite(self) -> "Logits":
        return Logits(*(logit[logit.isfinite()] for logit in self))


def held_out(gan: GAN, n: int, seed: int) -> Logits:
    """Logits of the first n real samples, or all if there are fewer, and as many generated ones.

    Generated samples take the labels of the real ones, so that classes are as frequent in both.
    """
    x, y = gan.real_samples(integer("n", n, 1))
    generated = []
    for start in range(0, len(x), gan.block):
        size = min(gan.block, len(x) - start)
        z = ops.latents(gan, Rng(seed, HELD_OUT_ROW + start), size)
        label = None if y is None else y[start : start + size]
        made, logit = gan.logits(z, label, alone=len(x) < gan.block)
        alike(x, made)
        generated.append(logit)
    logits = Logits(gan.scores(x, y, alone=len(x) < gan.block), torch.cat(generated))
    for logit in logits:
        check(gan, logit)
    return Logits(*(logit.cpu().double() for logit in logits))


def enough(*parts: Logits) -> None:
    """ValueError unless every part has enough samples of each kind."""
    fewest = min(len(logit) for part in parts for logit in part)
    if fewest < LEAST:
        raise ValueError(
            f"at least {LEAST} real and as many generated samples are needed in each part, "
            f"got {fewest}; raise n, or give the GAN more real samples"
        )


def varied(finite: Logits) -> None:
    """BadLogits if all logits are equal."""
    low, high = torch.cat(finite).aminmax()
    if low == high:
        raise BadLogits(
            "the critic gives every sample the same score, which no map turns into a ratio; check "
            "its weights, or use drs.keep_train(gan)"
        )


def halves(logits: Logits, seed: int) -> tuple[Logits, Logits]:
    """Splits logits into halves to fit and report on; row i's half depends only on seed and i."""
    second = Draws(seed, HELD_OUT_ROW).uniform(len(logits.real)) >= 0.5
    return logits.where(~second).valid(), logits.where(second).valid()
