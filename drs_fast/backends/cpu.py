"""The ops in C++ (csrc/): passes addresses of checked tensors to the compiled extension."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from drs_fast.backends import extensions, reference
from drs_fast.backends.reference import Number, Threshold
from drs_fast.core import LATENT, Rng
from drs_fast.core.compacted import Compacted, Ring

_C, _reason = extensions.loaded("_C", "extension", "a C++17 compiler")


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
    _extension().accept_compact(
        _logits(wide), _rows(rng, ids), _threshold(*held), wide.shape[0], _threads(),
        _tensors((logit, *rows), (out.logit, *out.rows)), _address(out.ids), out.ids.shape[0],
        out.count.data_ptr(), out.invalid.data_ptr(), out.above.data_ptr(),
    )  # fmt: skip
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


def appending(threshold: Threshold, ring: Ring) -> Callable[[Tensor, tuple[Tensor, ...]], Ring]:
    """accept_append for this threshold and ring, whose addresses are looked up only once."""
    if isinstance(threshold.gamma, Tensor):  # whose c1 is made anew, from what it holds then
        return lambda logit, rows: accept_append(logit, rows, None, threshold, ring)
    held, targets = _threshold(*_held(threshold)), (ring.logit, *ring.rows)
    shapes = [(_address(to), to.nbytes // to.shape[0], to.element_size()) for to in targets]
    ids, capacity, state = _address(ring.ids), ring.ids.shape[0], _address(ring.state)
    seed, run = ring.seed, _extension().accept_append

    def append(logit: Tensor, rows: tuple[Tensor, ...]) -> Ring:
        wide, n = _wide(logit), logit.shape[0]
        tensors = [
            (_address(row), target, width, size * row.stride(0))
            for row, (target, width, size) in zip((logit, *rows), shapes, strict=True)
        ]
        run(_logits(wide), seed, 0, held, n, _threads(), tensors, ids, capacity, state)
        return ring

    return append


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


def quantile_gamma(logit: Tensor, q: float, threshold: Threshold) -> Tensor:
    return reference.score(order_statistic(logit, q), threshold.log_m, threshold.s)


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


def _held(threshold: Threshold) -> tuple[Number, Number, float]:
    """log_m, c1 and s; a tensor must live as long as its address is in use."""
    log_m, gamma, s = threshold
    return log_m, reference.power(gamma), s


def _threshold(
    log_m: Number, c1: Number, s: float
) -> tuple[int, bool, float, int, bool, float, float]:
    return *_parameter(log_m), *_parameter(c1), s


def _parameter(value: Number) -> tuple[int, bool, float]:
    """The address, whether it has one value per row, and the number to use without an address."""
    if isinstance(value, float):
        return 0, False, value
    return _address(value), value.ndim > 0, 0.0


def _tensors(
    sources: tuple[Tensor, ...], targets: tuple[Tensor, ...]
) -> list[tuple[int, int, int, int]]:
    return [_tensor(source, target) for source, target in zip(sources, targets, strict=True)]


def _tensor(source: Tensor, target: Tensor) -> tuple[int, int, int, int]:
    rows = source.shape[0]
    row = source.nbytes // rows if rows else 0
    return _address(source), target.data_ptr(), row, source.element_size() * source.stride(0)
