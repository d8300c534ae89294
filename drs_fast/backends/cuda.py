"""The ops in CUDA C++ (csrc/cuda/): passes addresses of checked tensors and a stream to kernels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drs_fast.backends import extensions, reference, workspaces
from drs_fast.backends.reference import Number, Threshold
from drs_fast.core import Rng
from drs_fast.core.compacted import COUNT_MASK, TILE, Compacted, Ring

_cuda, _reason = extensions.loaded("_cuda", "CUDA extension", "nvcc")

KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LARGEST_BATCH = COUNT_MASK  # a tile's count and flag share a word


def refuses(device: torch.device) -> str | None:
    """Why this backend cannot run on the device; None if it can."""
    if device.type != "cuda":
        return f"needs CUDA tensors, not those on {device.type}"
    if _cuda is None:
        return _reason
    count, error = _cuda.devices()
    return None if count else f"the CUDA runtime finds no GPU ({error}); update the driver"


def uniform(
    rng: Rng, ids: Tensor | None, n: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty(n, dtype=torch.float64, device=device)
    if n:
        _extension().uniform(_where(out), _rows(rng, ids), stream, draw, n, out.data_ptr())
    return out


def words(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty((n, d), dtype=torch.int64, device=device)
    if out.numel():
        _extension().words(_where(out), _rows(rng, ids), stream, draw, n, d, out.data_ptr())
    return out


def normal(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    out = torch.empty((n, d), dtype=torch.float32, device=device)
    if out.numel():
        _extension().normal(_where(out), _rows(rng, ids), stream, draw, n, d, out.data_ptr())
    return out


def probability(logit: Tensor, threshold: Threshold) -> Tensor:
    out = torch.empty(len(logit), dtype=torch.float64, device=logit.device)
    if len(logit):
        wide = _wide(logit)
        _extension().probability(_where(out), _logits(wide), _threshold(threshold), out.data_ptr())
    return out


def weight(logit: Tensor, threshold: Threshold) -> Tensor:
    out = torch.empty(len(logit), dtype=torch.float64, device=logit.device)
    if len(logit):
        wide = _wide(logit)
        _extension().weight(_where(out), _logits(wide), _threshold(threshold), out.data_ptr())
    return out


def accept(logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold) -> Tensor:
    out = torch.empty(len(logit), dtype=torch.bool, device=logit.device)
    if len(logit):
        wide = _wide(logit)
        _extension().accept(
            _where(out), _logits(wide), _rows(rng, ids), _threshold(threshold), out.data_ptr()
        )
    return out


def accept_compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted,
) -> Compacted:
    _compact(logit, rows, rng, ids, threshold, out)
    return out


def accept_latents(
    logit: Tensor, rng: Rng, ids: Tensor | None, threshold: Threshold, out: Compacted
) -> Compacted:
    (z,) = out.rows
    _compact(logit, (), rng, ids, threshold, replace(out, rows=()), z)
    return out


def accept_append(
    logit: Tensor, rows: tuple[Tensor, ...], ids: Tensor | None, threshold: Threshold, ring: Ring
) -> Ring:
    _compact(logit, rows, Rng(ring.seed), ids, threshold, ring)
    return ring


def appending(threshold: Threshold, ring: Ring) -> Callable[[Tensor, tuple[Tensor, ...]], Ring]:
    """accept_append for this threshold and ring."""
    return lambda logit, rows: accept_append(logit, rows, None, threshold, ring)


def largest(logit: Tensor) -> Tensor:
    return reference.largest(logit)


def order_statistic(logit: Tensor, q: float) -> Tensor:
    return reference.order_statistic(logit, q)


def _compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted | Ring,
    z: Tensor | None = None,
) -> None:
    n, state, counts = len(logit), 0, [0, 0, 0]
    if n > LARGEST_BATCH or len(rows) > _extension().MAX_TENSORS:
        raise ValueError(
            f"the CUDA backend takes up to {LARGEST_BATCH} rows of up to "
            f"{_extension().MAX_TENSORS} tensors, got {n} of {len(rows)}; split them"
        )
    if isinstance(out, Ring):
        state, workspace, room = out.state.data_ptr(), out.workspace, out.batch
    else:
        scalars = (out.count, out.invalid, out.above)
        if n == 0:
            for scalar in scalars:
                scalar.zero_()
            return
        counts = [scalar.data_ptr() for scalar in scalars]
        workspace, room = workspaces.of(logit.device, n)
    if n:
        tensors = [_tensor(source, target) for source, target in zip(rows, out.rows, strict=True)]
        _extension().accept_compact(
            _where(logit), _logits(logit), _rows(rng, ids), _threshold(threshold),
            [tensor for tensor in tensors if tensor[2]],
            out.ids.data_ptr(), out.logit.data_ptr(), *_latents(z), len(out.ids),
            tuple(counts), state, workspace.data_ptr(), -(-room // TILE),
        )  # fmt: skip


def _extension() -> Any:
    return _cuda


def _where(tensor: Tensor) -> tuple[int, int]:
    index = tensor.device.index
    return index, torch.cuda.current_stream(index).cuda_stream


def _rows(rng: Rng, ids: Tensor | None) -> tuple[int, int, int]:
    return rng.seed, rng.row, 0 if ids is None else ids.data_ptr()


def _wide(logit: Tensor) -> Tensor:
    return logit if logit.dtype in KINDS else logit.float()


def _logits(logit: Tensor) -> tuple[int, int, int]:
    return logit.data_ptr(), KINDS.index(logit.dtype), len(logit)


def _threshold(threshold: Threshold) -> tuple[Any, ...]:
    log_m, gamma, s = threshold
    return *_parameter(log_m), *_parameter(gamma), s


def _parameter(value: Number) -> tuple[int, bool, float]:
    """The address, whether it has one value per row, and the number to use without an address."""
    if isinstance(value, float):
        return 0, False, value
    return value.data_ptr(), value.ndim > 0, 0.0


def _tensor(source: Tensor, target: Tensor) -> tuple[int, int, int, int]:
    size = source.element_size()
    row = size * (target[:1].numel() if len(target) else 0)
    stride = size * source.stride(0) if len(source) > 1 else row
    return source.data_ptr(), target.data_ptr(), row, stride


def _latents(z: Tensor | None) -> tuple[int, int]:
    return (0, 0) if z is None or z.shape[1] == 0 else (z.data_ptr(), z.shape[1])
