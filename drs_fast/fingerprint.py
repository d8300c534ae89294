"""What a model is made of: its sha256, and the modules that it reaches."""

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))
STATE = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def sha256(*values: Any) -> str:
    """Of weights, architecture, and functions' code with all that they use; not of names.

    What a function finds in an imported module counts by the module's name alone.
    """
    digest = hashlib.sha256()
    for value in _walk(values, {}):
        for piece in _bytes(value):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    return digest.hexdigest()


def modules(*values: Any) -> Iterator[torch.nn.Module]:
    """The modules that these callables use, in wrappers and closures too."""
    return (value for value in _walk(values, {}) if isinstance(value, torch.nn.Module))


def _walk(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    if not isinstance(value, PLAIN):
        if id(value) in seen:
            return
        seen[id(value)] = value  # kept alive, lest another object takes its id
    yield value
    for part in _parts(value):
        yield from _walk(part, seen)


def _bytes(value: Any) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if isinstance(value, PLAIN):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield flat.view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, CodeType):
        yield value.co_code
    elif isinstance(value, (ModuleType, BuiltinFunctionType, type)):
        yield value.__name__.encode()
    elif isinstance(value, (Mapping, list, tuple, set, frozenset)):
        yield str(len(value)).encode()
    elif not hasattr(value, "__dict__"):
        yield ADDRESS.sub("", repr(value)).encode()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, (*PLAIN, Tensor, np.ndarray, ModuleType, BuiltinFunctionType)):
        return
    if isinstance(value, torch.nn.Module):
        yield _class_code(type(value))
        for name, part in sorted(vars(value).items()):
            if name in STATE or not (name.startswith("_") or name == "training"):
                yield name
                yield part
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield [cell.cell_contents for cell in value.__closure__ or ()]
        used = sorted(_names(value.__code__) & value.__globals__.keys())
        yield {name: value.__globals__[name] for name in used}
    elif isinstance(value, CodeType):
        yield from (value.co_names, value.co_consts)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield key
            yield value[key]
    elif isinstance(value, (set, frozenset)):
        yield from sorted(value, key=repr)
    elif isinstance(value, (list, tuple)):
        yield from value
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield _class_code(type(value))
        yield vars(value)


def _names(code: CodeType) -> set[str]:
    """The names that a function uses, and those that functions inside it use."""
    inner = (_names(const) for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*inner)


def _class_code(kind: type) -> dict[str, Any]:
    """The methods of a class and of its bases, but for what comes with PyTorch and Python."""
    own = [
        base for base in kind.__mro__ if base.__module__.split(".")[0] not in ("torch", "builtins")
    ]
    return {
        f"{base.__qualname__}.{name}": method
        for base in own
        for name, method in vars(base).items()
        if isinstance(method, FunctionType)
    }
