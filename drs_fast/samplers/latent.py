"""Rejects latents before the generator runs.

Source: Rosca, Lakshminarayanan, Warde-Farley and Mohamed, Variational approaches for auto-encoding
generative adversarial networks, 2017; Issenhuth, Tanielian, Picard and Mary, Latent reweighting, an
almost free improvement for GANs, WACV 2022.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from drs_fast import ops
from drs_fast.core import BadLogits, Batch, Found, Rng
from drs_fast.core.arguments import describe, integer, number, one_of, told
from drs_fast.core.layout import Logits, OfClasses, Proposed, Scalar
from drs_fast.core.sampler import UNKNOWN, Described, Recorded, Remade
from drs_fast.core.sources import imported
from drs_fast.gan import BLOCK_MULTIPLE, GAN
from drs_fast.gan.classes import CHOICES, WITHIN
from drs_fast.gan.where import names
from drs_fast.samplers.common import rejection, remade
from drs_fast.samplers.common.rejection import Rejection, RejectionSampler, RejectionState

Critic = Callable[..., Tensor]


class LatentState(NamedTuple):
    """Logits here are the critic's log weights; cap is (), or (K,) if each class has its own."""

    cap: OfClasses
    acceptance: Scalar  # expected share of accepted latents
    log_weights: Logits
    proposed: Proposed  # as in RejectionState


@dataclass(frozen=True)
class Latent(RejectionSampler):
    """Accepts a latent with probability min(1, exp(critic(z) - cap)).

    critic: z (n, d) [, y (n,)] -> log weights (n,), or "module:name" or "file.py:name" of such a
        function or module. drs.latent_weights trains one. For the code critic of an alpha-GAN
        (prior 1, encoder 0), it is minus the logit.
    cap: log weights above it count the same; by default the largest of the burn-in.
    burn_in: latents from which the cap is found; at least 1,000 of each class if each class has its
        own.
    classes: for a GAN with labels. "joint": one cap; samples follow the joint law of latents and
        labels. "within": a cap per class; samples follow the law within each class, and n samples
        have the proportions of the GAN's label_weights, rounded.
    G and D see only accepted latents, in blocks of as many as a block of latents leaves. If few are
    accepted, raise batch_size.

    Source: Rosca et al. (2017); Issenhuth et al. (2022).
    """

    critic: str | Critic | None = None
    cap: float | None = None
    burn_in: int = 10_000
    classes: str = "joint"

    State: ClassVar[Any] = LatentState
    law_version: ClassVar[int] = 2  # 1: with labels, a cap for each class and no quotas
    by_logit: ClassVar[bool] = False
    energy: ClassVar[bool] = True  # the discriminator has no say
    weighs: ClassVar[str] = UNKNOWN  # the logit does not tell what was accepted
    appends: ClassVar[bool] = False  # samples are made of accepted latents alone

    def __post_init__(self) -> None:
        named = isinstance(self.critic, str) and all(self.critic.rpartition(":"))
        if not (named or callable(self.critic) or self.critic is None):
            raise ValueError(
                "critic must be a function from latents to log weights, or the "
                f"'module:name' of one, got {self.critic!r}"
            )
        if self.cap is not None:
            object.__setattr__(self, "cap", number("cap", self.cap, -torch.inf, torch.inf))
        object.__setattr__(self, "burn_in", integer("burn_in", self.burn_in, 1))
        one_of("classes", self.classes, CHOICES)

    @property
    def law(self) -> str:
        cap = "its largest of the burn-in" if self.cap is None else f"exp({self.cap:g})"
        within = " within each class" if self.classes == WITHIN else ""
        return (
            "the generator on latents that follow the prior times exp(critic)"
            f"{within}, which is capped at {cap}"
        )

    @property
    def functions(self) -> tuple[Critic, ...]:
        return (self._critic,)

    def probed(self, gan: GAN, z: Tensor, y: Tensor | None = None) -> tuple[Tensor, ...]:
        with _of_critic():
            return (self._judge(gan).logits(z, y)[1],)

    @property
    def remedies(self) -> tuple[str, ...]:
        return ("set a lower cap: log weights above it count the same",)

    def init(self, gan: GAN, rng: Rng) -> LatentState:
        if names(gan):
            raise ValueError(
                f"Latent asks its critic alone, so samples need not satisfy {names(gan)}; use "
                "another sampler with drs.where, such as drs.samplers.DRS"
            )
        judge, within = self._judge(gan), self.classes == WITHIN
        with _of_critic():
            return self.restored(
                rejection.thresholds(judge, rng, self.burn_in, within, 0.0, self._threshold)
            )

    def step(
        self, gan: GAN, state: LatentState, z: Tensor, y: Tensor | None, rng: Rng
    ) -> tuple[LatentState, Batch]:
        decides = self.rejection(gan, state)
        with _of_critic():
            weight = decides.judge.logits(z, y)[1]
        kept = rejection.compacted(z, weight, decides.state, z, y, rng, decides.eps)
        return state, decides.complete(kept)

    def remade(
        self,
        gan: GAN,
        state: LatentState,
        ids: Tensor,
        y: Tensor | None,
        rng: Rng,
        *,
        judged: bool = False,
    ) -> Remade:
        # Blocks have the shape in which the run called G.
        return remade.of_rows(gan.on(block=_block(gan, state)), ids, y, rng, judged)

    def rejection(self, gan: GAN, state: LatentState) -> Rejection:
        cap, acceptance, log_weights, proposed = state
        thresholds = RejectionState(cap, torch.zeros_like(cap), acceptance, log_weights, proposed)
        judge = rejection.proposing(self._judge(gan), proposed)
        complete = functools.partial(self._completed, gan, state)
        return Rejection(judge, thresholds, complete=complete)

    def restored(self, thresholds: RejectionState) -> LatentState:
        cap, _, acceptance, log_weights, proposed = thresholds
        return LatentState(cap, acceptance, log_weights, proposed)

    def found(self, state: LatentState) -> Found:
        return Found(
            float(state.acceptance),
            spent=self.burn_in,
            judged=state.log_weights,
            unit="log weights",
            limits={"cap": state.cap},
        )

    @classmethod
    def described(cls, run: Recorded) -> Described:
        return Described({}, {"cap": run.state.cap}, "log weights above cap")

    def _completed(self, gan: GAN, state: LatentState, kept: Batch) -> Batch:
        """The samples of accepted latents."""
        n = int(kept.count)  # the host must know it, because G must not run for rejected latents
        z, y, ids = kept.z[:n], None if kept.y is None else kept.y[:n], kept.ids[:n]
        x, logit = gan.on(block=_block(gan, state)).logits(z, y)
        bad = torch.isnan(logit) | torch.isposinf(logit)
        if bool(bad.any()):
            x, z, ids, logit = x[~bad], z[~bad], ids[~bad], logit[~bad]
            y = None if y is None else y[~bad]
        calls = torch.full_like(kept.count, n)
        stats = {**kept.stats, "invalid": kept.stats["invalid"] + bad.sum(), "calls": calls}
        return Batch(x, z, y, logit, ids, torch.full_like(kept.count, len(ids)), stats)

    def _threshold(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The cap, and gamma = 0, 0-d float64."""
        cap = ops.largest(weight)
        if self.cap is not None:
            cap = torch.full_like(cap, self.cap)
        return cap, torch.zeros_like(cap)

    def _judge(self, gan: GAN) -> GAN:
        """A GAN whose samples are the latents and whose discriminator is the critic."""
        return GAN(
            _itself,
            self._critic,
            gan.latent_dim,
            prior=gan.prior,
            truncation=None if gan.truncation == 1.0 else gan.truncation,
            labels=gan.labels,
            label_weights=gan.label_weights,
            block=gan.block,
        ).on(gan.device)

    @functools.cached_property
    def _critic(self) -> Critic:
        if self.critic is None:
            raise ValueError(
                "Latent needs a critic, got none: use Latent(critic=function of z, and of y with "
                "labels), or --critic file.py:name; drs.latent_weights(gan) trains one"
            )
        if not isinstance(self.critic, str):
            return self.critic
        module, _, name = self.critic.rpartition(":")
        try:
            critic: Critic = getattr(imported(module), name)
        except Exception as error:  # the user's module may raise anything
            raise ValueError(f"critic {self.critic!r} cannot be loaded: {told(error)}") from error
        if not callable(critic):
            raise ValueError(f"critic {self.critic!r} must be a function, got {describe(critic)}")
        return critic


def _itself(z: Tensor, y: Tensor | None = None) -> Tensor:
    return z


def _block(gan: GAN, state: LatentState) -> int:
    """Rows in a call of G: the mean number of accepted latents plus four standard deviations."""
    expected = gan.block * float(state.acceptance)
    return min(gan.block, max(BLOCK_MULTIPLE, int(expected + 4.0 * expected**0.5) + 1))


@contextmanager
def _of_critic() -> Iterator[None]:
    """Makes errors about a discriminator of latents name the critic instead."""
    try:
        yield
    except (ValueError, BadLogits) as error:
        raise type(error)(f"Latent's critic, as a discriminator of latents: {error}") from error
