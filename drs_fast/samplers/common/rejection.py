"""What all rejection samplers do with their thresholds."""

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import Batch, Found, Rng, Sampler
from drs_fast.core.compacted import Ring
from drs_fast.core.layout import Logits, OfClasses, Proposed, Scalar
from drs_fast.core.sampler import LOGIT, UNKNOWN, Described, Recorded, Remade, Thresholds
from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN, classes
from drs_fast.samplers.common import remade
from drs_fast.samplers.common.burn_in import burn_in, by_class, counted

WEIGHTED = "data when weighted; unweighted, "  # begins the law of samples that have weights
LEAST = 2.0**-60  # least share of a class's proposals that counts as accepted


class RejectionState(NamedTuple):
    """log_m and gamma are (), or (K,) if each class has its own."""

    log_m: OfClasses
    gamma: OfClasses
    acceptance: Scalar  # expected share of accepted rows
    logits: Logits  # of the burn-in
    proposed: Proposed  # (K,) how often each class is proposed, if each has a log_m; else (0,)


class Rejection(NamedTuple):
    """What decides on a row, which is all that `drs.Squeeze` must know to bound it."""

    judge: GAN  # whose logits count
    state: RejectionState  # the thresholds
    eps: float = 0.0
    free: bool = False  # whether log_m may rise to the largest logit that is seen
    complete: Callable[[Batch], Batch] = lambda kept: kept  # makes samples of accepted rows


class RejectionSampler(Sampler):
    """A sampler that decides on each row alone, by its logit and thresholds; Squeeze takes it.

    It writes `rejection` beside `law`, `init` and `step`; if its state is no RejectionState,
    `restored` and `described` too.
    """

    State: ClassVar[Any] = RejectionState
    by_logit: ClassVar[bool] = True  # whether it decides by the logit of D

    @abstractmethod
    def rejection(self, gan: GAN, state: Any) -> Rejection:
        """What decides on a row."""

    def decided(
        self, gan: GAN, state: Any, z: Tensor, y: Tensor | None, rng: Rng, *, seen: bool
    ) -> Tensor:
        """Which of the first rows of burn-in pass, (n,) bool.

        seen: this very GAN made the state, whose logits then need not be computed again. Where a
            run proposes other labels than burn-in had, its rows are others too.
        """
        judge, thresholds, eps, *_ = self.rejection(gan, state)
        known = thresholds.logits[: len(z) if seen and not len(thresholds.proposed) else 0]
        k = len(known)
        if k < len(z):
            known = torch.cat([known, judge.logits(z[k:], None if y is None else y[k:])[1]])
        return ops.accept(known, rng, **of_rows(thresholds, y, eps))

    def restored(self, thresholds: RejectionState) -> Any:
        """The state whose `rejection` has these thresholds."""
        return thresholds

    def found(self, state: Any) -> Found:
        return Found(
            float(state.acceptance),
            spent=len(state.logits),
            judged=state.logits,
            limits={"log_m": state.log_m},
        )

    def proposing(self, gan: GAN, state: Any) -> GAN:
        return proposing(gan, state.proposed)

    @property
    def weighs(self) -> str:
        return UNKNOWN if self.sequential else LOGIT

    def thresholds(self, gan: GAN, state: Any) -> Thresholds:
        decides = self.rejection(gan, state)
        return Thresholds(decides.state.log_m, decides.state.gamma, decides.eps)

    def remade(
        self,
        gan: GAN,
        state: Any,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        return remade.of_rows(gan, ids, y, rng, judged)

    @property
    def appends(self) -> bool:
        return not self.sequential

    def appending(
        self, gan: GAN, state: Any, ring: Ring, names: tuple[str, ...]
    ) -> Callable[[Tensor, Tensor | None], None]:
        decides = self.rejection(gan, state)
        return appending(gan, decides.state, ring, names, decides.eps)

    @classmethod
    def described(cls, run: Recorded) -> Described:
        log_m, gamma, _, logits, _ = run.state
        return Described(
            super().described(run).lines,
            limits={"log_m": log_m, "gamma": gamma},
            logits=logits,
            thresholds=Thresholds(log_m, gamma, run.eps),
        )


Rule = Callable[[Tensor], tuple[Tensor, Tensor]]  # log_m and gamma of logits


def thresholds(gan: GAN, rng: Rng, n: int, within: bool, eps: float, found: Rule) -> RejectionState:
    """log_m and gamma by `found`, from n burn-in logits; if `within`, from those of each class."""
    if within and gan.labels is None:
        raise ValueError("classes='within' needs a GAN with labels; build GAN(..., labels=K)")
    logit, y = burn_in(gan, rng, n, each=within)
    if within:
        return _of_classes(gan, logit, by_class(gan, logit, y), eps, found)
    log_m, gamma = found(counted(gan, logit))
    p = ops.probability(logit, log_m=log_m, gamma=gamma, eps=eps)
    with one_thread():
        acceptance = p.mean()
    return RejectionState(log_m, gamma, acceptance, logit, log_m.new_zeros(0))


def _of_classes(
    gan: GAN, logit: Tensor, groups: list[Tensor], eps: float, found: Rule
) -> RejectionState:
    """Proposes each class as often as its share and its rejection rate require.

    All classes then fill their quotas at about the same time.
    """
    shares = classes.shares(gan.labels or 0, gan.label_weights)
    log_m, gamma = (logit.new_zeros(len(shares), dtype=torch.float64) for _ in range(2))
    needed = [0.0] * len(shares)  # proposals of each class per sample of any class
    for k, group in zip(classes.occurring(len(shares), shares), groups, strict=True):
        log_m[k], gamma[k] = found(counted(gan, group))
        p = ops.probability(group, log_m=log_m[k], gamma=gamma[k], eps=eps)
        # Correctly rounded, so that labels are the same wherever the logits are.
        needed[k] = shares[k] * len(p) / max(math.fsum(p.tolist()), LEAST)
    total = math.fsum(needed)
    proposed = log_m.new_tensor([value / total for value in needed])
    return RejectionState(log_m, gamma, log_m.new_tensor(1.0 / total), logit, proposed)


def proposing(gan: GAN, proposed: Tensor) -> GAN:
    """The GAN with labels as often as a run proposes them, () for as it has them."""
    return gan.labelled(proposed) if len(proposed) else gan


def compacted(
    x: Tensor,
    logit: Tensor,
    state: RejectionState,
    z: Tensor,
    y: Tensor | None,
    rng: Rng,
    eps: float,
    ids: Tensor | None = None,
    weight: Tensor | None = None,
) -> Batch:
    """The rows that pass. ids: their row numbers, unless they are rng.row, rng.row + 1, ...

    weight: (n,) of the rows, if the logit does not tell it.
    """
    rows = tuple(row for row in (x, z, y, weight) if row is not None)
    kept = ops.accept_compact(logit, *rows, rng=rng, ids=ids, **of_rows(state, y, eps))
    found = Batch(
        x=kept.rows[0],
        z=kept.rows[1],
        y=None if y is None else kept.rows[2],
        logit=kept.logit,
        ids=kept.ids,
        count=kept.count,
        stats={"invalid": kept.invalid, "above": kept.above},
    )
    if weight is None:
        return found
    return replace(found, weigh=functools.partial(_same, kept.rows[-1]))


def _same(weight: Tensor) -> Tensor:
    return weight


def appending(
    gan: GAN, state: RejectionState, ring: Ring, names: tuple[str, ...], eps: float
) -> Callable[[Tensor, Tensor | None], None]:
    """A function that does what `compacted` does for the ring's next rows, and appends them."""
    append = None if state.log_m.ndim else ops.appending(ring, **of_rows(state, None, eps))

    def step(z: Tensor, y: Tensor | None) -> None:
        x, logit = gan.logits(z, y)
        rows: dict[str, Any] = {**gan.stored(x), "z": z, "y": y}
        kept = [rows[name] for name in names]
        if append is not None:
            append(logit, *kept)
        else:
            ops.accept_append(logit, *kept, ring=ring, **of_rows(state, y, eps))

    return step


def of_rows(state: RejectionState, y: Tensor | None, eps: float) -> dict[str, Any]:
    """The threshold: one for all rows, or one per row, by its class."""
    return Thresholds(state.log_m, state.gamma, eps).of_rows(y)
