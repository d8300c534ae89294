"""Numbers that a model has learnt, and no state_dict holds."""

import functools
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import numpy as np
from torch import Tensor, nn

from drs_fast.core import fingerprint, parts


def loose(*values: Any) -> list[Tensor | np.ndarray[Any, Any]]:
    """Tensors and arrays in closures, attributes, globals, classes and other buffers.

    Left out are attributes that a call made, and what lists and dicts hold, because calls fill
    these.
    """
    reached = list(fingerprint.reached(*values))
    kinds = dict.fromkeys(part if isinstance(part, type) else type(part) for part in reached)
    held = [
        *(value for part in reached for value in _held(part)),
        *(member for kind in kinds for _, member in parts.of_class(kind)),
    ]
    pieces = (piece for value in held for piece in (value if type(value) is tuple else (value,)))
    found = {id(piece): piece for piece in pieces if isinstance(piece, (Tensor, np.ndarray))}
    saved = {id(tensor) for part in reached for tensor in _saved(part)}
    return [piece for key, piece in found.items() if key not in saved]


def _saved(part: Any) -> Iterator[Tensor | None]:
    """What the state_dict holds of a module itself."""
    if isinstance(part, nn.Module) and not isinstance(part, fingerprint.SCRIPT):
        yield from part._parameters.values()
        for name, buffer in part._buffers.items():
            if name not in part._non_persistent_buffers_set:
                yield buffer


def _held(part: Any) -> Iterator[Any]:
    """What a module, a function or an object holds itself."""
    if isinstance(part, fingerprint.SCRIPT):
        return
    if isinstance(part, nn.Module):
        own = parts.attributes(part)
        yield from (*own.values(), *own["_buffers"].values())
    elif isinstance(part, functools.partial):
        yield from (*part.args, *part.keywords.values())
    elif isinstance(part, FunctionType):
        for group in parts.of_function(part):
            if isinstance(group, dict):
                yield from group.values()
            elif isinstance(group, (list, tuple)):
                yield from group
    elif type(part).__module__.split(".")[0] not in ("builtins", "torch", "numpy"):
        yield from parts.attributes(part).values()
