"""Turns what an op is given into what a kernel takes."""

import struct
from typing import Any

import torch
from torch import Tensor

from drs_fast.backends.reference import Number, Threshold
from drs_fast.backends.triton.launcher import Words


def as_words(rows: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> tuple[Any, Any, Any]:
    """The same memory as words of up to 4 bytes; (words per row, words between rows, columns)."""
    found = []
    for source, target in zip(rows, targets, strict=True):
        n, capacity = source.shape[0], target.shape[0]
        width = target.nbytes // capacity if capacity else 0
        stride = source.element_size() * source.stride(0) if n > 1 else width
        if width == 0:
            continue
        common = source.data_ptr() | target.data_ptr() | width | stride
        word = next(bytes for bytes in (4, 2, 1) if common % bytes == 0)
        dtype = {4: torch.int32, 2: torch.int16, 1: torch.uint8}[word]
        columns = min(power_of_two(width // word), 1024)
        found.append(
            (Words(source, dtype), Words(target, dtype), (width // word, stride // word, columns))
        )
    sources, targets, layout = zip(*found, strict=True) if found else ((), (), ())
    return sources, targets, layout


def tensors(threshold: Threshold) -> list[Tensor | None]:
    """log_m and gamma where they are tensors."""
    return [None if isinstance(value, float) else value for value in threshold[:2]]


def bits(threshold: Threshold) -> list[int]:
    """The numbers as integers, because Triton turns a float into float32."""
    numbers = [value if isinstance(value, float) else 0.0 for value in threshold]
    return list(struct.unpack(f"{len(numbers)}q", struct.pack(f"{len(numbers)}d", *numbers)))


def forms(threshold: Threshold) -> dict[str, Any]:
    """Whether log_m and gamma are numbers, tensors, or tensors of one a row."""
    return {"LOG_M": _form(threshold.log_m), "GAMMA": _form(threshold.gamma)}


def _form(value: Number) -> str:
    if isinstance(value, float):
        return "number"
    return "one a row" if value.ndim else "tensor"


def power_of_two(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()
