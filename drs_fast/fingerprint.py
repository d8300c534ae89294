"""The identity of a model: a hash of all that turns latents into logits."""

import functools
import hashlib
import inspect
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor

PLAIN = (str, bytes, int, float, complex, bool, type(None))


def sha256(*values: Any) -> str:
    """Of weights, architecture, and functions' source with what they close over; not of names."""
    digest = hashlib.sha256()
    for piece in _pieces(values, {}):
        digest.update(piece)
        digest.update(b"\0")
    return digest.hexdigest()


def _pieces(value: Any, seen: dict[int, Any]) -> Iterator[bytes]:
    if isinstance(value, PLAIN):
        yield repr(value).encode()
    elif id(value) in seen:
        return
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        seen[id(value)] = value  # kept alive, lest another object takes its id
        yield type(value).__qualname__.encode()
        for part in _parts(value):
            yield from _pieces(part, seen)


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, torch.nn.Module):
        yield repr(value)
        yield value.state_dict()
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, FunctionType):
        yield _source(value)
        used = inspect.getclosurevars(value)
        for name, thing in sorted({**used.globals, **used.nonlocals}.items()):
            yield name
            yield thing
        yield from (value.__defaults__, value.__kwdefaults__)
    elif isinstance(value, (ModuleType, BuiltinFunctionType, type)):
        yield value.__name__
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield key
            yield value[key]
    elif isinstance(value, (list, tuple)):
        yield from value
    else:
        yield vars(value) if hasattr(value, "__dict__") else repr(value)


def _source(function: FunctionType) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return function.__qualname__ + function.__code__.co_code.hex()
