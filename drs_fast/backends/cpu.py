"""The ops in C++ (csrc/): passes addresses of checked tensors to the compiled extension."""

import importlib
from array import array
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from drs_fast.backends import reference
from drs_fast.backends.reference import Number, Threshold
from drs_fast.core import LATENT, Rng
from drs_fast.core.compacted import Compacted, Ring

_C: ModuleType | None = None
_reason: str | None = None
try:
    _C = importlib.import_module("drs_fast._C")
except ImportError as error:
    _reason = f"extension not built ({error}); reinstall where a C++17 compiler is on PATH"


def refuses(device: torch.device) -> str | None:
    """Why this backend cannot run on the device; None if it can."""
    if device.type != "cpu":
        return f"needs CPU tensors, not those on {device.type}"
    return _reason


def instruction_set() -> str:
    """The vector instructions that were detected on this processor."""
    return str(_extension().instruction_set())


def uniform(
    rng: Rng, ids: Tensor | None, n: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty(n, dtype=torch.float64, device="cpu")
    _extension().uniform(_rows(rng, ids), stream, draw, n, _threads(), _address(out))
    return out


def words(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty((n, d), dtype=torch.int64, device="cpu")
    _extension().words(_rows(rng, ids), stream, draw, n, d, _threads(), _address(out))
    return out


def normal(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty((n, d), dtype=torch.float32, device="cpu")
    _extension().normal(_rows(rng, ids), stream, draw, n, d, _threads(), _address(out))
    return out


def probability(logit: Tensor, threshold: Threshold) -> Tensor:
    wide, out = _wide(logit), torch.empty(len(logit), dtype=torch.float64, device="cpu")
    held = _held(threshold)
    _extension().probability(_logits(wide), _threshold(*held), len(wide), _threads(), _address(out))
    return out


def weight(logit: Tensor, threshold: Threshold) -> Tensor:
    wide, out = _wide(logit), torch.empty(len(logit), dtype=torch.float64, device="cpu")
    held = _held(threshold)
    _extension().weight(_logits(wide), _threshold(*held), len(wide), _threads(), _address(out))
    return out


def accept(logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold) -> Tensor:
    wide, keep = _wide(logit), torch.empty(len(logit), dtype=torch.bool, device="cpu")
    held = _held(threshold)
    _extension().accept(
        _logits(wide), _rows(rng, ids), _threshold(*held), len(wide), _threads(),
        _address(keep),
    )  # fmt: skip
    return keep


def accept_compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted,
) -> Compacted:
    wide, held = _wide(logit), _held(threshold)
    counts = _extension().accept_compact(
        _logits(wide), _rows(rng, ids), _threshold(*held), len(wide), _threads(),
        _tensors((logit, *rows), (out.logit, *out.rows)), _address(out.ids), len(out.ids),
    )  # fmt: skip
    for scalar, value in zip((out.count, out.invalid, out.above), counts, strict=True):
        scalar.fill_(value)
    return out


def accept_latents(
    logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold, out: Compacted
) -> Compacted:
    (z,) = out.rows
    accept_compact(logit, (), rng, ids, threshold, replace(out, rows=()))
    n, d = int(out.count), z.shape[1]
    _extension().normal(_rows(rng, out.ids), LATENT, 0, n, d, _threads(), _address(z))
    return out


def accept_append(
    logit: Tensor, rows: tuple[Tensor, ...], ids: Tensor | None, threshold: Threshold, ring: Ring
) -> Ring:
    wide, held = _wide(logit), _held(threshold)
    _extension().accept_append(
        _logits(wide), ring.seed, 0 if ids is None else _address(ids), _threshold(*held),
        len(wide), _threads(), _tensors((logit, *rows), (ring.logit, *ring.rows)),
        _address(ring.ids), len(ring.ids), _address(ring.state),
    )  # fmt: skip
    return ring


def walk(
    logit: Tensor, rng: Rng, ids: Tensor | None, start: Tensor | None
) -> tuple[Tensor, Tensor]:
    wide, index = _wide(logit), torch.empty(len(logit), dtype=torch.int64, device="cpu")
    count = torch.empty_like(index)
    _extension().walk(
        _logits(wide), _rows(rng, ids), 0 if start is None else _address(start), *wide.shape,
        _threads(), _address(index), _address(count),
    )  # fmt: skip
    return index, count


def select(logit: Tensor, rng: Rng, ids: Tensor | None, size: int, replace: bool) -> Tensor:
    wide, out = _wide(logit), torch.empty((len(logit), size), dtype=torch.int64, device="cpu")
    _extension().select(
        _logits(wide), _rows(rng, ids), *wide.shape, size, replace, _threads(), _address(out)
    )
    return out


def langevin(
    z: Tensor, grad: Tensor, rng: Rng, ids: Tensor | None, step: int, drift: float, scale: float
) -> Tensor:
    (n, d), out = z.shape, torch.empty_like(z)
    _extension().langevin(
        _address(z), _address(grad), _rows(rng, ids), step * -(-d // 4), n, d, drift, scale,
        _threads(), _address(out),
    )  # fmt: skip
    return out


def largest(logit: Tensor) -> Tensor:
    return reference.largest(logit)


def order_statistic(logit: Tensor, q: float) -> Tensor:
    wide = _wide(logit)
    return torch.tensor(
        _extension().order_statistic(_logits(wide), q, len(wide)), dtype=logit.dtype, device="cpu"
    )


def keep_pages(keep: bool) -> None:
    """Whether freed memory stays with the process; no effect without the extension."""
    if _C is not None:
        _C.keep_pages(keep)


def gather(rows: Tensor, indices: Tensor, out: Tensor) -> Tensor:
    """out[j] = rows[indices[j]]: the memory limit of accept_compact, for benchmarks."""
    _extension().gather(_tensor(rows, out), _address(indices), len(indices), _threads())
    return out


def _extension() -> Any:
    return _C


def _address(tensor: Tensor) -> int:
    address = tensor.data_ptr()
    if address == 0 and tensor.numel():
        raise ValueError("a tensor must hold numbers, got one without memory; pass a plain tensor")
    return address


def _threads() -> int:
    return torch.get_num_threads()


def _wide(logit: Tensor) -> Tensor:
    return logit if logit.dtype in (torch.float32, torch.float64) else logit.float()


def _logits(wide: Tensor) -> tuple[int, bool]:
    return _address(wide), wide.dtype == torch.float64


def _rows(rng: Rng, ids: Tensor | None) -> tuple[int, int, int]:
    return rng.seed, rng.row, 0 if ids is None else _address(ids)


def _held(threshold: Threshold) -> "tuple[Tensor | array[float], Tensor | array[float], float]":
    """Memory with log_m and c1, which must live as long as its address is in use; and s."""
    log_m, gamma, s = threshold
    return _memory(log_m), _memory(reference.power(gamma)), s


def _memory(value: Number) -> "Tensor | array[float]":
    return array("d", [value]) if isinstance(value, float) else value


def _threshold(
    log_m: "Tensor | array[float]", c1: "Tensor | array[float]", s: float
) -> tuple[int, bool, int, bool, float]:
    return *_parameter(log_m), *_parameter(c1), s


def _parameter(memory: "Tensor | array[float]") -> tuple[int, bool]:
    if isinstance(memory, array):
        return memory.buffer_info()[0], False
    return _address(memory), memory.ndim > 0


def _tensors(
    sources: tuple[Tensor, ...], targets: tuple[Tensor, ...]
) -> list[tuple[int, int, int, int]]:
    return [_tensor(*pair) for pair in zip(sources, targets, strict=True)]


def _tensor(source: Tensor, target: Tensor) -> tuple[int, int, int, int]:
    size = source.element_size()
    row = size * source[:1].numel() if len(source) else 0
    return _address(source), _address(target), row, size * source.stride(0)
