"""Modules that take features of samples: from a part of a critic, or by a function."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from drs_fast.core import fingerprint
from drs_fast.gan.packed import Packed
from drs_fast.training.parts import tensor_of

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module) -> Module:
    """A copy in eval mode; what a forward pass left on its parts is copied without its graph."""
    left = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, left).eval()


class Tap(nn.Module):
    """The output, or the input, of a part of a network when the network is called."""

    def __init__(self, network: nn.Module, name: str, *, before: bool) -> None:
        super().__init__()
        self.network, self.name, self.before = network, name, before

    def forward(self, *rows: Tensor) -> Any:
        seen = []

        def keep(
            part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], returned: Any
        ) -> None:
            value = tensor_of((*given, *named.values()) if self.before else returned)
            # A copy, because the next layer may change it in place.
            seen.append(returned if value is None else value.clone())

        # Only for this call: a hook that stayed would change the GAN's sha256 by its serial number.
        hook = self.part().register_forward_hook(keep, with_kwargs=True)
        try:
            self.network(*rows)
        finally:
            hook.remove()
        if not seen:
            raise ValueError(f"the discriminator did not call its part {self.name!r}")
        return seen[-1]

    def part(self) -> nn.Module:
        return self.network.get_submodule(self.name)


class TapWithin(Tap):
    """The same of a part that a function uses, or a module that holds the function."""

    def __init__(self, network: Callable[..., Any], part: nn.Module, *, before: bool) -> None:
        super().__init__(nn.Identity(), type(part).__name__, before=before)
        self.network = network if isinstance(network, nn.Module) else Called(network)
        self._part = (part,)  # in a tuple, because it is no part of this module

    def part(self) -> nn.Module:
        return self._part[0]


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


def tapped(critic: nn.Module, name: str, *, before: bool) -> nn.Module:
    """A tap of a critic; of one that judges groups, for the rows themselves."""
    if not isinstance(critic, Packed):
        return Tap(critic, name, before=before)
    name = name.removeprefix("discriminator.")
    return critic.around(Tap(critic.discriminator, name, before=before))


class Given(nn.Module):
    """A function of samples alone, to call with a label too."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = copied(function) if isinstance(function, nn.Module) else function
        for module in fingerprint.modules(self.function):
            module.eval()

    def forward(self, x: Tensor, *label: Tensor) -> Any:
        return self.function(x)


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
