"""The ops in CUDA C++ (csrc/cuda/): passes addresses of checked tensors and a stream to kernels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drs_fast.backends import extensions, workspaces
from drs_fast.backends.reference import Number, Threshold
from drs_fast.core import Rng
from drs_fast.core.compacted import COUNT_MASK, Compacted, Ring, status_words, tiling

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
    """accept_append for this threshold and ring, of which only addresses are looked up again."""
    if ring.batch > LARGEST_BATCH or len(ring.rows) > _extension().MAX_TENSORS:
        return lambda logit, rows: accept_append(logit, rows, None, threshold, ring)
    seed, capacity, words = (ring.seed, 0, 0), ring.ids.shape[0], status_words(ring.batch)
    widths = [to.nbytes // capacity for to in ring.rows]
    targets = [(to, width) for to, width in zip(ring.rows, widths, strict=True) if width]
    kind, row_bytes, run = KINDS.index(ring.logit.dtype), sum(widths), _extension().accept_compact

    def append(logit: Tensor, rows: tuple[Tensor, ...]) -> Ring:
        n = logit.shape[0]
        if n == 0:
            return ring
        if len(rows) != len(targets):
            rows = tuple([row for row, width in zip(rows, widths, strict=True) if width])
        tensors = [
            (workspaces.address(row), to.data_ptr(), width, width)
            for row, (to, width) in zip(rows, targets, strict=True)
        ]
        run(
            _where(logit), (workspaces.address(logit), kind, n), seed, _threshold(threshold),
            tensors, ring.ids.data_ptr(), ring.logit.data_ptr(), 0, 0, capacity, (0, 0, 0),
            ring.state.data_ptr(), ring.workspace.data_ptr(), words, *tiling(n, row_bytes),
        )  # fmt: skip
        return ring

    return append


def largest(logit: Tensor) -> Tensor:
    out = torch.empty((), dtype=torch.float64, device=logit.device)
    words = workspaces.zero(logit.device, _extension().ORDER_WORDS)
    _extension().largest(_where(out), _logits(logit), out.data_ptr(), words.data_ptr())
    return out


def quantile_gamma(logit: Tensor, q: float, threshold: Threshold) -> Tensor:
    out = torch.empty((), dtype=torch.float64, device=logit.device)
    words = workspaces.zero(logit.device, _extension().ORDER_WORDS)
    _extension().quantile_gamma(
        _where(out), _logits(logit), q, _threshold(threshold), out.data_ptr(), words.data_ptr()
    )
    return out


def _compact(
    logit: Tensor,
    rows: tuple[Tensor, ...],
    rng: Rng,
    ids: Tensor | None,
    threshold: Threshold,
    out: Compacted | Ring,
    z: Tensor | None = None,
) -> None:
    n, state, counts, extension = logit.shape[0], 0, (0, 0, 0), _extension()
    if n > LARGEST_BATCH or len(rows) > extension.MAX_TENSORS:
        raise ValueError(
            f"the CUDA backend takes up to {LARGEST_BATCH} rows of up to "
            f"{extension.MAX_TENSORS} tensors, got {n} of {len(rows)}; split them"
        )
    if isinstance(out, Ring):
        state, workspace, room = out.state.data_ptr(), out.workspace, out.batch
    else:
        if n == 0:
            for scalar in (out.count, out.invalid, out.above):
                scalar.zero_()
            return
        counts = (out.count.data_ptr(), out.invalid.data_ptr(), out.above.data_ptr())
        workspace, room = workspaces.of(logit.device, n)
    if n:
        tensors = [
            _tensor(source, target) for source, target in zip(rows, out.rows, strict=True)
            if target.nbytes
        ]  # fmt: skip
        latents, d = _latents(z)
        tile, parts = tiling(n, sum([tensor[2] for tensor in tensors]) + 4 * d)
        extension.accept_compact(
            _where(logit), _logits(logit), _rows(rng, ids), _threshold(threshold), tensors,
            out.ids.data_ptr(), out.logit.data_ptr(), latents, d, out.ids.shape[0],
            counts, state, workspace.data_ptr(), status_words(room), tile, parts,
        )  # fmt: skip


def _extension() -> Any:
    return _cuda


def _where(tensor: Tensor) -> tuple[int, int]:
    index = tensor.device.index
    return index, workspaces.current_stream(index)


def _rows(rng: Rng, ids: Tensor | None) -> tuple[int, int, int]:
    return rng.seed, rng.row, 0 if ids is None else ids.data_ptr()


def _wide(logit: Tensor) -> Tensor:
    return logit if logit.dtype in KINDS else logit.float()


def _logits(logit: Tensor) -> tuple[int, int, int]:
    return logit.data_ptr(), KINDS.index(logit.dtype), logit.shape[0]


def _threshold(threshold: Threshold) -> tuple[Any, ...]:
    log_m, gamma, s = threshold
    return *_parameter(log_m), *_parameter(gamma), s


def _parameter(value: Number) -> tuple[int, bool, float]:
    """The address, whether it has one value per row, and the number to use without an address."""
    if isinstance(value, float):
        return 0, False, value
    return value.data_ptr(), value.ndim > 0, 0.0


def _tensor(source: Tensor, target: Tensor) -> tuple[int, int, int, int]:
    row = target.nbytes // target.shape[0]
    stride = source.element_size() * source.stride(0) if source.shape[0] > 1 else row
    return source.data_ptr(), target.data_ptr(), row, stride


def _latents(z: Tensor | None) -> tuple[int, int]:
    return (0, 0) if z is None or z.shape[1] == 0 else (z.data_ptr(), z.shape[1])
