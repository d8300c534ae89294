"""Exact rejection without paying for the rejected rows.

A row is rejected if u >= p(logit). If bound(z) >= logit, then u >= p(bound) with the same u shows
this before G and D run. Where the bound is too low, an accepted row is lost. How many are lost is
estimated throughout the run, from rows that pass and from audited rows.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Found, Rng, Sampler, Stale
from drs_fast.core.arguments import flag, number
from drs_fast.core.sampler import (
    BATCH,
    LOGIT,
    UNKNOWN,
    Described,
    Recorded,
    Remade,
    Thresholds,
    those_that,
)
from drs_fast.gan import GAN
from drs_fast.samplers.common import rejection
from drs_fast.samplers.common.expected import Expected, Pilot
from drs_fast.samplers.common.rejection import RejectionSampler, of_rows
from drs_fast.squeeze import audit
from drs_fast.squeeze.bound import Slice, drawn, given
from drs_fast.squeeze.described import described
from drs_fast.squeeze.expected import expected
from drs_fast.squeeze.search import HORIZON, MOST_WORK, WORTH, Search, needed
from drs_fast.squeeze.stages import SqueezeState, Stages, lost, typical
from drs_fast.squeeze.work import in_the_time_of

# Why no bound is used, in a few words.
REFUSED = "use_bound=False"
TOO_LONG = "a search would take too long"
NONE_FOUND = "no bound is known to lose as little as tolerance says"
NO_TIME = "too little to gain to pay for a search"
TOO_LITTLE = "the best bound saves less than 5 % of the work"
FALSE_ALARMS = 0.025  # share of runs that stop though their bound loses just what it may


@dataclass(frozen=True)
class Squeeze(Sampler):
    """A rejection sampler that rejects most rows by a bound of the latent, before G and D run.

    sampler: DRS, OBRS or Latent.
    tolerance: the share of accepted samples that the bound may lose. If it loses more, the run
        stops with `Stale`. At equal log_m and gamma, the samples are a subset of those without it.
    unseen: how much more it may lose in regions where not a single row was seen. To show that at
        most h hides there, h = 3/4 tolerance + unseen, the search needs 4.4 / h samples drawn
        without a bound. Their calls of G and D only pay off in long runs; if acceptance is rare and
        you need few samples, a larger value is the cheaper assumption.
    use_bound: None: use a bound if it saves work, including the work of the search. True: always;
        an error if no bound keeps the limits. False: never.
    The bound is found in burn-in, and used if its total loss is within these limits at 98.75 %
    confidence. Work is counted (squeeze/work.py), not timed, so equal runs decide alike. If PyTorch
    cannot count G and D, such as quantized ones, they seem cheaper than they are.
    """

    sampler: RejectionSampler
    tolerance: float = 2e-3
    unseen: float = 0.0
    use_bound: bool | None = None

    State: ClassVar[Any] = SqueezeState
    law_version: ClassVar[int] = 3
    draws: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.sampler, RejectionSampler):
            known = those_that(lambda each: isinstance(each, RejectionSampler))
            raise ValueError(
                f"Squeeze takes a rejection sampler ({known}; your own derives from "
                "drs_fast.samplers.common.rejection.RejectionSampler) such as drs.samplers.DRS(), "
                f"got {self.sampler!r}"
            )
        if self.sampler.sequential:
            raise ValueError("Squeeze needs thresholds that stay fixed; drop adapt='batch'")
        object.__setattr__(self, "tolerance", number("tolerance", self.tolerance, 0.0, 1.0))
        if self.tolerance == 0.0:
            raise ValueError(
                "tolerance must be greater than 0, got 0; to lose nothing, do not squeeze"
            )
        object.__setattr__(self, "unseen", number("unseen", self.unseen, 0.0, 1.0))
        if self.use_bound is not None:
            object.__setattr__(self, "use_bound", flag("use_bound", self.use_bound))

    @property
    def law(self) -> str:
        hidden = f", and {self.unseen:g} where no row was seen" if self.unseen else ""
        return f"{self.sampler.law}; a bound may lose {self.tolerance:g} of the samples{hidden}"

    @property
    def tallies(self) -> tuple[str, ...]:
        return ("judged", "audited", *audit.UNITS, *self.sampler.tallies)

    @property
    def energy(self) -> bool:
        return self.sampler.energy

    def probed(self, gan: GAN, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.sampler.probed(gan, z, y)

    @property
    def remedies(self) -> tuple[str, ...]:
        return self.sampler.remedies

    @torch.inference_mode(False)
    def init(self, gan: GAN, rng: Rng) -> SqueezeState:
        decides = self.sampler.rejection(gan, self.sampler.init(gan, rng))
        state = Search(decides, rng, self.tolerance, self.unseen, self.use_bound).state()
        if self.use_bound and not _used(state):
            raise ValueError(
                f"use_bound=True, but {self._none_found()}; raise tolerance or unseen, or drop "
                "use_bound"
            )
        return state

    def proposing(self, gan: GAN, state: SqueezeState) -> GAN:
        return self.sampler.proposing(gan, self._inner(state))

    def found(self, state: SqueezeState) -> Found:
        return self.sampler.found(self._inner(state))._replace(
            acceptance=float(state.acceptance), calls=float(state.calls), spent=int(state.spent)
        )

    def facts(self, state: SqueezeState) -> dict[str, Any]:
        inner = self.sampler.facts(self._inner(state))
        return {**inner, "remark": self.remark(state), "squeeze_used": _used(state)}

    @property
    def weighs(self) -> str:
        return BATCH if self.sampler.weighs == LOGIT else UNKNOWN

    def thresholds(self, gan: GAN, state: SqueezeState) -> Thresholds:
        return self.sampler.thresholds(gan, self._inner(state))

    def capped_at(self, state: SqueezeState) -> Tensor | None:
        return self.sampler.capped_at(self._inner(state))

    def warning(self, tallies: Mapping[str, int]) -> str | None:
        return self.sampler.warning(tallies)

    def choice(self, state: SqueezeState) -> tuple[Sampler, Any]:
        """The wrapped sampler goes on where a bound does not pay."""
        return (self, state) if _used(state) else (self.sampler, self._inner(state))

    def step(
        self, gan: GAN, state: SqueezeState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[SqueezeState, Batch]:
        if not _used(state) or not len(z):
            return state, self.sampler.step(gan, self._inner(state), z, y, rng)[1]
        return self._step(gan, state, rng, given(z, y, rng))

    def remade(
        self,
        gan: GAN,
        state: SqueezeState,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        return self.sampler.remade(gan, self._inner(state), ids, y, rng, judged=judged)

    def rows(self, gan: GAN, state: SqueezeState, rng: Rng, n: int) -> tuple[SqueezeState, Batch]:
        """Does what `step` does for n rows, drawing their latents slice by slice."""
        return self._step(gan, state, rng, drawn(gan, rng, n))

    def span(self, state: SqueezeState) -> float:
        """Rows tried per row that G and D see."""
        return 1.0 / float(state.calls)

    def expected(self, gan: GAN, pilot: Pilot, rng: Rng) -> Expected | None:
        """What the bound that its search finds brings. The search may take minutes."""
        found = self.sampler.expected(gan, pilot, rng)
        if found is None or found.worth is None:
            return None
        state = self.init(gan, rng)
        why = self.unused(state)
        if why:
            return Expected(found.acceptance, remark=why)
        return expected(pilot, self.sampler.rejection(gan, self._inner(state)), state)

    def unused(self, state: SqueezeState) -> str:
        """Why no bound is used, in a few words; "" if one is."""
        _, without, squeezed, _ = state.work.tolist()
        if self.use_bound is False:
            return REFUSED
        if float(state.high) == 1.0 and not float(state.samples):
            return TOO_LONG
        if float(state.high) > self.tolerance + self.unseen:
            return NONE_FOUND
        if not _used(state):
            return NO_TIME if squeezed < WORTH * without else TOO_LITTLE
        return ""

    def remark(self, state: SqueezeState) -> str:
        """One line on what the bound brings, or why none is used."""
        calls, without, squeezed, search = state.work.tolist()
        why = self.unused(state)
        if why == REFUSED:
            return "squeeze: not used, as use_bound=False says"
        if why == TOO_LONG:
            most = in_the_time_of(MOST_WORK, state.log_m.device)
            takes = needed(self.tolerance, self.unseen) * calls
            enough = 2.0 * audit.UNSEEN * without / most  # a search may find a larger log_m
            return (
                f"squeeze: not used, for it takes {takes:,.0f} calls of G and D, more than the "
                f"{most:.2g} operations that a search may take, to show that a bound loses at most "
                f"tolerance={self.tolerance:g} of the samples; unseen={min(enough, 1.0):.2g} "
                "beyond that needs no more, and use_bound=True knows no limit"
            )
        if why == NONE_FOUND:
            return f"squeeze: not used, for {self._none_found()}"
        if why == NO_TIME:
            return (
                f"squeeze: not used, for the best bound could save {without - squeezed:.2g} of "
                f"{without:.2g} operations a sample, too little to pay for a search within "
                f"{HORIZON:,} samples"
            )
        if why == TOO_LITTLE:
            return (
                f"squeeze: not used, for a sample takes {without:.3g} operations without a bound "
                f"and {squeezed:.3g} with one, which must be at least 5 % less"
            )
        fewer = float(state.calls / state.acceptance)
        pays = "it never pays"
        if squeezed < without:
            pays = f"the search pays from n = {math.ceil(search / (without - squeezed)):,} on"
        return (
            f"squeeze: a sample takes {fewer:,.2f} calls of G and D instead of {calls:,.2f}, and "
            f"{squeezed / without:.2g} of the work; {pays}"
        )

    def measured(self, state: SqueezeState, tallies: Mapping[str, int]) -> dict[str, Any]:
        """What a run's tallies say, those of the wrapped sampler among them."""
        said = self.sampler.measured(self._inner(state), tallies)
        if not tallies["mass"]:
            return said
        found = lost(tallies, state)
        return {**said, "lost_mass": found.share, "lost_mass_interval": [found.low, found.high]}

    def note(self, state: SqueezeState, tallies: Mapping[str, int]) -> str:
        """The lost mass, and the wrapped sampler's note."""
        said = [f"{lost(tallies, state)} lost"] if tallies["mass"] else []
        said.append(self.sampler.note(self._inner(state), tallies))
        return ", ".join(filter(None, said))

    def check(self, state: SqueezeState, tallies: Mapping[str, int]) -> None:
        """Raises Stale if the bound loses more than the tolerance.

        If it does not, this still happens in at most 2.5 % of runs, though every step checks.
        """
        if audit.wealth(tallies, self.tolerance, typical(state)) > -math.log(FALSE_ALARMS):
            raise Stale(
                f"the bound loses {lost(tallies, state)} of the samples, more than tolerance="
                f"{self.tolerance:g}; start another run with another seed, for which a new bound "
                "is fitted, or with a larger tolerance"
            )

    @classmethod
    def described(cls, run: Recorded) -> Described:
        """What the bound loses, and the rows of the search that it was compared on."""
        return described(run)

    def _none_found(self) -> str:
        beyond = f" + unseen={self.unseen:g}" if self.unseen else ""
        return (
            "no bound was found that is known to lose at most "
            f"tolerance={self.tolerance:g}{beyond} of the samples"
        )

    def _inner(self, state: SqueezeState) -> Any:
        return self.sampler.restored(state.unbounded)

    def _step(
        self, gan: GAN, state: SqueezeState, rng: Rng, slices: Iterable[Slice]
    ) -> tuple[SqueezeState, Batch]:
        decides = self.sampler.rejection(gan, self._inner(state))
        stages = Stages(decides, state)
        parts = [stages.survivors(one) for one in slices]
        z, ids, passed, chance, audited = (
            torch.cat(column) for column in zip(*(part[:5] for part in parts), strict=True)
        )
        y = None if gan.labels is None else torch.cat([p.y for p in parts if p.y is not None])
        x, logit = decides.judge.logits(z, y)
        accepted = ops.probability(logit, **of_rows(decides.state, y, decides.eps))
        weight = None
        if self.weighs == BATCH:
            weight = ops.weight(logit, **of_rows(decides.state, y, decides.eps))
            weight = weight * (accepted / audit.reached(accepted, passed, chance))
        batch = rejection.compacted(x, logit, decides.state, z, y, rng, decides.eps, ids, weight)
        judged = torch.full_like(batch.count, len(ids))
        batch = decides.complete(replace(batch, stats={**batch.stats, "calls": judged}))
        seen = passed + (1.0 - passed) * chance
        counts = {"judged": judged, "audited": audited.sum()}
        sums = audit.tallied(accepted, passed, seen, typical(state))
        return state, replace(batch, stats={**batch.stats, **counts, **sums})


def _used(state: SqueezeState) -> bool:
    return bool(torch.isfinite(state.margins[1]))
