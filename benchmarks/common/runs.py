"""Runs in memory: how long they take, and whether the samples of one are among another's."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from drs_fast.gan import GAN
from drs_fast.run import pages
from drs_fast.run.collected import Collected, Rows
from drs_fast.run.generate import ENDLESS
from drs_fast.run.options import Options
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run

FIRST = 10_000  # samples that there is room for at once


class Differs(Exception):
    """A run whose samples are not those it must have; it gets no figure."""


@dataclass(frozen=True)
class Timed:
    """A run: seconds before its first row, seconds for its rows, and samples."""

    before: float
    rows: float
    samples: Rows
    run: Run

    def total(self, n: int) -> float:
        return self.before + self.rows * n / max(1, len(self.samples["ids"]))


@pages.kept()  # as in `generate`
def timed(gan: GAN, sampler: Any, n: int, seconds: float, state: Any = None) -> Timed:
    """n samples, or those that are there after so many seconds."""
    options = Options(batch_size=gan.block, precision=gan.precision, patience=2**62)
    run = Run(gan, sampler, n, options)
    if gan.device.type == "cuda":
        torch.cuda.synchronize(gan.device)  # steps of another run may still be in flight
    start = time.perf_counter()
    if state is None:
        run.begin()
    else:
        run.resume(state)
    before = time.perf_counter() - start
    example = {name: run.example[name] for name in run.names}
    collected = Collected(example, n, first=FIRST)
    start = time.perf_counter()
    for landed in run.landed(ENDLESS, run.names, Progress(None, enabled=False)):
        collected.add(landed.rows)
        if time.perf_counter() - start > seconds:
            break
    return Timed(before, time.perf_counter() - start, collected.tensors(), run)


def lost(squeezed: Timed, plain: Timed, what: str) -> tuple[float, int]:
    """The share of a plain run's samples that a squeezed one lacks, and how many were compared.

    Differs unless those it has are the plain run's, byte for byte.
    """
    ends = [int(each.samples["ids"][-1]) for each in (squeezed, plain) if len(each.samples["ids"])]
    if len(ends) < 2:
        raise Differs(f"{what}: no samples to compare")
    ours, theirs = (
        {name: rows[each.samples["ids"] <= min(ends)] for name, rows in each.samples.items()}
        for each in (squeezed, plain)
    )
    common = torch.isin(theirs["ids"], ours["ids"])
    if int(common.sum()) < len(ours["ids"]):
        raise Differs(f"{what}: a squeezed run has samples of its own")
    for name in ("x", "logit"):
        if not torch.equal(ours[name].view(torch.uint8), theirs[name][common].view(torch.uint8)):
            raise Differs(f"{what}: {name} of the same sample differs")
    return 1.0 - len(ours["ids"]) / len(theirs["ids"]), len(theirs["ids"])
