"""Modules that take features of samples: from a part of a critic, or by a function."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from drs_fast.core.arguments import describe
from drs_fast.gan import GAN, calls
from drs_fast.gan.packed import Packed
from drs_fast.training import frozen, parts
from drs_fast.training.frozen import TAKES, Given, Material, Tap, copied, critic_module

BEFORE = "before-minibatch-std"
LARGE, PROBED = 8192, 8  # most numbers of a feature map, and rows to see how many it has
ADVICE = "pass features=the name of a part, or a function x -> (n, d)"


def tapped(critic: nn.Module, name: str, *, before: bool) -> nn.Module:
    """A tap of a critic; of one that judges groups, for the rows themselves."""
    if not isinstance(critic, Packed):
        return Tap(critic, name, before=before)
    name = name.removeprefix("discriminator.")
    return critic.around(Tap(critic.discriminator, name, before=before))


def within(critic: nn.Module, part: nn.Module, *, before: bool) -> nn.Module:
    """The same, where the part is given or returns several things."""
    if not isinstance(critic, Packed):
        return TapWithin(critic, part, before=before)
    return critic.around(TapWithin(critic.discriminator, part, before=before))


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
        raise ValueError(
            f"the discriminator has no part {features!r}; it has {frozen.parts(critic)}"
        )
    return tapped(copied(critic), features, before=False)


def found(material: Material, features: str | None = None) -> tuple[nn.Module, str]:
    """A module x [, y] -> features of a part of the critic, and which part that is."""
    gan = material.gan
    if gan.discriminator is None:
        raise ValueError(calls.NO_CRITIC)
    part: parts.Found | None
    if features == BEFORE:
        part = parts.before_coupling(gan, material.held_out, material.generated(material.held_out))
    else:
        part = parts.last_layer(gan, material.held_out)
    if part is None:
        raise ValueError(
            "the discriminator has no Linear or Conv layer whose input could be the features; "
            f"{ADVICE}. Its parts end with {frozen.parts(gan.discriminator)}"
        )
    known: dict[nn.Module, str] = {}
    if isinstance(gan.discriminator, nn.Module):
        known = {each: name for name, each in gan.discriminator.named_modules()}
    take: nn.Module
    if known.get(part.part):
        assert isinstance(gan.discriminator, nn.Module)
        critic, name = copied(gan.discriminator), known[part.part]
        take = tapped(critic, name, before=part.before)
        if not part.direct:
            take = within(critic, critic.get_submodule(name), before=part.before)
    else:
        take = TapWithin(gan.discriminator, part.part, before=part.before)
    way = "input" if part.before else "output"
    what = f"the {way} of {known.get(part.part) or type(part.part).__name__}, {part.why}"
    return _pooled(material, take, what, isinstance(part.part, nn.Linear))


def _pooled(material: Material, take: nn.Module, what: str, linear: bool) -> tuple[nn.Module, str]:
    """The same, but the mean over positions where a feature map has many of them."""
    rows = tuple(row[:PROBED] for row in material.held_out)
    seen = material.gan.applied("features", take, TAKES, *rows)
    if linear or seen.ndim < 3 or seen[0].numel() <= LARGE:
        return take, what
    return Pooled(take), f"{what}; the mean over its {seen[0, 0].numel():,} positions"


class TapWithin(nn.Module):
    """The same of a part that a function uses, or of one that is given or returns several things.

    Of several things, the first tensor counts.
    """

    def __init__(self, network: Callable[..., Any], part: nn.Module, *, before: bool) -> None:
        super().__init__()
        self.network = network if isinstance(network, nn.Module) else Called(network)
        self._part = (part,)  # in a tuple, because the network has it already
        self.before = before

    def forward(self, *rows: Tensor) -> Any:
        with parts.watched(self.network, self._part) as ran:
            self.network(*rows)
        if not ran:
            raise ValueError(f"the discriminator did not call its {type(self._part[0]).__name__}")
        return ran[-1].given if self.before else ran[-1].returned


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *rows: Tensor) -> Any:
        return self.function(*rows)


class Pooled(nn.Module):
    """The mean over the positions of a feature map."""

    def __init__(self, take: nn.Module) -> None:
        super().__init__()
        self.take = take

    def forward(self, *rows: Tensor) -> Tensor:
        found: Tensor = self.take(*rows)
        return found.flatten(2).mean(dim=2)


class GivenLabelled(Given):
    """A function of samples and labels."""

    def forward(self, x: Tensor, *label: Tensor) -> Any:
        return self.function(x, *label)


def takes_label(function: Callable[..., Any]) -> bool:
    """Whether it must be given a second argument."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        needed = [
            one
            for one in inspect.signature(called).parameters.values()
            if one.default is one.empty
            and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):  # of a function that is not written in Python
        return False
    return len(needed) == 2
