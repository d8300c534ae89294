"""Checks single arguments and describes wrong ones."""

import functools
import math
import numbers
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

HUGE = 10**100  # larger than any limit here


def integer(name: str, value: Any, least: int, below: int | None = None) -> int:
    """The value as an int; ValueError unless an integer (NumPy's too) in [least, below = 2^k)."""
    if type(value) is int and value >= least and (below is None or value < below):
        return value
    try:
        # An int is returned unchanged, so that torch.compile may keep it symbolic.
        number = value if isinstance(value, int) else operator.index(value)
    except TypeError:
        number = least - 1  # refused below
    if isinstance(value, bool) or number < least or (below is not None and number >= below):
        bound = f">= {least}" if below is None else f"in [{least}, 2^{below.bit_length() - 1})"
        raise ValueError(f"{name} must be an integer {bound}, got {describe(value)}")
    return number


def number(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float; ValueError unless it is a finite number in [low, high]."""
    if not _finite(value) or not low <= value <= high:
        bound = f" in [{low:g}, {high:g}]"
        if math.isinf(high):
            bound = "" if math.isinf(low) else f" >= {low:g}"
        raise ValueError(f"{name} must be a finite number{bound}, got {describe(value)}")
    return float(value)


def _finite(value: Any) -> bool:
    if type(value) is float:  # the common case, by far the quickest answer
        return math.isfinite(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer or fraction too large for a float
        return False


def positive(name: str, value: Any, high: float = math.inf) -> float:
    """The value as a float; ValueError unless it is finite and in (0, high]."""
    try:
        real = number(name, value, 0.0, high)
    except ValueError:
        real = 0.0
    if real == 0.0:
        bound = "" if math.isinf(high) else f" and at most {high:g}"
        raise ValueError(f"{name} must be greater than 0{bound}, got {describe(value)}")
    return real


def flag(name: str, value: Any) -> bool:
    """The value as a bool; ValueError unless it is one, NumPy's included."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {describe(value)}")
    return bool(value)


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """ValueError unless the value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {describe(value)}")


def usable(device: Any) -> torch.device:
    """The device; ValueError unless tensors can be computed there."""
    try:
        where = device if isinstance(device, torch.device) else torch.device(device)
    except (OverflowError, RuntimeError, TypeError, ValueError):
        raise ValueError(f"device must be one like 'cpu' or 'cuda', got {device!r}") from None
    if where.type == "meta":
        raise ValueError("device must hold numbers, got 'meta'; load the weights first")
    if where.type != "cpu":
        _try(where)
    return where


@functools.cache  # what works once goes on to work; errors are not kept
def _try(device: torch.device) -> None:
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device}, but torch finds no CUDA device")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # of any backend that this PyTorch was built without
        reason = str(error).partition(". ")[0]  # PyTorch goes on for a hundred lines
        raise ValueError(f"device is {device}, which cannot be used here: {reason}") from None


def told(error: BaseException) -> str:
    """An error's type and message; the type alone if its message cannot be read."""
    try:
        message = str(error)
    except Exception:  # a class of the user's
        return f"{type(error).__name__}, whose message cannot be read"
    return f"{type(error).__name__}: {message}"


def describe(value: Any) -> str:
    """A tensor's shape, dtype and what is unusual about it; a number or text; or else a type."""
    if isinstance(value, int) and abs(value) >= HUGE:
        return f"an integer of {value.bit_length()} bits"  # which Python may refuse to write out
    if not isinstance(value, Tensor):
        return repr(value) if isinstance(value, (str, numbers.Number)) else type(value).__name__
    if value.is_nested:  # it has no shape
        return f"a nested {value.dtype} tensor"
    if is_lazy(value):
        return f"{type(value).__name__}, which has no shape yet"
    parts = [str(tuple(value.shape)), str(value.dtype).removeprefix("torch.")]
    if type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        parts.append(type(value).__name__)
    if value.device.type != "cpu":
        parts.append(f"on {value.device}")
    if value.layout is not torch.strided:
        parts.append(f"with layout {value.layout}")
    elif not value.is_contiguous():
        parts.append(f"with strides {value.stride()}")
    return " ".join(parts)
