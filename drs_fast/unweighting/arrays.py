"""NumPy, PyTorch and other arrays: read as tensors, and answered in their own kind."""

import sys
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import dense, plain, words_of
from drs_fast.ops.checks import DTYPES

KINDS = "a NumPy, PyTorch, JAX or CuPy array"


@runtime_checkable
class Shared(Protocol):
    """An array of any library, whose memory others may read by DLPack."""

    shape: tuple[int, ...]

    def __dlpack__(self, *given: Any, **named: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...

    def __getitem__(self, index: Any) -> Any: ...


@runtime_checkable
class Named(Protocol):
    """An array that knows the library it is from."""

    def __array_namespace__(self) -> Any: ...


def log_weights(given: Any) -> Tensor:
    """The log weights as a contiguous tensor (n,), in the same memory where that can be."""
    if isinstance(given, np.ma.MaskedArray):
        raise ValueError("log_weight must have a number in every row, got a masked array; fill it")
    if isinstance(given, np.ndarray):
        found = of_numpy(given)
    elif isinstance(given, Tensor):
        found = plain("log_weight", given)
    elif isinstance(given, Shared):
        found = from_dlpack(given)
    else:
        raise ValueError(f"log_weight must be {KINDS}, got {_described(given)}")
    if found.ndim != 1 or found.dtype not in DTYPES:
        raise ValueError(
            "log_weight must be (n,) float16, bfloat16, float32 or float64, got "
            f"{_described(given)}"
        )
    return dense(found)


def of_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of an array of floating-point numbers (n,); of any other array, (0,) bool."""
    if array.ndim == 1 and array.dtype.name == "bfloat16":  # of the package ml_dtypes
        return torch.from_numpy(array.astype(np.float32))
    if array.ndim != 1 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        return torch.empty(0, dtype=torch.bool)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    # PyTorch warns about arrays that cannot be written to.
    return torch.from_numpy(native if native.flags.writeable else native.copy())


def check_rows(name: str, array: Any, like: Shared) -> None:
    """ValueError unless it is an array with as many rows, on the same device."""
    if not isinstance(array, Shared):
        raise ValueError(f"{name} must be {KINDS}, got {_described(array)}")
    if isinstance(array, Tensor):
        plain(name, array)
    n = like.shape[0]
    if tuple(array.shape[:1]) != (n,):
        raise ValueError(f"{name} must have {n} rows, as log_weight has, got {_described(array)}")
    if array.__dlpack_device__() != like.__dlpack_device__():
        raise ValueError(f"{name} must be on the device of log_weight; move one to the other")


def taken(array: Any, ids: Tensor) -> Any:
    """The rows of these numbers, in the array's own kind."""
    if isinstance(array, Tensor):
        return words_of(plain("array", array).detach())[ids].view(array.dtype)
    return array[alike(array, ids)]


def alike(array: Any, tensor: Tensor) -> Any:
    """The tensor in the array's kind, in the same memory."""
    if isinstance(array, Tensor):
        return tensor
    if isinstance(array, np.ndarray):
        return tensor.numpy()
    if isinstance(array, Named):
        return array.__array_namespace__().from_dlpack(tensor)
    library = type(array).__module__.partition(".")[0]  # older versions of CuPy
    return sys.modules[library].from_dlpack(tensor)


def _described(value: Any) -> str:
    if isinstance(value, Tensor) or not isinstance(value, Shared):
        return describe(value)
    dtype = f" {value.dtype}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__} {tuple(value.shape)}{dtype}"
