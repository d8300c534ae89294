"""A GAN of which only those samples count that satisfy a predicate."""

import copy
import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.laws import MEANT
from drs_fast.core.tensors import plain
from drs_fast.gan import calls, links
from drs_fast.gan.around import Around
from drs_fast.gan.gan import GAN
from drs_fast.gan.precision import FP32
from drs_fast.gan.real_data import Unusable

Predicate = Callable[..., Any]
GRADIENT = (
    "a predicate has no gradient to follow: use a sampler that needs none with drs.where, such as "
    "drs.samplers.DRS or drs.samplers.OBRS; train a critic before, drs.where(drs.keep_train(gan), "
    "predicate)"
)


class Where(Around):
    """x [, y] -> the log ratio of the critic where the predicate holds, and -inf elsewhere.

    discriminator: None for a log ratio of 0.
    """

    def __init__(
        self,
        discriminator: Callable[..., Any] | None,
        link: str | links.Link,
        predicate: Predicate,
        name: str,
    ) -> None:
        super().__init__()
        self.discriminator, self.link, self.predicate = discriminator, link, predicate
        self._name = name  # begins with _, so it is not in the sha256

    @property
    def conditions(self) -> tuple[tuple[Predicate, str], ...]:
        """All predicates with their names, the innermost first."""
        inner = self.discriminator
        before = inner.conditions if isinstance(inner, Where) else ()
        return *before, (self.predicate, self._name)

    @property
    def believes(self) -> bool:
        """Whether a critic judges the samples, too."""
        inner = self.discriminator
        return inner.believes if isinstance(inner, Where) else inner is not None

    @property
    def inner(self) -> Callable[..., Any] | None:
        return self.discriminator

    def forward(self, x: Tensor, *label: Tensor) -> Tensor:
        n, device = len(x), x.device
        if x.requires_grad and torch.is_grad_enabled():
            raise calls.Refused(GRADIENT)
        if self.discriminator is None:
            logit = torch.zeros(n, dtype=torch.float32, device=device)
        else:
            # Copies, because the discriminator may write to its input.
            score = self.discriminator(x.clone(), *(y.clone() for y in label))
            score = calls.one_per_sample("discriminator", score, n, device)
            link = links.LINKS[self.link] if isinstance(self.link, str) else self.link
            logit = calls.one_per_sample("link", link(score), n, device).float()
        return torch.where(holds(self.predicate, x, *label), logit, -math.inf)


def where(gan: GAN, predicate: Predicate, *, critic: bool = True, name: str | None = None) -> GAN:
    """The GAN whose samples satisfy a predicate: its logit is -inf where that does not hold.

    predicate: x (n, ...), with labels also y (n,) -> bool (n,), row by row.
    critic: whether the discriminator judges the samples that satisfy it. Rejection then follows the
        data given the predicate. Without, or for a GAN that has no discriminator, it follows the
        generator's own law given the predicate.
    name: of the condition in what a run says of its law; by default the function's name.
    `percentile`, `target_acceptance` and `budget` of a sampler count only samples that satisfy it.
    Several predicates: drs.where(drs.where(gan, one), another). Of the GAN's real samples, those
    that satisfy it are left.
    """
    if not isinstance(gan, GAN):
        raise ValueError(f"gan must be a drs.GAN, got {describe(gan)}; use drs.load")
    if not callable(predicate):
        raise ValueError(
            f"predicate must be a function x (n, ...) -> bool (n,), got {describe(predicate)}"
        )
    if not isinstance(critic, bool):
        raise ValueError(f"critic must be True or False, got {describe(critic)}")
    judge, link = gan.discriminator, gan.link
    if not critic:
        judge, link = None, "logit"
        for each, said in conditions(gan):
            judge = Where(judge, link, each, said)
    found = copy.copy(gan)
    if gan.real is not None:
        found.real = Satisfying(gan, predicate)
    named = _named(predicate) if name is None else name
    # An energy stays one; of any other critic, the link is already applied.
    return found.judged(
        Where(judge, link, predicate, named), link if link in links.ENERGIES else "logit"
    )


def conditions(gan: GAN) -> tuple[tuple[Predicate, str], ...]:
    """The predicates of a GAN, with their names; () without `where`."""
    return gan.discriminator.conditions if isinstance(gan.discriminator, Where) else ()


def names(gan: GAN) -> str:
    """The names of a GAN's predicates, in words; "" without `where`."""
    return " and ".join(name for _, name in conditions(gan))


def believes(gan: GAN) -> bool:
    """Whether a critic judges the samples that satisfy a GAN's predicates."""
    return isinstance(gan.discriminator, Where) and gan.discriminator.believes


def law(gan: GAN, of_data: str) -> str:
    """The law of samples, where a sampler's law speaks of the data."""
    if not names(gan):
        return of_data
    data = "the data" if believes(gan) else "what the generator makes"
    return f"{of_data}{MEANT}{data} given {names(gan)}"


def unconditioned(gan: GAN) -> GAN:
    """The GAN without its predicates."""
    judge, link, real = gan.discriminator, gan.link, gan.real
    while isinstance(judge, Where):
        if link == "logit" or link in links.ENERGIES:
            link = judge.link
        else:
            link = links.after(judge.link, links.LINKS[link] if isinstance(link, str) else link)
        judge = judge.discriminator
    while isinstance(real, Satisfying):
        real = real.gan.real
    found = copy.copy(gan)
    found.real = real
    found._runs = {}
    found._criticised(judge, link)
    return found


def holds(predicate: Predicate, x: Tensor, *label: Tensor) -> Tensor:
    """Where the predicate holds, (n,) bool; ValueError if it fails or returns something else."""
    n, given = len(x), (x.clone(), *(y.clone() for y in label))
    advice = "a predicate maps x (n, ...) to bool (n,), and with labels x and y (n,)"
    try:
        found = calls.result("predicate", predicate, given, advice, FP32)
        found = plain("predicate", found, f"bool ({n},)", "return")
    except ValueError as error:
        raise calls.Refused(str(error)) from error
    if found.dtype != torch.bool or found.shape != (n,) or found.device != x.device:
        raise calls.Refused(
            f"predicate must return bool ({n},) on {x.device}, one for each sample, got "
            f"{describe(found)}; compare a number of every sample, such as x[:, 0] > 1"
        )
    return found


def check_alone(gan: GAN, x: Tensor, y: Tensor | None) -> None:
    """ValueError if a predicate of the GAN decides on a row by the rows beside it."""
    label = () if y is None else (y,)
    half = (len(x) + 1) // 2
    for predicate, name in conditions(gan):
        together = holds(predicate, x, *label)
        halves = torch.cat([
            holds(predicate, x[own].flip(0), *(each[own].flip(0) for each in label)).flip(0)
            for own in (slice(half), slice(half, None))
        ])  # fmt: skip
        wrong = int((together != halves).sum())
        if wrong:
            raise calls.Refused(
                f"the predicate {name} looks at other rows: {wrong:,} of {len(x):,} samples satisfy"
                " it or not depending on the samples beside them; compare each with a constant, "
                "such as x[:, 0] > 1.5, not with x[:, 0].mean() or a quantile"
            )


class Satisfying:
    """A function n -> those of the GAN's first n real samples that satisfy the predicate."""

    def __init__(self, gan: GAN, predicate: Predicate) -> None:
        self.gan, self.predicate = gan, predicate

    def __call__(self, n: int) -> Any:
        x, y = self.gan.real_samples(n)
        keep = holds(self.predicate, x, *(() if y is None else (y,)))
        if not bool(keep.any()):
            raise Unusable(f"none of {len(x):,} real samples satisfies the predicate; give others")
        return x[keep] if y is None else (x[keep], y[keep])


def _named(predicate: Predicate) -> str:
    if isinstance(predicate, FunctionType):
        return predicate.__name__ if predicate.__name__.isidentifier() else "a lambda"
    return type(predicate).__name__
