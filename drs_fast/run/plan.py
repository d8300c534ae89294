"""Measures how fast G and D run here, tuned and not, and recommends arguments for a run.

A plan suggests arguments, and a run obeys its arguments.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from drs_fast.core import Rng, Sampler
from drs_fast.core.arguments import flag, integer
from drs_fast.core.sampler import checked
from drs_fast.core.words import counted
from drs_fast.gan import GAN, memory
from drs_fast.run import own_noise, pages, precisions, ways
from drs_fast.run.advice import MODEL, calls
from drs_fast.run.compared import Compared, compare, duration, seconds
from drs_fast.run.generate import ENDLESS
from drs_fast.run.options import Options
from drs_fast.run.precisions import Precision
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run
from drs_fast.run.ways import Way
from drs_fast.samplers.common.expected import Expected
from drs_fast.training.fitting import of_gan
from drs_fast.tune import tuning

DRAWING, MANY = 3.0, 1_000_000  # seconds of drawing, and samples that are enough for it


@dataclass(frozen=True)
class Drawn:
    """What a sampler drew, and the seconds taken by its burn-in and by the drawing.

    expected: what the table says of the sampler, if it is in there.
    """

    sampler: str
    burn_in: float
    seconds: float
    proposals: int
    samples: int
    expected: Expected | None = None

    @property
    def rate(self) -> float:
        """Proposals per second."""
        return self.proposals / self.seconds

    def hours(self, n: int) -> float:
        """Hours to draw n samples, burn-in included; inf if none was drawn."""
        drawing = n * self.seconds / self.samples if self.samples else math.inf
        return (self.burn_in + drawing) / 3600.0

    def __str__(self) -> str:
        if not self.samples:
            return f"{self.sampler}: none of {self.proposals:,} rows was accepted"
        each, rate = self.samples / self.proposals, self.samples / self.seconds
        burn_in = f"after a burn-in of {self.burn_in:.1f} s"
        return f"{self.sampler}: {each:.3g} samples per row, {rate:,.0f} samples/s {burn_in}"


@dataclass(frozen=True, repr=False)
class Plan:
    """What `plan` measured. batch_size and tune are the recommended arguments of `generate`."""

    model: str  # name and device
    precision: str
    sizes: tuple[Way, ...]  # untuned, the usual size first
    tunes: tuple[Way, ...]  # in batches of batch_size, untuned first
    refused: tuple[str, ...]  # why another size and other variants cannot be used
    batch_size: int
    tune: tuple[str, ...]
    drawn: Drawn | None = None
    n: int | None = None
    compared: Compared | None = None
    images: str | None = None
    sampler: Sampler | None = None
    seed: int = 0
    device: str | None = None  # where not the one that the model is on by itself
    precisions: tuple[Precision, ...] = ()  # below that of the run
    called: str = MODEL  # the model on the command line, with the flags that change it

    def __repr__(self) -> str:
        tune = ",".join(self.tune) or "none"
        rate = f"{self.tunes[0].rate:,.0f} rows/s untuned" if self.tunes else "nothing timed"
        return (
            f"<Plan for {self.model}: batch_size {self.batch_size:,}, tune {tune}, {rate}; "
            "print it for more>"
        )

    def __str__(self) -> str:
        lines = [f"{self.model}, {self.precision}", "", f"{'batch':>23}{'rows/s':>12}{'speed':>8}"]
        lines += [ways.line(f"{way.batch_size:,}", way, self.sizes[0]) for way in self.sizes]
        lines += ["", f"{'tune':>23}{'rows/s':>12}{'speed':>8}   logits change by up to"]
        for way in self.tunes:
            moved = f"   {way.change:.1g} of their sd" if way.tune else ""
            lines.append(ways.line(",".join(way.tune) or "none", way, self.tunes[0]) + moved)
        lines += precisions.table(self.precisions)
        lines += [f"refused: {reason}" for reason in self.refused]
        lines += [] if self.drawn is None else ["", str(self.drawn)]
        if self.drawn is not None and self.n is not None:
            lines.append(
                f"{counted(self.n, 'sample')}: about {duration(self._seconds(self.drawn, self.n))}"
            )
        lines += [] if self.compared is None else ["", str(self.compared)]
        return "\n".join([*lines, "", *self._calls()])

    def _calls(self) -> tuple[str, str]:
        """What to give on the command line and in Python, without what is so by default."""
        best = None if self.compared is None else self.compared.recommended
        named = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "device": self.device,
            "precision": self.precision,
            "images": self.images,
            "tune": self.tune,
        }
        sampler = self.sampler if best is None else best[0]
        return calls(self.called, sampler, self.n, named, save=best is not None)

    def _seconds(self, drawn: Drawn, n: int) -> float:
        """The time of n samples, as the table has it where the sampler is in there."""
        if self.compared is None or drawn.expected is None or drawn.expected.remark:
            return 3600.0 * drawn.hours(n)
        return self.compared.seconds(drawn.expected, n)


@of_gan
def plan(
    gan: GAN,
    sampler: Sampler | None = None,
    *,
    n: int | None = None,
    budget: float | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "fp32",
    images: str | None = None,
    progress: bool = False,
    squeeze: bool = False,
) -> Plan:
    """Times G and D, and compares samplers on some seconds of proposals; recommends what to use.

    sampler: if given, it draws for a few seconds with the recommended arguments.
    n: number of samples you want; the plan then estimates the time of every sampler.
    budget: seconds, or a time such as "90s", "30m" or "1h30m"; the plan then estimates the samples
        that each sampler gives in it, and looks at more proposals.
    batch_size: try only this one. Another size than the usual 4096, or a variant, is recommended if
        it is 5 % faster in six of eight rounds.
    images: as `generate` has it, for what the sampler draws.
    progress: print progress to standard error.
    squeeze: for every rejection sampler that is compared, search for a bound, and compare it with
        the bound too. This takes minutes if G and D are slow, up to ten of a core for each sampler.
        Without it, the plan says how much faster a bound can be at most.
    Times are those of runs in memory, of a few seconds. Calls are timed one at a time, without
    gradients, and on a GPU without the CUDA graph that a run
    replays. Raises whatever a run with the sampler raises.
    """
    n = None if n is None else integer("n", n, 1)
    squeeze = flag("squeeze", squeeze)
    time_left = None if budget is None else seconds(budget)
    sampler = None if sampler is None else checked(sampler)
    gan = own_noise.guarded(gan.on(device, batch_size, precision).stored_as(images))
    memory.check_batch(gan)
    memory.check_batch(gan, gan.row().nbytes)

    def say(line: str) -> None:
        if progress:
            sys.stderr.write(f"{line}\n")

    with pages.kept():
        sizes, too_large = ways.of_sizes(
            gan, ways.SIZES if batch_size is None else (gan.block,), say
        )
        gan, drawn = gan.on(block=ways.best(sizes).batch_size), None
        tunes, refused = ways.of_tunes(gan, say)
        refused = (*too_large, *refused)
        best = ways.best(tunes)
        rng, rate = Rng(seed), best.rate
        compared = compare(gan, rng, rate, n, time_left, sampler, squeeze=squeeze, say=say)
        options = Options(
            seed=seed, batch_size=gan.block, precision=precision, images=images, tune=best.tune
        )
        if sampler is not None:
            say(f"{type(sampler).__name__}: burn-in, then samples for {DRAWING:.0f} s")
            drawn = _draw(Run(gan, sampler, max(n or 0, MANY), options))
        if compared.samplers and not gan.energy:
            typical, _ = compared.samplers[0]  # calls G and D once a row
            compared, drawn = _paced(
                compared, sampler, drawn, lambda: _draw(Run(gan, typical, MANY, options))
            )
        decides = None if gan.energy else precisions.sampler_of(compared, sampler)
        lower, failed = precisions.of(tuning.applied(gan, best.tune), decides, rng, say)
        refused = (*refused, *failed)
    threads = f" (threads: {torch.get_num_threads()})" if gan.device.type == "cpu" else ""
    model = f"{gan.name} on {gan.device}{threads}"
    return Plan(
        model, precision, sizes, tunes, refused, best.batch_size, best.tune, drawn, n, compared,
        images, sampler, seed, None if device is None else str(device), lower,
    )  # fmt: skip


def _paced(
    compared: Compared, sampler: Sampler | None, drawn: Drawn | None, typical: Callable[[], Drawn]
) -> tuple[Compared, Drawn | None]:
    """Both with the pace of runs, which do more than call G and D, so that their times agree.

    typical: draws with a sampler that calls G and D once a row, for the others in the table.
    """
    found = [found for each, found in compared.samplers if each == sampler and not found.remark]
    if drawn is None or not found:
        return compared._replace(rate=typical().rate), drawn
    rate = drawn.rate if found[0].cost == 1.0 else typical().rate
    paced = found[0]._replace(cost=rate / drawn.rate)
    rows = tuple((s, paced if s == sampler else each) for s, each in compared.samplers)
    return compared._replace(samplers=rows, rate=rate), replace(drawn, expected=paced)


def _draw(run: Run) -> Drawn:
    """Runs a sampler in memory for a few seconds; of several steps, the first is a warm-up."""
    start = time.perf_counter()
    run.begin()
    marks = [(time.perf_counter(), 0, 0)]
    for _ in run.landed(ENDLESS, run.names, Progress(run.n, enabled=False)):
        marks.append((time.perf_counter(), run.proposals, run.accepted))
        if marks[-1][0] - marks[0][0] > DRAWING:
            break
    (before, *first), (after, *last) = marks[1 if len(marks) > 2 else 0], marks[-1]
    drawn = (last[0] - first[0], last[1] - first[1])
    return Drawn(type(run.sampler).__name__, marks[0][0] - start, after - before, *drawn)
