"""Computes once what an evaluated network computes at every call: BatchNorm, spectral norm, casts.

In eval mode a BatchNorm is y = s x + (beta - s mean), with s = gamma / sqrt(var + eps) for each
channel. After a convolution x = w * h + b it can be folded in:

    w' = s w    b' = s (b - mean) + beta

in float64, rounded once. Logits change in their last bits.
Source: Jacob et al., arXiv 1712.05877, section 3.2 and equation (14).
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from drs_fast.tune.watched import Watched, watched

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Exactly these: a class derived from them may do something else.
LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WEIGHED = "torch.nn.utils.parametrizations"  # spectral norm, weight norm, orthogonal


class Pair(NamedTuple):
    """A layer, and the BatchNorm that alone gets what it returns, by its parent and its name."""

    layer: nn.Module
    parent: nn.Module
    name: str

    @property
    def norm(self) -> nn.Module:
        return self.parent.get_submodule(self.name)


class Folded(nn.Module):
    """In the place of a BatchNorm: checks that channels were where the layer has them."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.dimensions:
            raise ValueError(
                f"BatchNorm can be folded where it gets {self.dimensions} dimensions, got {x.ndim}"
            )
        return x


def fold(networks: Sequence[nn.Module], run: Callable[[], object]) -> int:
    """Folds what can be folded in these networks, in place; returns how much that was.

    run: calls each network once. A layer and its norm are folded if each call of the network calls
    each of them once and nobody else reads their tensors, and torch.fx finds the same. A network
    that torch.fx cannot trace is folded within the parts of it that can be traced.
    """
    made = sum(_weighed(module) for network in networks for module in network.modules())
    with watched(networks) as seen:
        run()
    for network in networks:
        pairs = list(_pairs(network, _shared(network), seen))
        for pair in pairs:
            into(pair.layer, pair.norm)
            setattr(pair.parent, pair.name, Folded(pair.layer.get_parameter("weight").ndim))
        made += len(pairs)
    return made


def cast(network: nn.Module, dtype: torch.dtype) -> int:
    """Stores weights of linear layers and convolutions in dtype, in place; returns how many.

    Autocast rounds the same weights in the same way at every call, so no bit changes.
    """
    layers = [module for module in network.modules() if _plain(module, LINEAR)]
    for layer in layers:
        for name, weight in list(layer.named_parameters(recurse=False)):
            if weight.dtype == torch.float32:
                layer.register_parameter(name, _constant(weight.to(dtype)))
    return len(layers)


def into(layer: nn.Module, norm: nn.Module) -> None:
    """Changes the layer's weight and bias so that it does what both did, the norm in eval mode."""
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = layer.get_parameter("weight"), layer._parameters["bias"]
    with torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        shift = -norm.running_mean.double() if bias is None else bias.double() - norm.running_mean
        shift = scale * shift if norm.bias is None else scale * shift + norm.bias.double()
        if isinstance(layer, TRANSPOSED):  # (inputs, outputs of one group, ...)
            grouped = weight.double().view(layer.groups, -1, *weight.shape[1:])
            each = scale.view(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
            folded = (grouped * each).flatten(0, 1)
        else:
            folded = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
        layer.register_parameter("weight", _constant(folded.to(weight.dtype)))
        layer.register_parameter("bias", _constant(shift.to(weight.dtype)))


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)


def _weighed(module: nn.Module) -> int:
    """Keeps weights that would be computed at every call, and returns how many.

    torch's own functions for this would change the class that a copy shares with its original.
    """
    count = 0
    if module.training:  # then every call is a step of its power iteration
        return count
    with torch.no_grad():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, (SpectralNorm, WeightNorm)):
                hook.remove(module)
                del module._forward_pre_hooks[key]
                count += 1
        if parametrize.is_parametrized(module):
            assert isinstance(module.parametrizations, nn.ModuleDict)
            every = dict(module.parametrizations.items())
            if all(
                type(part).__module__ == WEIGHED
                for one in every.values()
                for part in one.children()
            ):
                values = {name: one().detach().clone() for name, one in every.items()}
                module.__class__ = parametrize.type_before_parametrizations(module)
                del module.parametrizations
                for name, value in values.items():
                    module.register_parameter(name, _constant(value))
                count += len(values)
    return count


def _plain(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether it is exactly of one of these classes, in eval mode, and nobody changes its calls."""
    hooked = module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
    return type(module) in kinds and not module.training and not hooked


def _shared(network: nn.Module) -> set[int]:
    """The ids of modules that have more than one place in the network."""
    places = Counter(id(one) for _, one in network.named_modules(remove_duplicate=False))
    return {module for module, count in places.items() if count > 1}


class _Called(nn.Module):
    """Calls a network as it was called, so that torch.fx takes the same arguments as left out."""

    def __init__(self, network: nn.Module, given: int) -> None:
        super().__init__()
        self.network = network
        self.given = given

    def forward(self, given: Any) -> Any:
        return self.network(*(given[i] for i in range(self.given)))


def _pairs(network: nn.Module, shared: set[int], seen: Watched) -> Iterator[Pair]:
    times = seen.times(network)  # more than once where a critic is given the rows in parts
    given = seen.given(network, times)
    try:
        if given is None:
            raise TypeError("torch.fx traces what is called with tensors")
        # Of a copy with the same tensors, because a network may keep what passes through it.
        memo = {id(parameter): parameter for parameter in network.parameters()}
        graph = fx.Tracer().trace(_Called(copy.deepcopy(network, memo), given))
    except Exception:  # the network's own code may raise anything on what fx gives it
        for child in network.children():
            yield from _pairs(child, shared, seen)
        return
    whole = _Called(network, given)
    called = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = (whole.get_submodule(str(one.target)) for one in (before, node))
        alone = called[node.target] == called[before.target] == 1
        alone = alone and not {id(layer), id(norm)} & shared and seen.only_feeds(layer, norm, times)
        if alone and _plain(layer, LINEAR) and _plain(norm, NORMS) and _frozen(norm):
            parent, _, name = str(node.target).rpartition(".")
            yield Pair(layer, whole.get_submodule(parent), name)


def _frozen(norm: nn.Module) -> bool:
    """Whether it normalises by what it has learnt, and not by each batch."""
    return isinstance(norm, NORMS) and norm.running_mean is not None
