"""What a run counts: samples, rows, calls, and what a sampler adds up."""

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from drs_fast.core import Sampler, last_row
from drs_fast.gan import GAN, classes
from drs_fast.gan.images import OUTSIDE
from drs_fast.run.collected import Rows, first_of
from drs_fast.run.outside import Outside
from drs_fast.run.steps import Landed
from drs_fast.run.worth import Worth
from drs_fast.samplers.common import clipped


class Counted:
    """The counts of a run towards n samples (None: without end)."""

    def __init__(self, gan: GAN, sampler: Sampler, n: int | None) -> None:
        self.gan, self.sampler = gan, sampler
        self.state: Any = None  # of the sampler, after burn-in
        self.shares: tuple[float, ...] = ()  # of the classes among the samples, if quotas say so
        self._outside = None if gan.images is None else Outside(gan.device)
        self.counted = () if self._outside is None else (OUTSIDE,)  # columns that are only counted
        self.quota: classes.Quota | None = None
        self._excess: clipped.Tally | None = None
        self.anew(n)

    def anew(self, n: int | None) -> None:
        """Counts from 0 again, towards n samples."""
        self.n = n
        self.accepted = self.proposals = self.calls = self.invalid = self.above = self.idle = 0
        self._flying = 0  # rows of steps that have not landed yet
        self.late = False  # whether steps are missing because the time was over
        self._exhausted = False  # or because max_proposals was reached
        self.tallies = Counter(dict.fromkeys((*self.sampler.tallies, *self.counted), 0))
        if self.state is not None:
            self._count()

    def had(self, count: int, counters: Mapping[str, int]) -> None:
        """Counts samples that an earlier call has made, with the counters of their record."""
        self.accepted += count
        self.proposals += counters["rows"]
        self.calls += counters["calls"]
        self.invalid += counters["invalid"]
        self.above += counters["above"]
        self.tallies.update({name: counters.get(name, 0) for name in self.tallies})

    def _count(self) -> None:
        """What is counted from here on: the samples of each class, and what is clipped."""
        self.quota = classes.Quota(self.shares, self.n) if self.shares else None
        cap = self.sampler.capped_at(self.state)
        self._excess = None if cap is None else clipped.Tally(cap)

    def _taken(self, landed: Landed) -> list[Rows]:
        """The rows of a step that become samples."""
        if self.quota is not None:
            return self.quota.taken(landed.rows)
        if self.n is None or landed.accepted <= self.n - self.accepted:
            return landed.rows
        return first_of(landed.rows, self.n - self.accepted)

    def _with_sums(self, landed: Landed, taken: int, read: bool) -> Landed:
        """Adds up what is counted on the device; if `read`, puts all sums in the step's tallies."""
        tallies = dict(landed.tallies)
        if self._excess is not None:
            logits = [(rows["logit"], rows.get("y")) for rows in landed.rows]
            self._excess.add(taken, landed.above, logits)
            tallies |= self._excess.taken() if read or self._excess.full else {}
        if self._outside is not None:
            self._outside.add(landed.rows)
            tallies |= self._outside.taken() if read else {}
        return landed._replace(tallies=tallies)

    def _note(self, worth: Worth | None) -> str:
        """What a progress bar says of the samples so far. May wait for the device."""
        said = self.sampler.note(self.state, self.tallies), "" if worth is None else worth.note()
        return ", ".join(filter(None, said))

    def totals(self) -> dict[str, int]:
        """All counts so far, except rows."""
        for counted in (self._excess, self._outside):
            if counted is not None:
                self.tallies.update(counted.taken())
        return {"calls": self.calls, "invalid": self.invalid, "above": self.above, **self.tallies}

    def measured(self, totals: dict[str, int]) -> dict[str, Any]:
        """What all counts say."""
        return self.sampler.measured(self.state, totals)

    def warn(self) -> None:
        """Says what the user should hear of a run that has ended."""
        lines = [self.sampler.warning(self.totals())]
        if self.gan.images is not None:
            lines.append(self.gan.images.warning(self.tallies[OUTSIDE], self.accepted))
        for line in lines:
            if line is not None:
                warnings.warn(line, stacklevel=4)

    def rows_until(self, ids: Tensor) -> int:
        """The number of rows up to the end of the last id's group."""
        group = self.sampler.group
        return (last_row(ids) // group + 1) * group
