"""The arithmetic that G and D run in."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.torch_version import TorchVersion

from drs_fast.core.arguments import one_of

FP32, TF32, BF16, FP16 = "fp32", "tf32", "bf16", "fp16"
PRECISIONS = (FP32, TF32, BF16, FP16)
AUTOCAST = {BF16: torch.bfloat16, FP16: torch.float16}
OLDEST_TF32 = 8  # compute capability of the first GPUs that have it

NAMED = TorchVersion(torch.__version__) >= "2.9"  # switches have fp32_precision, not allow_tf32
_lock = threading.RLock()


def check(precision: Any, device: torch.device) -> None:
    """ValueError unless it is a precision that the device has."""
    one_of("precision", precision, PRECISIONS)
    if precision == TF32 and not _has_tf32(device):
        raise ValueError(
            "precision='tf32' needs an NVIDIA GPU of compute capability 8.0 or later, got "
            f"{device}; use 'fp32'"
        )


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= OLDEST_TF32


def nearest(precision: str, device: torch.device) -> str:
    """The precision, or fp32 where the device lacks TF32."""
    return precision if precision != TF32 or _has_tf32(device) else FP32


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Within the block PyTorch multiplies float32 numbers on the device as the precision says.

    As it starts, PyTorch allows TF32 in convolutions on a GPU, which rounds factors to 11 bits.
    Here that takes "tf32"; otherwise float32 is IEEE float32, whatever the process has set.
    """
    wanted = "tf32" if precision == TF32 else "ieee"
    switches = _switches(device.type)
    if wanted == "ieee" and all(_read(switch) in ("ieee", "none") for switch in switches):
        yield
        return
    with _lock:  # else another thread could put back its switches within the block
        before = [_read(switch) for switch in switches]
        try:
            for switch in switches:
                _write(switch, wanted)
            yield
        finally:
            for switch, value in zip(switches, before, strict=True):
                _write(switch, value)


def _switches(kind: str) -> list[Any]:
    """What says how the devices of this kind multiply float32 numbers."""
    backends: Any = torch.backends
    if kind == "cuda":
        by_cudnn = backends.cudnn
        return [backends.cuda.matmul, *((by_cudnn.conv, by_cudnn.rnn) if NAMED else (by_cudnn,))]
    by_mkldnn = backends.mkldnn
    return [by_mkldnn.matmul, by_mkldnn.conv, by_mkldnn.rnn] if NAMED and kind == "cpu" else []


def _read(switch: Any) -> str:
    if NAMED:
        return str(switch.fp32_precision)
    return "tf32" if switch.allow_tf32 else "ieee"


def _write(switch: Any, value: str) -> None:
    if NAMED:
        switch.fp32_precision = value
    else:
        switch.allow_tf32 = value == "tf32"
