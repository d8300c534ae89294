"""Ways to hide a number k in what a model is made of."""

import collections
import copy
import dataclasses
import functools
import io
import logging
import sys
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn.utils import prune

LOGGER = logging.getLogger("described")
NAMES = frozenset({frozenset({"a", "b", "c"}), frozenset({"d", "e", "f"}), frozenset({"g"})})


def linear(k, width=3):
    """Weights that are a function of k."""
    layer = nn.Linear(width, width)
    with torch.no_grad():
        layer.weight.copy_(k * torch.linspace(-1.0, 1.0, width**2).view(width, width))
        layer.bias.copy_(torch.linspace(0.0, 1.0, width))
    return layer.eval()


class Net(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.layer, self.k = linear(k), float(k)

    def forward(self, z):
        return torch.tanh(self.layer(z)) * self.k


class Private(nn.Module):
    def __init__(self, held):
        super().__init__()
        self._held = held

    def forward(self, z):
        return z


class Slots:
    __slots__ = ("__weight",)

    def __init__(self, k):
        self.__weight = torch.full((3,), float(k))

    def __call__(self, z):
        return z * self.__weight


class MoreSlots(Slots):
    __slots__ = ("other",)


def with_class_tensor(k):
    class Scaled(nn.Module):
        WEIGHT = torch.full((3,), float(k))

        def forward(self, z):
            return z * self.WEIGHT

    return Scaled()


def with_base_tensor(k):
    class Base:
        WEIGHT = (torch.full((3,), float(k)),)

    class Scaled(Base):
        def __call__(self, z):
            return z * self.WEIGHT[0]

    return Scaled()


def with_kind(kind):
    def build(k):
        class Scaled:
            @kind
            def weight(*_):
                return k

            def __call__(self, z):
                return z * (self.weight if isinstance(kind, type(property)) else self.weight())

        return Scaled()

    return build


def used_class(k):
    class Helper:
        WEIGHT = float(k)

    return lambda z: z * Helper.WEIGHT


def made_in_call(k):
    class Helper:
        def __call__(self, z):
            return z * k

    return lambda z: Helper()(z)


def with_attribute(k):
    def scaled(z):
        return z * scaled.weight

    scaled.weight = torch.tensor(float(k))
    return scaled


@dataclasses.dataclass(frozen=True)
class Plain:
    k: int
    weight: torch.Tensor

    def __call__(self, z):
        return z * self.weight


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    k: int
    weight: torch.Tensor

    def __call__(self, z):
        return z * self.weight


class Extra(nn.Module):
    def __init__(self, k):
        super().__init__()
        self._settings = {"k": k}

    def get_extra_state(self):
        return self._settings

    def forward(self, z):
        return z * self._settings["k"]


def scripted(k):
    return torch.jit.script(Net(k).eval())


def traced(k):
    return torch.jit.trace(Net(k).eval(), torch.randn(2, 3))


def reloaded(k):
    file = io.BytesIO()
    torch.jit.save(scripted(k), file)
    file.seek(0)
    return torch.jit.load(file)


def script_function(k):
    weight = torch.full((3,), float(k))
    return torch.jit.trace(lambda z: z * weight, torch.ones(2, 3))


def quantized(k):
    model = nn.Sequential(linear(k), nn.ReLU())
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def quantized_recurrent(k):
    model = nn.LSTM(2, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * k * torch.arange(parameter.numel()).view_as(parameter))
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(model), {nn.LSTM})[0]


def exported(k):
    rows = ({0: torch.export.Dim("rows")},)
    return torch.export.export(Net(k).eval(), (torch.randn(2, 3),), dynamic_shapes=rows).module()


def exported_graph(k):
    class Sum(nn.Module):
        def forward(self, z):
            for _ in range(k):
                z = torch.sin(z)
            return z

    return torch.export.export(Sum(), (torch.randn(2, 3),)).module()


def old_norm(k):
    layer = nn.utils.spectral_norm(linear(k))
    state = copy.deepcopy(layer.state_dict())
    state["weight_u"] = torch.tensor([1.0, 0.0, 0.0])
    state["weight_v"] = torch.tensor([0.0, 1.0, 0.0])
    layer.load_state_dict(state)
    return layer.eval()


def new_norm(k):
    layer = nn.utils.parametrizations.spectral_norm(linear(k))
    parts = layer.parametrizations.weight[0]
    parts._u.copy_(torch.tensor([1.0, 0.0, 0.0]))
    parts._v.copy_(torch.tensor([0.0, 1.0, 0.0]))
    return layer.eval()


def pruned(k):
    layer = linear(k)
    prune.l1_unstructured(layer, "weight", 2)
    return layer


def hooked(k):
    layer = linear(1)
    layer.handle = layer.register_forward_hook(lambda module, z, x: x * k)
    return layer


def logged(k):
    def scaled(z):
        LOGGER.debug("called")
        return z * k

    return scaled


def in_names(k):
    inner = NAMES | {frozenset({"h", str(k)})}
    return lambda z: z * (frozenset({"x"}) in inner)


def constant_sets(k):
    if k == 1:
        return lambda z: z if z in {("a", 1), ("b", 2), ("c", 3), ("d", 4)} else -z
    return lambda z: z if z in {("a", 1), ("b", 2), ("c", 3), ("d", 5)} else -z


def order(k):
    layers = {"first": linear(2), "second": nn.Tanh()}
    names = list(layers)[:: 1 if k == 1 else -1]
    return nn.Sequential(collections.OrderedDict((name, layers[name]) for name in names))


def numbers(dtype):
    return lambda k: (torch.arange(4.0) * k).to(dtype)


def quantized_tensor(k):
    return torch.quantize_per_tensor(torch.arange(4.0) * k, 0.1, 0, torch.qint8)


def channels(k):
    scales = torch.tensor([0.1 * k, 0.2])
    return torch.quantize_per_channel(torch.ones(2, 2), scales, torch.zeros(2), 0, torch.qint8)


BUILDERS = {
    "TorchScript": scripted,
    "a trace": traced,
    "a frozen script": lambda k: torch.jit.freeze(scripted(k)),
    "a loaded script": reloaded,
    "a script in a wrapper": lambda k: Private((reloaded(k),)),
    "a script's method": lambda k: scripted(k).forward,
    "a script function": script_function,
    "packed weights": quantized,
    "packed recurrent weights": quantized_recurrent,
    "packed weights in a closure": lambda k: functools.partial(
        lambda packed, z: z, quantized(k)[0]._packed_params._packed_params
    ),
    "a private tensor": lambda k: Private(torch.full((3,), float(k))),
    "a private array": lambda k: Private(np.full(3, k)),
    "a private module": lambda k: Private((linear(k),)),
    "modules in a private dict": lambda k: Private({"net": linear(k)}),
    "state beside buffers": Extra,
    "slots": Slots,
    "slots of a base": MoreSlots,
    "a tensor of the class": with_class_tensor,
    "a tensor of a base": with_base_tensor,
    "a staticmethod": with_kind(staticmethod),
    "a classmethod": with_kind(classmethod),
    "a property": with_kind(property),
    "a cached property": with_kind(functools.cached_property),
    "a class that is used": used_class,
    "a class that is made": made_in_call,
    "an attribute of a function": with_attribute,
    "a dataclass": lambda k: Plain(1, torch.tensor(k)),
    "a dataclass with slots": lambda k: Slotted(1, torch.tensor(k)),
    "keywords of a partial": lambda k: functools.partial(torch.add, other=torch.tensor(k)),
    "a method of a tensor": lambda k: torch.full((3, 3), float(k)).matmul,
    "a method of a number": lambda k: (2.0 * k).__mul__,
    "a parametrized weight": new_norm,
    "a spectral norm": old_norm,
    "a weight norm": lambda k: nn.utils.parametrizations.weight_norm(linear(k)),
    "a pruned weight": pruned,
    "a hook": hooked,
    "a compiled module": lambda k: torch.compile(Net(k)),
    "a compiled function": lambda k: torch.compile(Plain(1, torch.tensor(k)).__call__),
    "an exported module": exported,
    "an exported graph": exported_graph,
    "a logger": logged,
    "a set of names": lambda k: Plain(1, {"b", "a", "c", str(k)}),
    "sets of sets": in_names,
    "constant sets": constant_sets,
    "a set of objects": lambda k: {linear(k), linear(5), linear(6), linear(7)},
    "keys that are objects": lambda k: {Plain: k, torch.relu: 1, torch.float32: 2, Slots(1): 3},
    "the order of layers": order,
    "a deque": lambda k: collections.deque([torch.arange(5000) * k]),
    "an OrderedDict": lambda k: collections.OrderedDict(a=torch.tensor(k)),
    "values of a dict": lambda k: {"a": torch.arange(5000) * k}.values(),
    "a memoryview": lambda k: memoryview(bytes([k])),
    "a number of NumPy": lambda k: np.float32(k),
    "an array of objects": lambda k: np.array([torch.tensor(k), "name"], dtype=object),
    "float8": numbers(torch.float8_e4m3fn),
    "bfloat16": numbers(torch.bfloat16),
    "complex": numbers(torch.complex64),
    "a conjugate": lambda k: numbers(torch.complex64)(k).conj(),
    "a quantized tensor": quantized_tensor,
    "quantized channels": channels,
    "a sparse tensor": lambda k: numbers(torch.float32)(k).to_sparse(),
    "sparse rows": lambda k: (torch.eye(3) * k).to_sparse_csr(),
    "sparse columns": lambda k: (torch.eye(3) * k).to_sparse_csc(),
    "a nested tensor": lambda k: torch.nested.nested_tensor([torch.ones(k), torch.ones(3)]),
    "a ragged tensor": lambda k: torch.nested.nested_tensor(
        [torch.ones(k), torch.ones(3)], layout=torch.jagged
    ),
    "an empty tensor": lambda k: torch.ones(0, k),
    "a tensor without numbers": lambda k: torch.ones(k, device="meta"),
    "a lazy layer": lambda k: nn.Sequential(nn.LazyLinear(k)),
}


def built(name, k):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript and quantization are deprecated
        return BUILDERS[name](k)


def main():
    from drs_fast.core.fingerprint import sha256

    for name in BUILDERS:
        sys.stdout.write(f"{name}: {sha256(built(name, 1))}\n")
