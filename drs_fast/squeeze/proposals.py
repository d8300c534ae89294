"""The rows that G and D see in a search: some chosen by a bound, some drawn evenly."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import AUDIT, BURN_IN_ROW, Rng
from drs_fast.core.rows import SEARCH_ROW
from drs_fast.core.threads import one_thread
from drs_fast.samplers.common.burn_in import turns_of
from drs_fast.samplers.common.rejection import Rejection, of_rows
from drs_fast.squeeze.bounds.bound import above
from drs_fast.squeeze.bounds.latent import LatentBound
from drs_fast.squeeze.plan import Seen, joined, level
from drs_fast.squeeze.slices import SLICE, drawn, slices
from drs_fast.squeeze.state import FLOOR, score

SCANNED = 64  # rows that a bound looks at for one that G and D see
MOST_SCANNED = 2**23  # at once
EVENLY = 1024  # rows, or a multiple, that are drawn at once where no network looks at any
LOOKED = 2.0  # spreads above the mean at which rows for G and D are chosen
LEAST = 2.0**-60  # least share of accepted rows, to count costs with


class Scan(NamedTuple):
    """Rows that a bound has chosen from; a row's chance is the exponential of its shifted score."""

    decides: Rejection
    network: LatentBound
    rows: int
    level: float
    floor: float  # so that no region goes unseen

    def chance(self, scores: Tensor) -> Tensor:
        """The chance of each row, (n,) float64."""
        return (scores + self.level).clamp(max=0.0).exp().double().clamp(min=self.floor)


class Proposals:
    """Rows of a search, each seen once; they depend on the seed and the GAN alone."""

    def __init__(self, decides: Rejection, rng: Rng) -> None:
        self.decides, self.rng = decides, rng
        self.spent = len(decides.state.logits)
        self.row = SEARCH_ROW

    def known(self) -> Seen:
        """The burn-in of the sampler."""
        judge, state = self.decides.judge, self.decides.state
        n, rng = len(state.logits), self.rng.at(BURN_IN_ROW)
        z, y = ops.latents(judge, rng, n), ops.labels(judge, rng, n)
        if len(state.proposed):
            y = turns_of(judge, 0, n)
        ids = torch.arange(n, device=z.device) + BURN_IN_ROW
        return Seen(ids, z, state.logits, torch.ones_like(state.logits, dtype=torch.float64), y)

    def found(self, network: LatentBound, n: int) -> tuple[Seen, Scan]:
        """About n new rows; the higher its bound, the likelier a row is chosen."""
        judge, scanned = self.decides.judge, min(SCANNED * n, MOST_SCANNED)
        first = self._next(scanned)
        scores = self.scores(network, LOOKED, first, scanned)
        scan = Scan(self.decides, network, scanned, level(scores, n), FLOOR * n / scanned)
        chance = scan.chance(scores)
        u = ops.uniform(first, scanned, stream=AUDIT, device=judge.device)
        rows = (u < chance).nonzero().squeeze(1)
        ids = rows + first.row
        z = ops.latents(judge, first, len(ids), ids=ids)
        y = ops.labels(judge, first, len(ids), ids=ids)
        return Seen(ids, z, self._logits(z, y), chance[rows], y), scan

    def evenly(self, seen: Seen, scan: Scan, samples: float, most: float) -> tuple[Seen, int]:
        """Draws rows evenly and adds those that are accepted, about `samples` of them.

        A row's chance is then that of both ways together (the balance heuristic: Veach and Guibas,
        SIGGRAPH 1995), so none stands for more samples than an evenly drawn row. Returns all rows,
        and how many were drawn: 0 if more than `most` would be needed.
        """
        parts, n = list[Seen](), 0
        while (rows := samples / max(self.acceptance(seen, scan), LEAST)) > n:
            if rows > most:
                return seen, 0
            more = SLICE * math.ceil((rows - n) / SLICE)
            parts += [self._samples(each) for each in self._drawn(more)]
            n += more
        drawn_evenly = self._samples(joined(parts))
        bound = lifted(scan.network, drawn_evenly)(LOOKED)
        chosen = scan.chance(score(scan.decides, bound, drawn_evenly.y))
        both = joined([seen, drawn_evenly._replace(chosen=chosen)])
        return both._replace(chosen=both.chosen + n / scan.rows * self.accepted(both)), n

    def alone(self, samples: float, most: float) -> tuple[Seen, int]:
        """About `samples` accepted rows, all of some evenly drawn ones: a row's chance is p.

        Returns them, and how many were drawn; fewer samples if more than `most` would be needed.
        """
        n = 0
        seen = self.known().where(slice(0))
        rows = samples / max(float(self.decides.state.acceptance), LEAST)
        while len(seen.ids) < samples:
            if rows > most:
                break
            more = EVENLY * max(1, math.ceil((rows - n) / EVENLY))
            parts = [self._samples(each) for each in self._drawn(more)]
            # Those drawn before too, because log_m may have risen.
            seen, n = self._samples(joined([seen, *parts])), n + more
            rows = n * samples / max(len(seen.ids), 1)
        return seen._replace(chosen=self.accepted(seen)), n

    def _drawn(self, n: int) -> Iterator[Seen]:
        """The next n rows, in parts."""
        for own, size, z, y in drawn(self.decides.judge, self._next(n), n):
            z, y = z[:size], None if y is None else y[:size]
            ids = torch.arange(size, device=z.device) + own.row
            logit = self._logits(z, y)
            yield Seen(ids, z, logit, torch.ones_like(logit).double(), y)

    @one_thread()
    def acceptance(self, seen: Seen, scan: Scan) -> float:
        """The expected share of accepted rows."""
        return float((self.accepted(seen) / seen.chosen).sum()) / scan.rows

    def accepted(self, seen: Seen, bound: Tensor | None = None) -> Tensor:
        """Acceptance probabilities by the logit, or by a bound if given; (n,) float64."""
        judged = seen.logit if bound is None else bound
        return ops.probability(judged, **self._thresholds(seen))

    def scores(self, network: LatentBound, margin: float, rng: Rng, n: int) -> Tensor:
        """Scores of n rows."""
        return torch.cat([
            score(self.decides, above(network, margin, z, y), y)[:size]
            for _, size, z, y in drawn(self.decides.judge, rng, n)
        ])  # fmt: skip

    def _samples(self, seen: Seen) -> Seen:
        """The rows that their own u accepts."""
        return seen.where(ops.accept(seen.logit, self.rng, ids=seen.ids, **self._thresholds(seen)))

    def _thresholds(self, seen: Seen) -> dict[str, Any]:
        return of_rows(self.decides.state, seen.y, self.decides.eps)

    def _next(self, n: int) -> Rng:
        rng = self.rng.at(self.row)
        self.row += n
        return rng

    def _logits(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Logits block by block, so that only one block's samples are in memory."""
        judge = self.decides.judge
        logit = torch.cat([
            judge.logits(z[own], None if y is None else y[own])[1]
            for own in slices(len(z), judge.block)
        ])  # fmt: skip
        self.spent += len(z)
        if self.decides.free:
            self._raise(logit, y)
        return logit

    def _raise(self, logit: Tensor, y: Tensor | None) -> None:
        state = self.decides.state
        log_m = state.log_m.clone().view(-1)
        for k in range(len(log_m)):
            own = logit[y == k] if state.log_m.ndim else logit
            if bool(torch.isfinite(own).any()):
                log_m[k] = torch.maximum(log_m[k], ops.largest(own))
        state = state._replace(log_m=log_m.view_as(state.log_m))
        self.decides = self.decides._replace(state=state)


def lifted(network: LatentBound, seen: Seen) -> Callable[[float], Tensor]:
    """A function from a number of spreads to the bound of these rows, (n,) float32."""
    with torch.inference_mode(), one_thread():
        parts = [
            network(seen.z[own], None if seen.y is None else seen.y[own])
            for own in slices(len(seen.z), SLICE)
        ]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    return lambda spreads: network.raised(spreads, *columns)
