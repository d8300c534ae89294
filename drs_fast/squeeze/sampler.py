"""Exact rejection without paying for the rejected rows.

A row is rejected if u >= p(logit). If bound(z) >= logit, then u >= p(bound) with the same u shows
this before G and D run in full precision. Where the bound is too low, an accepted row is lost. How
many are lost is estimated throughout the run, from rows that pass and from audited rows.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from drs_fast.core import Batch, Found, Rng, Sampler, Stale
from drs_fast.core.arguments import flag, number, positive
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
from drs_fast.samplers.common.expected import Expected, Pilot
from drs_fast.samplers.common.rejection import RejectionSampler
from drs_fast.squeeze import audit, remarks
from drs_fast.squeeze.bounds.precision import PrecisionBound
from drs_fast.squeeze.by import AUTO, LATENT, USUAL_COST, Chosen, checked, memory, ready, settle
from drs_fast.squeeze.described import described
from drs_fast.squeeze.expected import expected
from drs_fast.squeeze.rooms import Rooms, expecting
from drs_fast.squeeze.search import Search
from drs_fast.squeeze.slices import Slice, drawn, given
from drs_fast.squeeze.state import SqueezeState, lost
from drs_fast.squeeze.step import step

FALSE_ALARMS = 0.025  # share of runs that stop though their bound loses just what it may


@dataclass(frozen=True)
class Squeeze(Sampler):
    """A rejection sampler that rejects most rows by a cheap bound, before G and D run.

    sampler: DRS, OBRS or Latent.
    tolerance: the share of accepted samples that the bound may lose. If it loses more, the run
        stops with `Stale`. At equal log_m and gamma, the samples are a subset of those without it.
    unseen: how much more it may lose in regions where not a single row was seen. To show that at
        most h hides there, h = 3/4 tolerance + unseen, the search needs 4.4 / h samples drawn
        without a bound. Their calls of G and D only pay off in long runs; if acceptance is rare and
        you need few samples, a larger value is the cheaper assumption.
    use_bound: None: use a bound if it saves work, including the work of the search. True: always;
        an error if no bound keeps the limits. False: never.
    by: the bounds that may be used, joined by commas: "latent", small networks on the latent; and
        one of "bf16", "fp16" and "tf32", G and D in this precision. "auto": networks, and the
        precision that is cheapest on the device, if a timing before the run says that it may pay.
        The run's manifest then has what was found by name; give it for the same bytes.
    low_cost: what a row takes in low precision, as a share of the time in full precision, by which
        the search judges. "auto" measures it; otherwise 0.5.
    The bounds are found in burn-in, and used if their total loss is within these limits at 98.75 %
    confidence. Work is counted (squeeze/work.py), not timed, so equal runs decide alike. If PyTorch
    cannot count G and D, such as quantized ones, they seem cheaper than they are.
    """

    sampler: RejectionSampler
    tolerance: float = 2e-3
    unseen: float = 0.0
    use_bound: bool | None = None
    by: str = AUTO
    low_cost: float | None = None

    State: ClassVar[Any] = SqueezeState
    law_version: ClassVar[int] = 3
    later: ClassVar[Mapping[str, Any]] = MappingProxyType({"by": LATENT, "low_cost": None})
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
        object.__setattr__(self, "by", checked(self.by))
        low = self._chosen.low
        if self.low_cost is not None and not low:
            raise ValueError(
                f"low_cost={self.low_cost:g} needs a precision in by, as in by='bf16', got "
                f"by={self.by!r}"
            )
        if low and self.low_cost is None:
            object.__setattr__(self, "low_cost", USUAL_COST)
        if low and not self.sampler.by_logit:
            raise ValueError(
                f"by={self.by!r} needs a sampler that decides by the logit of D, got "
                f"{type(self.sampler).__name__}; use by='latent'"
            )
        if self.low_cost is not None:
            object.__setattr__(self, "low_cost", positive("low_cost", self.low_cost, 1.0))

    @property
    def law(self) -> str:
        hidden = f", and {self.unseen:g} where no row was seen" if self.unseen else ""
        return f"{self.sampler.law}; a bound may lose {self.tolerance:g} of the samples{hidden}"

    @property
    def tallies(self) -> tuple[str, ...]:
        low = audit.LOW if self._chosen.low else ()
        return ("judged", "audited", *audit.UNITS, *low, *self.sampler.tallies)

    def settled(
        self,
        gan: GAN,
        recorded: Callable[[], Mapping[str, Any] | None] = lambda: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> "Squeeze":
        """With by name what a clock decides; recorded: what it decided when the run began."""
        if self.by != AUTO:
            if low := self._chosen.low:
                ready(gan, self.by, low)
                say(f"squeeze: {memory(gan, low)}")
            return self
        plain = replace(self, **self.later)
        if (before := recorded()) is not None:
            found = replace(plain, **{key: before[key] for key in self.later if key in before})
            return found.settled(gan, say=say)
        if self.use_bound is False:
            return plain
        by, low_cost = settle(gan, self.sampler, say)
        return replace(self, by=by, low_cost=low_cost) if low_cost else plain

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
        by, low = self._chosen, None
        if by.low and self.use_bound is not False:
            low = PrecisionBound(decides.judge, by.low)
        state = Search(
            decides, rng, self.tolerance, self.unseen, self.use_bound,
            latent=by.latent, low=low, low_cost=by.cost,
        ).state()  # fmt: skip
        if self.use_bound and not state.used:
            raise ValueError(
                f"use_bound=True, but {remarks.none_found(self.limits)}; raise tolerance or "
                "unseen, or drop use_bound"
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
        return {**inner, "remark": self.remark(state), "squeeze_used": state.used}

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
        return (self, state) if state.used else (self.sampler, self._inner(state))

    def step(
        self, gan: GAN, state: SqueezeState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[SqueezeState, Batch]:
        if not state.used or not len(z):
            return state, self.sampler.step(gan, self._inner(state), z, y, rng)[1]
        return self._step(gan, state, rng, given(z, y, rng), None)

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
        return self._step(gan, state, rng, drawn(gan, rng, n), None)

    def without_waiting(
        self, gan: GAN, state: SqueezeState, rng: Rng, n: int
    ) -> tuple[SqueezeState, Batch]:
        """As `rows`, without waiting for a GPU; stats["beyond"] counts rows without room."""
        low = self._low(gan, state)
        known = state.numbers
        share = known.low[1] if low else known.calls
        low_block = low.gan.block if low else gan.block
        rooms = Rooms.of(n, share, known.calls, low_block, gan.block)
        return self._step(gan, state, rng, drawn(gan, rng, n), rooms)

    def span(self, gan: GAN, state: SqueezeState, judged: int) -> float:
        """Rows to try so that G and D see about so many, or on a GPU hardly ever more."""
        seen = expecting(judged) if gan.device.type == "cuda" else float(judged)
        return seen / state.numbers.calls

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
        return remarks.unused(self.limits, state)

    def remark(self, state: SqueezeState) -> str:
        """One line on what the bounds bring, or why none is used."""
        return remarks.remark(self.limits, state)

    def measured(self, state: SqueezeState, tallies: Mapping[str, int]) -> dict[str, Any]:
        """What a run's tallies say, those of the wrapped sampler among them."""
        said = self.sampler.measured(self._inner(state), tallies)
        if not tallies["mass"]:
            return said
        found = lost(tallies, state)
        said |= {"lost_mass": found.share, "lost_mass_interval": [found.low, found.high]}
        if self._chosen.low:
            said |= {f"{name}_mass": tallies[name] / tallies["mass"] for name in audit.LOW_LOST}
        return said

    def note(self, state: SqueezeState, tallies: Mapping[str, int]) -> str:
        """The lost mass, and the wrapped sampler's note."""
        said = [f"{lost(tallies, state)} lost"] if tallies["mass"] else []
        said.append(self.sampler.note(self._inner(state), tallies))
        return ", ".join(filter(None, said))

    def check(self, state: SqueezeState, tallies: Mapping[str, int]) -> None:
        """Raises Stale if the bound loses more than the tolerance.

        If it does not, this still happens in at most 2.5 % of runs, though every step checks.
        """
        if audit.wealth(tallies, self.tolerance, state.numbers.typical) > -math.log(FALSE_ALARMS):
            raise Stale(
                f"the bound loses {lost(tallies, state)} of the samples, more than tolerance="
                f"{self.tolerance:g}; start another run with another seed, for which a new bound "
                "is fitted, or with a larger tolerance"
            )

    @classmethod
    def described(cls, run: Recorded) -> Described:
        """What the bound loses, and the rows of the search that it was compared on."""
        return described(run)

    def _inner(self, state: SqueezeState) -> Any:
        return self.sampler.restored(state.unbounded)

    def _low(self, gan: GAN, state: SqueezeState) -> PrecisionBound | None:
        return PrecisionBound(gan, self._chosen.low) if state.numbers.low else None

    @property
    def limits(self) -> remarks.Limits:
        """What is asked of a bound."""
        low = self._chosen
        return remarks.Limits(self.tolerance, self.unseen, self.use_bound, low.low, low.cost)

    @property
    def _chosen(self) -> Chosen:
        return Chosen.of(self.by, self.low_cost)

    def _step(
        self,
        gan: GAN,
        state: SqueezeState,
        rng: Rng,
        slices: Iterable[Slice],
        rooms: Rooms | None,
    ) -> tuple[SqueezeState, Batch]:
        decides = self.sampler.rejection(gan, self._inner(state))
        return state, step(
            decides,
            state,
            rng,
            slices,
            low=self._low(decides.judge, state),
            rooms=rooms,
            weighted=self.weighs == BATCH,
            by_kind=bool(self._chosen.low),
        )
