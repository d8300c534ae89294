"""The parts of functions, objects, modules and classes, for `drs_fast.core.fingerprint`."""

import contextlib
import dataclasses
import dis
import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import (
    ClassMethodDescriptorType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
STATE = ("_parameters", "_buffers", "_modules", *HOOKS)
MODES = ("training", "train", "eval")  # an exported module has its own methods for these
DESCRIPTORS = (
    MemberDescriptorType,
    GetSetDescriptorType,
    WrapperDescriptorType,
    MethodDescriptorType,
    ClassMethodDescriptorType,
)


def of_function(function: FunctionType) -> Iterator[Any]:
    compiled = vars(function).get("_torchdynamo_orig_callable")
    if compiled is not None:
        yield compiled
        return
    yield from (function.__code__, function.__defaults__, function.__kwdefaults__)
    assigned = _stored(function.__code__, "STORE_GLOBAL", "STORE_DEREF")
    yield [value for name, value in _enclosed(function) if name not in assigned]
    used = sorted(_names(function.__code__) & function.__globals__.keys() - assigned)
    yield {name: function.__globals__[name] for name in used}
    own = {name: value for name, value in vars(function).items() if not name.startswith("_")}
    if own:
        yield own


def _enclosed(function: FunctionType) -> Iterator[tuple[str, Any]]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        with contextlib.suppress(ValueError):  # the variable has no value yet
            yield name, cell.cell_contents


def of_module(module: nn.Module) -> Iterator[Any]:
    if "_orig_mod" in module._modules:  # compiled
        yield module._modules["_orig_mod"]
        return
    graph = isinstance(module, torch.fx.GraphModule)
    yield module.code if graph else class_code(type(module))
    if isinstance(module, (nn.Sequential, nn.ModuleDict)):
        names = list(module._modules)
        if not all(name.isdecimal() for name in names):
            yield names
    for name, part in sorted(attributes(module).items()):
        if name in HOOKS:
            own = (hook for hook in part.values() if not (graph and _of_torch(hook)))
            part = OrderedDict(enumerate(own))  # instead of serial numbers
        elif name not in STATE and (graph or name.startswith("_") or name in MODES):
            held = isinstance(part, (Tensor, np.ndarray, nn.Module))
            part = part if held else _modules_in(part)
            if part is None:
                continue
        yield name
        yield part


def _of_torch(function: Any) -> bool:
    """Whether it comes from PyTorch, like the input checks of an exported module."""
    return isinstance(function, FunctionType) and function.__module__.split(".")[0] == "torch"


def _modules_in(container: Any) -> list[nn.Module] | None:
    """The modules in a private list, tuple or dict; its tensors may be left from a call."""
    values = container.values() if isinstance(container, dict) else container
    if not isinstance(container, (list, tuple, dict)):
        return None
    return [value for value in values if isinstance(value, nn.Module)] or None


def saved_apart(module: nn.Module) -> dict[str, Any]:
    """What the state_dict holds of this module besides its own parameters and buffers."""
    saved: dict[str, Any] = {}
    module._save_to_state_dict(saved, "", True)
    return {k: v for k, v in saved.items() if k not in module._parameters | module._buffers}


def attributes(owner: Any) -> dict[str, Any]:
    """The attributes of a module or another object, except those that a call left there."""
    found = {**(vars(owner) if hasattr(owner, "__dict__") else {}), **_slots(owner)}
    fleeting, built = _assigned(owner.__class__), False
    if isinstance(owner, nn.Module):
        # If the model was built in inference mode, that mode says nothing about a tensor.
        built = any(_of_inference(parameter) for parameter in owner.parameters())
        found["_buffers"] = {
            name: buffer
            for name, buffer in owner._buffers.items()
            if name not in fleeting & owner._non_persistent_buffers_set
            and (built or not _left_by_call(buffer))
        }
        # Weights that pruning and weight normalisation compute anew in every call.
        fleeting = fleeting.union(
            name for name in found if {f"{name}_orig", f"{name}_g"} & owner._parameters.keys()
        )
    return {
        name: value
        for name, value in found.items()
        if name not in fleeting and (built or not _left_by_call(value))
    }


def _left_by_call(value: Any) -> bool:
    return isinstance(value, Tensor) and (_of_inference(value) or value.grad_fn is not None)


def _of_inference(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.is_inference()


def slotted(kind: type) -> bool:
    return any("__slots__" in vars(base) for base in _own(kind))


def _slots(value: Any) -> dict[str, Any]:
    return {
        name: getattr(value, name)
        for base in _own(type(value))
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType) and hasattr(value, name)
    }


def _own(kind: type) -> list[type]:
    """A class and its bases, except those from PyTorch and Python."""
    return [
        base for base in kind.__mro__ if base.__module__.split(".")[0] not in ("torch", "builtins")
    ]


def class_code(kind: type) -> dict[str, Any]:
    """The methods of a class and of its own bases."""
    return {
        f"{base.__qualname__}.{name}": method
        for base in _own(kind)
        for name, method in vars(base).items()
        if isinstance(method, FunctionType)
    }


def of_class(kind: type) -> Iterator[tuple[str, Any]]:
    """Methods of every kind and all data of a class, except default values of fields."""
    for base in _own(kind):
        if base.__module__.split(".")[0] in sys.stdlib_module_names | {"numpy"}:
            continue
        fields = dataclasses.fields(base) if dataclasses.is_dataclass(base) else ()
        defaults = {field.name for field in fields}
        for name, member in vars(base).items():
            special = name.startswith("__") and name.endswith("__")
            if isinstance(member, FunctionType) or not (
                special or name in defaults or isinstance(member, DESCRIPTORS)
            ):
                yield f"{base.__qualname__}.{name}", member


@functools.cache
def _assigned(kind: type) -> frozenset[str]:
    """Attributes that calls assign or register, and those computed when first read."""
    members = dict[str, list[Any]]()
    for base in _own(kind):
        for name, member in vars(base).items():
            members.setdefault(name, []).append(member)
    found = {
        name
        for name, here in members.items()
        if any(isinstance(member, functools.cached_property) for member in here)
    }
    waiting, done = ["forward", "__call__"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        for member in members.get(name, []):
            for code in _codes(member):
                found |= _stored(code, "STORE_ATTR")
                if {"setattr", "register_buffer"} & set(code.co_names):
                    found.update(word for word in code.co_consts if isinstance(word, str))
                waiting += code.co_names
    return frozenset(found)


def _codes(member: Any) -> Iterator[CodeType]:
    """The code of a method or a property, and of the functions inside it."""
    if isinstance(member, property):
        member = member.fget
    function = inspect.unwrap(member) if callable(member) else None
    if isinstance(function, FunctionType):
        yield from _nested(function.__code__)


def _stored(code: CodeType, *how: str) -> set[str]:
    """The names that this code, and functions inside it, assign in one of these ways."""
    steps = (step for inner in _nested(code) for step in dis.get_instructions(inner))
    return {step.argval for step in steps if step.opname in how}


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _names(code: CodeType) -> set[str]:
    """The names that a function uses, and those that functions inside it use."""
    return {name for inner in _nested(code) for name in inner.co_names}
