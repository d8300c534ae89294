"""Shared by learned density ratios: frozen features, samples to learn from, and batches."""

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from drs_fast import ops
from drs_fast.core import Rng, fingerprint
from drs_fast.core.arguments import describe, integer
from drs_fast.core.rows import ORDER_ROW, RATIO_ROW
from drs_fast.core.tensors import plain
from drs_fast.gan import GAN, calls
from drs_fast.gan.real_data import alike
from drs_fast.gan.where import names
from drs_fast.training.fitting import Draws

Features = str | Callable[[Tensor], Tensor] | None
Rows = tuple[Tensor, ...]
Module = TypeVar("Module", bound=nn.Module)
Report = TypeVar("Report")

HELD_OUT = 0.2
LEAST = 50  # real samples
TAKES = "features take samples x (n, ...), or x and y, and return (n, d)"


def copied(module: Module) -> Module:
    """A copy in eval mode; what a forward pass left on its parts is copied without its graph."""
    left = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, left).eval()


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


class Tap(nn.Module):
    """The output, or the input, of a part of a network when the network is called."""

    def __init__(self, network: nn.Module, name: str, *, before: bool) -> None:
        super().__init__()
        self.network, self.name, self.before = network, name, before

    def forward(self, *rows: Tensor) -> Any:
        seen = []

        def keep(part: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
            value = given[0] if self.before else returned
            # A copy, because the next layer may change it in place.
            seen.append(value.clone() if isinstance(value, Tensor) else value)

        # Only for this call: a hook that stayed would change the GAN's sha256 by its serial number.
        hook = self.network.get_submodule(self.name).register_forward_hook(keep)
        try:
            self.network(*rows)
        finally:
            hook.remove()
        if not seen:
            raise ValueError(f"the discriminator did not call its part {self.name!r}")
        return seen[-1]


class Given(nn.Module):
    """A function of samples alone, to call with a label too."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = copied(function) if isinstance(function, nn.Module) else function
        for module in fingerprint.modules(self.function):
            module.eval()

    def forward(self, x: Tensor, *label: Tensor) -> Any:
        return self.function(x)


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
        found = plain("features", self.take(x, *label), "a tensor of features", "return")
        if found.shape[:1] != x.shape[:1]:
            raise ValueError(
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

    def frozen(self, take: nn.Module) -> tuple[Frozen, Callable[[Rows], Rows]]:
        """The features, standardised on training rows, and a function from rows to them."""
        features = Frozen(take, self.gan.labels).to(self.training[0].device).eval()

        @torch.no_grad()
        def raw(rows: Rows) -> Tensor:
            return self.gan.applied("features", features.features, TAKES, *rows)

        features.standardise(torch.cat([raw(self.training), raw(self.generated(self.training))]))

        @torch.no_grad()
        def encode(rows: Rows) -> Rows:
            return (self.gan.applied("features", features, TAKES, *rows),)

        return features, encode


def parts(critic: object) -> str:
    """The names of the last few parts of a module."""
    if not isinstance(critic, nn.Module):
        return "no parts"
    return ", ".join(repr(name) for name, _ in list(critic.named_modules())[1:][-8:]) or "no parts"
