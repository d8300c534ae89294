"""Ways to run G and D, timed in turns: batch sizes, and the variants of `tune`."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.core.arguments import told
from drs_fast.gan import GAN
from drs_fast.gan.precision import AUTOCAST
from drs_fast.run.options import Options
from drs_fast.tune import tuning

USUAL = Options.batch_size  # of `generate`, unless another is given
SIZES = (256, 1024, USUAL, 16384, 65536)
LONGEST = 4.0  # seconds per call: larger batches are not tried
SLICE, ROUNDS = 0.1, 8  # least seconds of timing for each way, in every round
GAIN, AGAINST = 1.05, 2  # recommend what is this much faster in all but two rounds


@dataclass(frozen=True)
class Way:
    """One way to run G and D: this batch size with these variants.

    rates: rows per second, one for each round.
    change: largest change of a finite logit, in standard deviations of the logits.
    """

    batch_size: int
    tune: tuple[str, ...]
    rates: tuple[float, ...]
    change: float = 0.0

    @property
    def rate(self) -> float:
        """Median rows per second."""
        return statistics.median(self.rates)

    def beats(self, other: "Way") -> bool:
        """Whether this way is clearly faster, round by round."""
        gains = sorted(mine / theirs for mine, theirs in zip(self.rates, other.rates, strict=True))
        return gains[min(AGAINST, len(gains) - 1)] > GAIN


def line(name: str, way: Way, first: Way) -> str:
    """A line of a plan's tables; first: the way that the speed is relative to."""
    return f"{name:>23}{way.rate:>12,.0f}{way.rate / first.rate:>8.2f}"


def of_sizes(
    gan: GAN, sizes: Sequence[int], say: Callable[[str], None]
) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    """Times G and D untuned at each size that fits them, memory and patience.

    Returns the usual size first; and why G and D refused the next, if they did.
    """
    ways: dict[int, GAN] = {}
    refused: tuple[str, ...] = ()
    for size in sizes:
        say(f"batches of {size:,}")
        one = gan.on(block=size)
        try:
            seconds = min(_seconds(one, size) for _ in range(2))
        except (torch.OutOfMemoryError, MemoryError, ValueError) as error:
            if not ways:
                raise
            refused = (f"batches of {size:,}: {told(error)}",)
            break
        ways[size] = one
        if 4.0 * seconds > LONGEST:  # the next size is four times as large
            break
    timed = zip(ways, _rates(ways.values()), strict=True)
    ordered = sorted(timed, key=lambda one: abs(math.log(one[0] / USUAL)))
    return tuple(Way(size, (), rates) for size, rates in ordered), refused


def of_tunes(gan: GAN, say: Callable[[str], None]) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    """Times G and D untuned and with combinations of variants; and says why some fail."""
    ways: dict[tuple[str, ...], GAN] = {(): gan}
    refused: dict[tuple[str, ...], str] = {}

    def try_to_apply(names: tuple[str, ...]) -> None:
        if names not in ways and not any(set(others) <= set(names) for others in refused):
            say(f"tune={names!r}")
            try:
                ways[names] = tuning.applied(gan, names)
            except ValueError as error:
                refused[names] = str(error)

    without = {tuning.COMPILE} if gan.precision in AUTOCAST else {tuning.COMPILE, tuning.CAST}
    for names in tuning.sets(name for name in tuning.VARIANTS if name not in without):
        try_to_apply(names)
    if tuning.COMPILE in tuning.VARIANTS:  # which takes long: alone, and with what is fastest
        fastest = min(ways, key=lambda names: _seconds(ways[names], gan.block))
        try_to_apply((tuning.COMPILE,))
        try_to_apply((*fastest, tuning.COMPILE))
    timed = zip(ways.items(), _rates(ways.values()), strict=True)
    found = (
        Way(gan.block, names, rates, tuning.change(gan, one).logit) for (names, one), rates in timed
    )
    return tuple(found), tuple(refused.values())


def best(ways: Sequence[Way]) -> Way:
    """The first way, or a later one that is clearly faster."""
    best = ways[0]
    for way in ways[1:]:
        best = way if way.beats(best) else best
    return best


def _rates(gans: Iterable[GAN]) -> Iterator[tuple[float, ...]]:
    """Rows per second of each GAN, one number per round; the GANs take turns."""
    rows = {gan: gan.block * max(1, round(SLICE / _seconds(gan, gan.block))) for gan in gans}
    rounds = [[n / _seconds(gan, n) for gan, n in rows.items()] for _ in range(ROUNDS)]
    return zip(*rounds, strict=True)


def _seconds(gan: GAN, rows: int) -> float:
    rng = Rng(0, BURN_IN_ROW)
    z, y = ops.latents(gan, rng, rows), ops.labels(gan, rng, rows)
    float(z[0, 0])  # waits for a GPU
    start = time.perf_counter()
    float(gan.logits(z, y)[1][0])
    return time.perf_counter() - start
