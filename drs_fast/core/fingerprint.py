"""What a model is made of: its sha256, that of its weights, and the modules that it reaches.

A model is what it computes with: weights, buffers and the rest of its state_dict, the archive of
TorchScript, attributes, closures, and the code of functions and classes. Not counted is what a call
leaves behind: attributes that `forward` or `__call__`, or a method that they call, assigns, and
tensors made in inference mode or with a gradient's history. Nor are names, addresses, serial
numbers, private attributes but for tensors, arrays and modules, and the process's environment. A
call may leave more behind, in a list or a dict, and what no walk finds, such as a file read in
`forward`, may change: `drs_fast.run.probe` therefore goes by the weights and by what a model gives.
"""

import contextvars
import functools
import hashlib
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Collection, ItemsView, Iterator, KeysView, Mapping, ValuesView
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle

from drs_fast.core import parts, torchscript

PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))
SCRIPT = (torch.jit.ScriptModule, torch.jit.ScriptFunction, torch._C.ScriptModule)
# Serial numbers, all loggers, the environment.
OPAQUE = (logging.Logger, contextvars.ContextVar, RemovableHandle, type(os.environ))
BUILT_IN = (BuiltinFunctionType, MethodWrapperType)
SEQUENCES = (list, tuple, deque, KeysView, ValuesView, ItemsView)
LEAVES = (*PLAIN, *SCRIPT, *OPAQUE, PurePath, Tensor, ModuleType, torch.ScriptObject)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def sha256(*values: Any) -> str:
    """Hash of weights, architecture, and functions' code with all that they use; not of names.

    What a function uses from an imported module counts only by the module's name.
    """
    return _digest(_reached(values, {}))


def weights(*values: Any, changing: Collection[int] = ()) -> str:
    """The sha256 of all modules' state_dicts, TorchScript archives and packed weights.

    changing: ids of tensors in the state_dicts that calls change, which are left out.
    """
    return sha256(*(sorted(_weights(value, changing)) for value in values))


def _weights(value: Any, changing: Collection[int]) -> Iterator[str]:
    kinds = (nn.Module, *SCRIPT, torch.ScriptObject)
    found = [part for part in _reached(value, {}) if isinstance(part, kinds)]
    outer = [part for part in found if isinstance(part, nn.Module) and not isinstance(part, SCRIPT)]
    inner = {id(part) for module in outer for part in module.modules() if part is not module}
    for part in found:
        if not isinstance(part, nn.Module) or isinstance(part, SCRIPT):
            yield sha256(part)
        elif id(part) not in inner:
            state = part.state_dict(keep_vars=True).items()
            yield sha256({_named(k): held for k, held in state if id(held) not in changing})


def _named(key: str) -> str:
    """As it would be named without torch.compile."""
    return key.replace("_orig_mod.", "")


def reached(*values: Any) -> Iterator[Any]:
    """All parts of these callables, as `sha256` walks through them."""
    return _reached(values, {})


def modules(*values: Any) -> Iterator[nn.Module]:
    """The modules that these callables use, including those in wrappers and closures."""
    return (value for value in reached(*values) if isinstance(value, nn.Module))


def _digest(values: Iterator[Any]) -> str:
    digest = hashlib.sha256()
    for value in values:
        for piece in _bytes(value):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    return digest.hexdigest()


def _reached(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """All parts of the value, then parts of the classes met that have not come up yet."""
    yield from _walk(value, seen)
    done = set[type]()
    while True:
        met = [part if isinstance(part, type) else type(part) for part in seen.values()]
        kinds = [kind for kind in dict.fromkeys(met) if kind not in done]
        if not kinds:
            return
        for kind in kinds:
            done.add(kind)
            for name, member in parts.of_class(kind):
                if id(member) not in seen:
                    yield from _walk(name, seen)
                    yield from _walk(member, seen)


def _walk(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The value and its parts, depth first, however deep they are."""
    ahead = [iter((value,))]
    while ahead:
        for part in ahead[-1]:
            if not isinstance(part, PLAIN):
                if id(part) in seen:
                    continue
                seen[id(part)] = part  # kept alive, so that no other object takes its id
            yield part
            ahead.append(_parts(part, seen))
            break
        else:
            ahead.pop()


def _bytes(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, SCRIPT):
        yield b"TorchScript"
        yield from torchscript.pieces(value)
        return
    yield type(value).__qualname__.encode()
    if isinstance(value, OPAQUE) or _of_process(value):
        return
    if isinstance(value, PLAIN):
        yield repr(value).encode()
    elif isinstance(value, Tensor):
        within = _inner(value)
        yield from _of_tensor(value) if within is None else (sha256(*within).encode(),)
    elif isinstance(value, np.ndarray):
        yield from _of_array(value)
    elif isinstance(value, CodeType):
        yield value.co_code
    elif isinstance(value, (ModuleType, BuiltinFunctionType, type)):
        yield value.__name__.encode()
    elif isinstance(value, memoryview):
        yield value.tobytes()
    elif isinstance(value, PurePath):  # what else it has are caches, one of the process's hashes
        yield str(value).encode()
    elif isinstance(value, (Mapping, *SEQUENCES, set, frozenset)):
        yield str(len(value)).encode()
    elif isinstance(value, torch.ScriptObject):
        yield sha256(value.__getstate__()).encode()
    elif isinstance(value, nn.Module):
        saved = parts.saved_apart(value)
        if saved:
            yield sha256(saved).encode()
    elif not (hasattr(value, "__dict__") or parts.slotted(type(value))):
        yield ADDRESS.sub("", repr(value)).encode()


def _of_process(value: Any) -> bool:
    """Whether it belongs to the process, whoever imports it: it is no data of a model."""
    return value is sys.modules or value is sys.path or value is sys.argv


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[Any]:
    if isinstance(value, BUILT_IN):
        if not isinstance(value.__self__, (ModuleType, type, type(None))):
            yield value.__self__
    elif isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            yield value.ravel().tolist()
    elif isinstance(value, LEAVES) or _of_process(value):
        return
    elif isinstance(value, nn.Module):
        yield from parts.of_module(value)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, (MethodType, staticmethod, classmethod)):
        yield value.__func__
        if isinstance(value, MethodType):
            yield value.__self__
    elif isinstance(value, torch._C.ScriptMethod):
        yield value.owner
    elif isinstance(value, property):
        yield value.fget
    elif isinstance(value, FunctionType):
        yield from parts.of_function(value)
    elif isinstance(value, CodeType):
        yield from (value.co_names, value.co_consts)
    elif isinstance(value, Mapping):
        for key in _in_order(value, seen):
            yield key
            yield value[key]
    elif isinstance(value, (set, frozenset)):
        yield from _in_order(value, seen)
    elif isinstance(value, SEQUENCES):
        yield from value
    elif not isinstance(value, type) and (hasattr(value, "__dict__") or parts.slotted(type(value))):
        yield parts.class_code(type(value))
        yield parts.attributes(value)


def _in_order(values: Any, seen: dict[int, Any]) -> list[Any]:
    """Sorted by content, because reprs contain addresses, and nested sets come in any order."""

    def key(value: Any) -> str:
        return repr(value) if isinstance(value, PLAIN) else _digest(_walk(value, dict(seen)))

    return sorted(values, key=key) if len(values) > 1 else list(values)


def _of_tensor(tensor: Tensor) -> Iterator[bytes | memoryview]:
    """Type, shape and numbers, on any device; of a tensor without numbers, what there is."""
    if is_lazy(tensor):
        yield b"lazy"
        return
    yield f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    if tensor.is_meta:
        yield b"meta"
    else:
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data


def _inner(tensor: Tensor) -> list[Any] | None:
    """The parts of a tensor that is not one block of numbers: other tensors and their meaning."""
    if is_lazy(tensor) or tensor.is_meta:
        return None
    tensor = tensor.detach()
    if is_traceable_wrapper_subclass(tensor):
        names, meaning = tensor.__tensor_flatten__()
        return [*(getattr(tensor, name) for name in names), meaning]
    if tensor.is_nested:
        return list(tensor.unbind())
    if tensor.is_quantized:
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            return [tensor.int_repr(), tensor.q_scale(), tensor.q_zero_point()]
        scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        return [tensor.int_repr(), scales, zeros, tensor.q_per_channel_axis()]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.shape, tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.shape, tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.shape, tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.to_dense()] if tensor.is_mkldnn else None


def _of_array(array: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """Type, shape and numbers; for an array of objects, no addresses."""
    yield f"{array.dtype} {array.shape}".encode()
    if not array.dtype.hasobject:
        yield array.tobytes()
