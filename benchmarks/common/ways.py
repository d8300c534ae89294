"""All sampling methods that are compared, and their cost in calls of G and D and in gradients."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import drs_fast as drs
from benchmarks.common import critics
from drs_fast.core import Sampler
from drs_fast.gan import GAN
from drs_fast.samplers import DCD, DDLS, DOT, DRS, MH, OBRS, SIR, DGFlow

BATCH = 4096
Prepare = Callable[[GAN, int], GAN]


# The part of each zoo discriminator whose output is the feature space.
FEATURES = {"25gaussians": "layers.5", "swissroll": "layers.5"}


def as_it_is(gan: GAN, seed: int) -> GAN:
    return gan


def calibrated(gan: GAN, seed: int) -> GAN:
    return drs.calibrate(gan, "isotonic", seed=seed)


def headed(gan: GAN, seed: int) -> GAN:
    return drs.keep_train(critics.wgan(gan, seed), seed=seed)


def in_feature_space(gan: GAN, seed: int) -> GAN:
    return drs.density_ratio(gan, FEATURES.get(gan.name), seed=seed)


def contrasted(gan: GAN, seed: int) -> GAN:
    return drs.contrastive(gan, seed=seed)


@dataclass(frozen=True)
class Way:
    """A sampler for the GAN that `prepare` returns. published: HQ on 25 Gaussians, and by whom."""

    sampler: Sampler
    prepare: Prepare = as_it_is
    published: str = ""


# Steps of DGflow and DCD are ours, chosen on seed 0 of 25 Gaussians; theirs are for images.
# Published figures come from other generators, with raw HQ near 70 %. DDRE is the repository
# UBCDingXin/DDRE_Sampling_GANs, OBR obryniarski/mh-gan-experiments.
WAYS: dict[str, Way] = {
    "DRS p80": Way(DRS(percentile=80)),
    "DRS p95": Way(DRS(percentile=95)),
    "DRS gamma 0": Way(DRS(gamma=0.0)),
    "OBRS 10 %": Way(OBRS(budget=0.1)),
    "MH": Way(MH()),
    "MH calibrated": Way(MH(), calibrated, "93.4 (OBR)"),
    "SIR": Way(SIR()),
    "DDLS": Way(DDLS()),
    "DGflow": Way(DGFlow(step_size=1e-4, steps=50)),
    "DOT": Way(DOT(space="sample", lipschitz="pairs", burn_in=200)),
    "DCD": Way(DCD(step_size=1e-3), contrasted),
    "RSGAN + DRS": Way(DRS(gamma=0.0), critics.rsgan),
    "WGAN + head + DRS": Way(DRS(gamma=0.0), headed),
    "DRE-F-SP + RS": Way(DRS(gamma=0.0, eps=0.0), in_feature_space, "99.5 (DDRE)"),
    "DRE-F-SP + MH": Way(MH(), in_feature_space),
    "DRE-F-SP + SIR": Way(SIR(), in_feature_space),
}


class Counted(GAN):
    """A GAN that counts the rows its networks compute."""

    counts: Counter[str]

    @staticmethod
    def of(gan: GAN) -> "Counted":
        counted = object.__new__(Counted)
        counted.__dict__ = {**vars(gan), "counts": Counter()}
        return counted

    def _blocks(self, function: Any, rows: Tensor, *options: Any, **named: Any) -> list[Tensor]:
        self.counts[function.__name__] += len(rows)
        return super()._blocks(function, rows, *options, **named)

    def calls(self) -> dict[str, int]:
        """Rows through G, through D, and through their gradients (both, or D's alone)."""
        counts = self.counts
        return {
            "g_calls": counts["_logits"],
            "d_calls": counts["_logits"] + counts["_scores"],
            "gradients": counts["_gradients"] + counts["_score_gradients"],
        }


@dataclass(frozen=True)
class Samples:
    x: Tensor
    y: Tensor | None = None
    g_calls: float = math.nan  # per sample, burn-in included
    d_calls: float = math.nan
    gradients: float = math.nan
    rate: float = math.nan  # samples per second, burn-in included


def raw(gan: GAN, n: int, seed: int) -> Samples:
    """Samples of the generator itself."""
    start = time.perf_counter()
    x = gan.logits(drs.ops.latents(gan, drs.Rng(seed), n))[0]
    return Samples(x, None, 1.0, 0.0, 0.0, n / (time.perf_counter() - start))


def sampled(gan: GAN, sampler: Sampler, n: int, seed: int) -> Samples:
    """n samples, and the cost of each."""
    counted = Counted.of(gan)
    start = time.perf_counter()
    batch = drs.generate(counted, sampler, n, seed=seed, batch_size=min(n, BATCH))
    rate = n / (time.perf_counter() - start)
    calls = {name: rows / n for name, rows in counted.calls().items()}
    return Samples(batch.x, batch.y, **calls, rate=rate)


def check(gan: GAN, sampler: Sampler) -> None:
    """Raises RuntimeError unless the reference backend gives the same samples."""
    n = 300 if sampler.group == 1 else 30
    fast = drs.generate(gan, sampler, n)
    with drs.backend("reference"):
        slow = drs.generate(gan, sampler, n)
    if not (torch.equal(fast.ids, slow.ids) and torch.equal(fast.x, slow.x)):
        raise RuntimeError(f"{sampler} differs from the reference backend")


class Prepared:
    """Prepares the GAN for each method once per seed, and records the seconds this took."""

    def __init__(self, gan: GAN, fits: int) -> None:
        self._gan, self._fits = gan, fits
        self._made: dict[tuple[Prepare, int], tuple[GAN, float]] = {}

    def get(self, way: Way, seed: int) -> tuple[GAN, float]:
        """The GAN for a seed; with fewer fits than seeds, these take turns."""
        seed %= self._fits
        key = way.prepare, seed
        if key not in self._made:
            start = time.perf_counter()
            made = way.prepare(self._gan, seed)
            self._made[key] = made, time.perf_counter() - start
        return self._made[key]
