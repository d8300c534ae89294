"""The ways to compare with a cascade, and the runs that are timed, in turns."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.common.runs import Timed, timed
from drs_fast.core import fingerprint
from drs_fast.gan import GAN
from drs_fast.gan.precision import BF16, TF32
from drs_fast.squeeze import Squeeze
from drs_fast.tune import lowered, tuning

EXACT, TUNED, LOW = "fp32", "fp32, tuned", "bf16, tuned"
FASTER = ("fold", "channels_last")  # where they apply, the latter to images
N = 2**40  # samples, more than there is time for
WARM_UP_S = 2.0


@dataclass(frozen=True)
class Asked:
    """What figures depend on, besides the model and the sampler."""

    seconds: float  # of one run
    rounds: int
    burn_in: int  # rows
    unseen: float  # as of drs.Squeeze
    by: tuple[str, ...] = ("bf16", "auto")


@dataclass(frozen=True)
class Way:
    """How samples are made."""

    gan: GAN  # tuned, and in its precision
    sampler: Any
    state: Any


@dataclass(frozen=True)
class Cascade:
    """A sampler that squeezes, its state, and the seconds it took to find that."""

    squeeze: Squeeze
    state: Any
    before: float

    @property
    def thresholds(self) -> Any:
        """The state of the sampler without bounds."""
        return self.squeeze.sampler.restored(self.state.unbounded)


def tunes(gan: GAN) -> tuple[str, ...]:
    """The variants that apply to G and D in fp32."""
    kept = []
    weights = fingerprint.modules(gan.generator, gan.discriminator)
    images = any(weight.ndim == 4 for module in weights for weight in module.parameters())
    for name in FASTER if images else FASTER[:1]:
        try:
            tuning.applied(gan, (name,))
        except ValueError:
            continue
        kept.append(name)
    return tuple(kept)


def begun(gan: GAN, squeeze: Squeeze) -> Cascade:
    """After burn-in and search; ValueError if no bound keeps the limits."""
    start = time.perf_counter()
    squeeze = squeeze.settled(gan)
    settling = time.perf_counter() - start
    found = timed(gan, squeeze, N, 0.0)
    return Cascade(squeeze, found.run.state, settling + found.before)


def plain_ways(gan: GAN, sampler: Any, state: Any, tune: tuple[str, ...]) -> dict[str, Way]:
    """The same thresholds in every precision."""
    ways = {EXACT: gan}
    if tune:
        ways[TUNED] = tuning.applied(gan, tune)
    if TF32 in lowered.lower_than(gan):
        ways["tf32, tuned"] = tuning.applied(gan.on(precision=TF32), tune)
    ways[LOW] = tuning.applied(gan.on(precision=BF16), (*tune, tuning.CAST))
    return {name: Way(each, sampler, state) for name, each in ways.items()}


def in_turns(ways: dict[str, Way], asked: Asked) -> tuple[dict[str, Timed], dict[str, float]]:
    """The first run of each way, and the least seconds a row of all its runs.

    Each round starts one way later.
    """
    names, runs = list(ways), {}
    least = dict.fromkeys(names, math.inf)
    for i in range(asked.rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            way = ways[name]
            run = timed(way.gan, way.sampler, N, asked.seconds, way.state)
            least[name] = min(least[name], run.rows / run.run.proposals)
            runs.setdefault(name, run)
    return runs, least


def same(one: Any, other: Any) -> bool:
    return torch.equal(one.log_m, other.log_m) and torch.equal(one.gamma, other.gamma)
