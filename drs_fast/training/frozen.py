"""Shared by learned density ratios: frozen features, samples to learn from, and batches."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from drs_fast import ops
from drs_fast.core import Rng
from drs_fast.core.arguments import describe, integer
from drs_fast.core.rows import ORDER_ROW, RATIO_ROW
from drs_fast.core.tensors import plain
from drs_fast.gan import GAN, calls
from drs_fast.gan.packed import Packed
from drs_fast.gan.real_data import alike
from drs_fast.gan.where import names
from drs_fast.training import parts as parts_of
from drs_fast.training.fitting import Draws
from drs_fast.training.taps import (
    Given,
    GivenLabelled,
    Pooled,
    TapWithin,
    copied,
    takes_label,
    tapped,
)

Features = str | Callable[[Tensor], Tensor] | None
Rows = tuple[Tensor, ...]
Report = TypeVar("Report")

HELD_OUT = 0.2
LEAST = 50  # real samples
BEFORE = "before-minibatch-std"
LARGE, PROBED = 8192, 8  # most numbers of a feature map, and rows to see how many it has
ADVICE = "pass features=the name of a part, or a function x -> (n, d)"


def trainable(critic: nn.Module) -> nn.Module:
    """A copy to train; ValueError if it has nothing to train."""
    if not any(True for _ in critic.parameters()):
        raise ValueError(
            "the discriminator is to be trained, but has no parameters of its own; give the module "
            "that has them, drs.wrap(module, ...), in place of a function that uses it, or use "
            "drs.keep_train(gan), which leaves it as it is"
        )
    return copied(critic)


def critic_module(gan: GAN, instead: str) -> nn.Module:
    """The discriminator; if it is not a module, a ValueError that says what to do instead."""
    if gan.discriminator is None:
        raise ValueError(calls.NO_CRITIC)
    if not isinstance(gan.discriminator, nn.Module):
        kind = type(gan.discriminator).__name__
        raise ValueError(f"the discriminator must be an nn.Module here, got {kind}; {instead}")
    return gan.discriminator


def refuse_where(gan: GAN) -> None:
    """ValueError for a GAN with a predicate, which a new critic would not know."""
    if names(gan):
        raise ValueError(
            f"this GAN gives only samples that satisfy {names(gan)}; train its critic before: "
            "drs.where(drs.keep_train(gan), predicate)"
        )


class Frozen(nn.Module):
    """x [, y] -> (n, d) float32: standardised features, and the label one-hot. Never trained."""

    mean: Tensor
    scale: Tensor

    def __init__(self, take: nn.Module, labels: int | None) -> None:
        super().__init__()
        self.take, self.labels = take.requires_grad_(False), labels
        self.register_buffer("mean", torch.zeros((), dtype=torch.float32, device="cpu"))
        self.register_buffer("scale", torch.ones((), dtype=torch.float32, device="cpu"))

    def forward(self, x: Tensor, *label: Tensor) -> Tensor:
        seen = (self.features(x, *label) - self.mean) / self.scale
        if self.labels is None:
            return seen
        classes = torch.arange(self.labels, device=x.device)
        return torch.cat([seen, (label[0][:, None] == classes).to(seen)], dim=1)

    def features(self, x: Tensor, *label: Tensor) -> Tensor:
        """(n, d) float32."""
        try:
            found = plain("features", self.take(x, *label), "a tensor of features", "return")
        except ValueError as error:
            raise calls.Refused(str(error)) from error
        if found.shape[:1] != x.shape[:1]:
            raise calls.Refused(
                f"features must be a tensor with a row for each of {len(x)} samples, "
                f"got {describe(found)}"
            )
        return found.flatten(1).float() if found.ndim > 1 else found.float()[:, None]

    def standardise(self, rows: Tensor) -> None:
        """Shift and scale so that these features (n, d) have mean 0 and variance 1."""
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(
                "the features of some samples are NaN or infinite; take others, "
                "or a function that clamps them"
            )
        wide = rows.double()
        sd, mean = torch.std_mean(wide, dim=0, correction=0)
        constant = sd <= 1e-6 * wide.abs().amax(dim=0)
        if bool(constant.all()):
            raise ValueError(
                "the features are the same for all samples, so nothing can be learnt from them; "
                "take others"
            )
        self.mean = mean.to(rows)
        self.scale = torch.where(constant, 1.0, sd).to(rows)


class Learned(nn.Module):
    """A critic: a network on frozen features."""

    def __init__(self, features: Frozen, network: nn.Module) -> None:
        super().__init__()
        self.features, self.network = features, network

    def forward(self, x: Tensor, *label: Tensor) -> Tensor:
        logit: Tensor = self.network(self.features(x, *label))
        return logit


def reporting(critic: nn.Module, report: object) -> nn.Module:
    """The critic with the report attached under a name with _, which the sha256 leaves out."""
    vars(critic)["_report"] = report
    return critic


def report_of(gan: GAN, kind: type[Report], maker: str) -> Report:
    """The report that was attached when the GAN's critic was made."""
    report = getattr(gan.discriminator, "_report", None)
    if not isinstance(report, kind):
        raise ValueError(f"this GAN's discriminator was not made by {maker}")
    return report


def blocks(rows: Rows, size: int) -> Iterator[Rows]:
    """The rows in blocks of `size`."""
    for start in range(0, len(rows[0]), size):
        yield tuple(row[start : start + size] for row in rows)


class OnRows(nn.Module):
    """A network on a tuple of rows; one block at a time if no gradient is needed."""

    def __init__(self, network: nn.Module, block: int) -> None:
        super().__init__()
        self.network, self.block = network, block

    def forward(self, rows: Rows) -> Tensor:
        if torch.is_grad_enabled():
            result: Tensor = self.network(*rows)
            return result
        return torch.cat([self.network(*part) for part in blocks(rows, self.block)])


class Material:
    """Real samples in two parts, and fresh generated ones as needed, each used once.

    Generated samples take the labels of the real ones, so that the ratio learned for a class is
    that of the densities within the class.
    """

    def __init__(self, gan: GAN, samples: int, seed: int) -> None:
        refuse_where(gan)
        x, y = gan.real_samples(integer("samples", samples, LEAST))
        if len(x) < LEAST:
            raise ValueError(f"at least {LEAST} real samples are needed here, got {len(x)}")
        self.gan, self.rng = gan, Rng(seed, RATIO_ROW)
        self.draws = Draws(seed, ORDER_ROW)
        order = self.draws.permutation(len(x)).to(x.device)
        held = round(HELD_OUT * len(x))
        rows = (x,) if y is None else (x, y)
        self.held_out: Rows = tuple(row[order[:held]] for row in rows)
        self.training: Rows = tuple(row[order[held:]] for row in rows)

    def generated(self, real: Rows) -> Rows:
        """As many fresh samples as there are real ones, with their labels."""
        z = ops.latents(self.gan, self.rng, len(real[0]))
        self.rng = self.rng.at(self.rng.row + len(z))
        # D is called too, so that a fault of its is told as `gan` tells it.
        known = self.gan.discriminator is not None
        alone = len(z) < self.gan.block and len(self.training[0]) < self.gan.block
        x = (
            self.gan.logits(z, *real[1:], alone=alone)[0]
            if known
            else self.gan.samples(z, *real[1:])
        )
        alike(real[0], x)
        return (x.clone(), *real[1:])  # cloned, because autograd rejects inference-mode tensors

    def batches(
        self, size: int, encode: Callable[[Rows], Rows] = lambda rows: rows
    ) -> Iterator[tuple[Rows, Rows]]:
        """Pairs of batches, real and generated, without end; each epoch has its own order.

        encode: applied once to the real training rows, and to generated rows block by block.
        """
        real = encode(self.training)
        n = len(real[0])
        size = min(size, n)
        steps = max(1, self.gan.block // size)
        while True:
            order = self.draws.permutation(n)[: n // size * size].to(real[0].device)
            for (some,) in blocks((order,), steps * size):
                generated = encode(self.generated(tuple(row[some] for row in self.training)))
                chosen = tuple(row[some] for row in real)
                yield from zip(blocks(chosen, size), blocks(generated, size), strict=True)

    def found(self, features: str | None) -> tuple[nn.Module, str]:
        """A module x [, y] -> features of a part of the critic, and which part that is."""
        gan = self.gan
        if gan.discriminator is None:
            raise ValueError(calls.NO_CRITIC)
        found = None
        if features == BEFORE:
            found = parts_of.before_coupling(gan, self.held_out, self.generated(self.held_out))
        else:
            found = parts_of.last_layer(gan, self.held_out)
        if found is None:
            raise ValueError(
                "the discriminator has no Linear or Conv layer whose input could be the features; "
                f"{ADVICE}. Its parts end with {parts(gan.discriminator)}"
            )
        known: dict[nn.Module, str] = {}
        if isinstance(gan.discriminator, nn.Module):
            known = {part: name for name, part in gan.discriminator.named_modules()}
        take: nn.Module
        if known.get(found.part):
            assert isinstance(gan.discriminator, nn.Module)
            take = tapped(copied(gan.discriminator), known[found.part], before=found.before)
        else:
            take = TapWithin(gan.discriminator, found.part, before=found.before)
        way = "input" if found.before else "output"
        what = f"the {way} of {known.get(found.part) or type(found.part).__name__}, {found.why}"
        return self._pooled(take, what, isinstance(found.part, nn.Linear))

    def _pooled(self, take: nn.Module, what: str, linear: bool) -> tuple[nn.Module, str]:
        """The same, but the mean over positions where a feature map has many of them."""
        rows = tuple(row[:PROBED] for row in self.held_out)
        seen = self.gan.applied("features", take, *rows)
        if linear or seen.ndim < 3 or seen[0].numel() <= LARGE:
            return take, what
        return Pooled(take), f"{what}; the mean over its {seen[0, 0].numel():,} positions"

    def frozen(self, take: nn.Module) -> tuple[Frozen, Callable[[Rows], Rows]]:
        """The features, standardised on training rows, and a function from rows to them."""
        features = Frozen(take, self.gan.labels).to(self.training[0].device).eval()

        @torch.no_grad()
        def raw(rows: Rows) -> Tensor:
            return self.gan.applied("features", features.features, *rows)

        features.standardise(torch.cat([raw(self.training), raw(self.generated(self.training))]))

        @torch.no_grad()
        def encode(rows: Rows) -> Rows:
            return (self.gan.applied("features", features, *rows),)

        return features, encode


def taken(gan: GAN, features: str | Callable[[Tensor], Any]) -> nn.Module:
    """A module x [, y] -> features."""
    if callable(features):
        labelled = gan.labels is not None and takes_label(features)
        return GivenLabelled(features) if labelled else Given(features)
    if not isinstance(features, str):
        raise ValueError(
            "features must be a function of samples, or the dotted name of a part of the "
            f"discriminator, got {describe(features)}"
        )
    critic = critic_module(gan, "pass features=a function x -> (n, d)")
    inner = critic.discriminator if isinstance(critic, Packed) else critic
    known = {name for one in (critic, inner) for name, _ in one.named_modules() if name}
    if features not in known:
        raise ValueError(f"the discriminator has no part {features!r}; it has {parts(critic)}")
    return tapped(copied(critic), features, before=False)


def parts(critic: object) -> str:
    """The names of the last few parts of a module."""
    if not isinstance(critic, nn.Module):
        return "no parts"
    return ", ".join(repr(name) for name, _ in list(critic.named_modules())[1:][-8:]) or "no parts"
