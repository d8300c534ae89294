"""Explains why too few rows become samples, and what to do about it."""

from typing import Any

import torch

from drs_fast import ops
from drs_fast.core import Found, Rng, Sampler
from drs_fast.gan import GAN
from drs_fast.gan.where import names

LEAST = 2.0**-40  # share of proposals that become samples
TRAIN = "train the discriminator on, or calibrate it: a few logits outweigh all others"


def explained(gan: GAN, rng: Rng, sampler: Sampler, state: Any) -> str:
    """The burn-in logits in words, then remedies, one a line: the sampler's own, and a last one."""
    found = sampler.found(state)
    where = names(gan)
    last = TRAIN
    if where:
        last = (
            f"raise patience: as the burn-in has it, a sample that satisfies {where} takes "
            f"{1.0 / max(found.acceptance, LEAST):,.0f} proposals; drs.Squeeze (--squeeze) needs "
            "far fewer calls of G and D for it"
        )
    lines = (*sampler.remedies, last)
    numbered = "".join(f"\n  {i}. {line}" for i, line in enumerate(lines, start=1))
    return f"{_histogram(gan, rng, found)}. Remedies:{numbered}"


def _histogram(gan: GAN, rng: Rng, found: Found) -> str:
    """The burn-in logits in words."""
    what, logit = found.unit, found.judged
    if logit is None:
        logit = gan.logits(ops.latents(gan, rng, gan.block), ops.labels(gan, rng, gan.block))[1]
    finite = logit[torch.isfinite(logit)].double()
    if names(gan):
        what = f"{len(finite):,} {what} of those that satisfy {names(gan)}, out"
    if not len(finite):
        return f"none of {len(logit):,} {what} is finite"
    quantiles = torch.quantile(finite[:100_000], finite.new_tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    low, quarter, middle, upper, top = (f"{float(q):.3g}" for q in quantiles)
    against = "".join(f", {k} = {float(v.max()):.4g}" for k, v in found.limits.items())
    return (
        f"{what} of {len(logit):,} proposals: lowest {low}, a quarter below {quarter}, half below "
        f"{middle}, three quarters below {upper}, highest {top}{against}"
    )
