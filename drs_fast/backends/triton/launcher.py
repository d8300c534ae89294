"""Launches kernels: the first of its kind by Triton, the next ones by what that one compiled.

Triton names the type and the alignment of every argument at every launch, in Python. Here they
are compared with those of earlier launches, and the compiled kernel gets addresses and numbers.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNED = 16  # bytes; for an address that is a multiple Triton compiles wider loads

_compiled: dict[tuple[Any, ...], tuple[Any, list[Any]]] = {}


class Words(NamedTuple):
    """A tensor's memory from an element on, as numbers of another dtype."""

    tensor: Tensor
    dtype: torch.dtype
    start: int = 0


class Launched(NamedTuple):
    """What starts the compiled kernel on the current stream, and what it was given."""

    run: Callable[..., None]
    arguments: list[Any]


@functools.cache
def installed() -> Any:
    """The module triton; ModuleNotFoundError if there is none."""
    return importlib.import_module("triton")


def launch(
    name: str,
    kernel: Any,
    device: torch.device,
    grid: tuple[int, int, int],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
) -> Launched | None:
    """Launches the kernel; None where it must be launched by Triton every time.

    constants: the compile-time parameters, which are the kernel's last, and Triton's options.
    The kernel's integers may not be specialised, because they are not compared.
    """
    if not is_current(device):
        with torch.cuda.device(device):
            return launch(name, kernel, device, grid, arguments, constants)
    kinds: list[Any] = [name, device, *constants.values()]
    values = [_value(argument, kinds) for argument in arguments]
    found = _compiled.get(key := tuple(kinds))
    if found is None:
        compiled = kernel[grid](*map(typed, arguments), **constants)
        # The interpreter compiles nothing. On AMD a tensor's size is in what Triton compares.
        if torch.version.hip is None and isinstance(compiled, installed().compiler.CompiledKernel):
            names = list(inspect.signature(kernel.fn).parameters)[len(arguments) :]
            _compiled[key] = compiled, [constants[each] for each in names]
        return None
    compiled, compile_time = found
    launched = Launched(compiled[grid], [*values, *compile_time])
    launched.run(*launched.arguments)
    return launched


def is_current(device: torch.device) -> bool:
    """Whether a launch goes to this device."""
    return device.type != "cuda" or torch.cuda.current_device() == device.index


def _value(argument: Any, kinds: list[Any]) -> Any:
    """What the compiled kernel takes; adds to kinds what the machine code depends on."""
    if type(argument) is int:
        return argument
    if argument is None or type(argument) is float:
        kinds.append(type(argument))
        return argument
    if type(argument) is tuple:
        kinds.append(len(argument))
        return tuple([_value(each, kinds) for each in argument])
    if type(argument) is Words:
        tensor, dtype, start = argument
        address = tensor.data_ptr() + start * tensor.element_size()
    else:
        address, dtype = argument.data_ptr(), argument.dtype
    kinds += dtype, address % ALIGNED == 0
    return address


def typed(argument: Any) -> Any:
    """What Triton takes."""
    if type(argument) is tuple:
        return tuple(map(typed, argument))
    if type(argument) is not Words:
        return argument
    tensor = argument.tensor[argument.start :] if argument.start else argument.tensor
    return installed().reinterpret(tensor, argument.dtype)
