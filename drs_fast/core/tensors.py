"""Checks tensors: the library takes those whose numbers lie in memory at fixed strides."""

import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor, strided
from torch.nn.parameter import Parameter, is_lazy

from drs_fast.core.arguments import describe

OWN = (Tensor, Parameter)
WHOLE = (
    torch.bool, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
STANDARD = (  # what PyTorch can make numbers of, and compute with
    *WHOLE, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.complex128,
)  # fmt: skip
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


def plain(name: str, value: Any, kind: str = "a tensor", verb: str = "be") -> Tensor:
    """The value as a plain Tensor; ValueError unless its numbers lie in memory.

    Refuses sparse, nested and quantized tensors, and those without memory, as on "meta" or in a
    traced graph. kind: what is wanted, in words. verb: "return" where `name` is a function.
    """
    # Other layouts have no address, so the common case need not ask for the layout.
    if type(value) in OWN and not (value.is_nested or value.is_quantized) and _held(value):
        return value  # type: ignore[no-any-return]
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must {verb} {kind}, got {describe(value)}{_conversion(value)}")
    fix = ", which has no memory of its own; pass a plain tensor"
    if _own_memory(value):
        if value.layout is not strided or value.is_nested or value.is_quantized:
            fix = _densifier(value)
        elif _held(own := value.as_subclass(Tensor)):
            return own
    raise ValueError(f"{name} must {verb} a dense tensor of numbers, got {describe(value)}{fix}")


def dense(tensor: Tensor) -> Tensor:
    """Contiguous, and without the flags with which views postpone a conjugation or a sign."""
    return _settled(tensor.detach()).contiguous()


def dense_words(rows: Tensor) -> Tensor:
    """`dense` for any dtype, by way of `words_of`."""
    return words_of(_settled(rows.detach())).contiguous()


def words_of(rows: Tensor) -> Tensor:
    """The same memory as integers, because PyTorch cannot index or copy some dtypes."""
    word = WORDS.get(rows.element_size())
    if word is None:
        return rows
    words = torch.empty(0, dtype=word, device=rows.device)
    return words.set_(rows.untyped_storage(), rows.storage_offset(), rows.shape, rows.stride())


def _settled(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor


def _held(tensor: Tensor) -> bool:
    try:
        return tensor.data_ptr() != 0 or (tensor.layout is strided and tensor.numel() == 0)
    except RuntimeError:  # a tensor that stands for others, as in vmap
        return False


def _own_memory(tensor: Tensor) -> bool:
    """Whether the class only renames Tensor, instead of wrapping it to compute in its own way."""
    dispatch = type(tensor).__torch_dispatch__
    return dispatch is Tensor.__torch_dispatch__ and not is_lazy(tensor)


def _conversion(value: Any) -> str:
    listed = isinstance(value, (np.ndarray, list, tuple, numbers.Number))
    return "; torch.as_tensor makes one" if listed else ""


def _densifier(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "; torch.nested.to_padded_tensor makes one"
    return f"; {'dequantize' if tensor.is_quantized else 'to_dense'}() makes one"
