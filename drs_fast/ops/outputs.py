"""What an op checks of the tensors that a backend will write: a Compacted or a ring.

Both checks exist twice: with a message for every fault, and as a quick answer for most calls.
"""

from typing import Any

import torch
from torch import Tensor, int64, strided

from drs_fast.core.arguments import describe
from drs_fast.core.compacted import RING_WORDS, Compacted, Ring, workspace_words
from drs_fast.core.tensors import OWN, plain


def check_out(out: Compacted, logit: Tensor, rows: list[tuple[torch.Size, torch.dtype]]) -> None:
    if not isinstance(out, Compacted) or len(out.rows) != len(rows):
        raise ValueError(
            f"out must be a Compacted with {len(rows)} row tensors, got {describe(out)}"
        )
    capacity = _capacity("out.ids", out.ids)
    _as_wanted(
        logit,
        *((f"out.rows[{i}]", out.rows[i], (capacity, *shape), dtype)
          for i, (shape, dtype) in enumerate(rows)),
        ("out.ids", out.ids, (capacity,), torch.int64),
        ("out.logit", out.logit, (capacity,), logit.dtype),
        ("out.count", out.count, (), torch.int64),
        ("out.invalid", out.invalid, (), torch.int64),
        ("out.above", out.above, (), torch.int64),
    )  # fmt: skip


def check_ring(ring: Ring, logit: Tensor, rows: list[tuple[torch.Size, torch.dtype]]) -> None:
    if not isinstance(ring, Ring) or len(ring.rows) != len(rows):
        raise ValueError(
            f"ring must be drs.ops.ring(...) with {len(rows)} row tensors, got {describe(ring)}"
        )
    capacity = _capacity("ring.ids", ring.ids)
    if capacity < ring.batch or capacity & (capacity - 1):
        raise ValueError(
            f"a ring's capacity must be a power of two, at least its batch of {ring.batch}, "
            f"got {capacity}; make it with drs.ops.ring"
        )
    if logit.shape[0] > ring.batch:
        raise ValueError(
            f"a batch for this ring must have at most {ring.batch} rows, got {len(logit)}; "
            "make the ring from the largest batch"
        )
    _as_wanted(
        logit,
        *((f"ring.rows[{i}]", ring.rows[i], (capacity, *shape), dtype)
          for i, (shape, dtype) in enumerate(rows)),
        ("ring.ids", ring.ids, (capacity,), torch.int64),
        ("ring.logit", ring.logit, (capacity,), logit.dtype),
        ("ring.state", ring.state, (RING_WORDS,), torch.int64),
        ("ring.workspace", ring.workspace, (workspace_words(ring.batch),), torch.int64),
    )  # fmt: skip


def _capacity(name: str, ids: Tensor) -> int:
    found = plain(name, ids, "(capacity,) int64")
    if found.ndim != 1:
        raise ValueError(f"{name} must be (capacity,) int64, got {describe(ids)}")
    return found.shape[0]


def _as_wanted(logit: Tensor, *wanted: tuple[str, Any, tuple[int, ...], torch.dtype]) -> None:
    """ValueError unless all of them can be written to and are as described."""
    for name, tensor, shape, dtype in wanted:
        found = plain(name, tensor)
        if (
            tuple(found.shape) != tuple(shape)
            or found.dtype != dtype
            or found.device != logit.device
            or not found.is_contiguous()
            or found.is_neg()
            or found.is_conj()
        ):
            raise ValueError(
                f"{name} must be contiguous {tuple(shape)} {dtype} on {logit.device}, "
                f"got {describe(tensor)}"
            )
        if found.requires_grad or (found.is_inference() and not torch.is_inference_mode_enabled()):
            kind = "requires a gradient" if found.requires_grad else "was made in inference mode"
            raise ValueError(f"{name} is written to, but {kind}; make it with torch.empty")


def apart(out: Compacted | Ring, *inputs: float | Tensor | None) -> None:
    """ValueError if what is written shares memory with what is read, or with itself."""
    if isinstance(out, Ring):
        scalars: tuple[Tensor, ...] = (out.state, out.workspace)
    else:
        scalars = (out.count, out.invalid, out.above)
    targets = [_span(t) for t in (*out.rows, out.ids, out.logit, *scalars)]
    sources = [_span(t) for t in inputs if isinstance(t, Tensor)]
    for i, (begin, end) in enumerate(targets):
        if any(begin < stop and start < end for start, stop in (*targets[:i], *sources)):
            raise ValueError("out must not share memory with the inputs, or with itself; clone one")


def surely_good(
    out: Compacted, logit: Tensor, rows: tuple[Tensor, ...], *inputs: float | Tensor | None
) -> bool:
    """The quick answer to most calls: `check_out` and `apart` would find nothing wrong."""
    try:
        if type(out) is not Compacted or type(out.rows) is not tuple:
            return False  # because other tensors can be put in a list after this call
        if len(out.rows) != len(rows) or type(out.ids) is not Tensor:
            return False
        size, device = out.ids.shape[:1], logit.device
        wanted = [
            (out.ids, size, int64), (out.logit, size, logit.dtype),
            (out.count, (), int64), (out.invalid, (), int64), (out.above, (), int64),
        ]  # fmt: skip
        for to, row in zip(out.rows, rows, strict=True):
            wanted.append((to, size + row.shape[1:], row.dtype))
        spans = [_span(t) for t in (logit, *rows, *inputs) if isinstance(t, Tensor)]
        targets = []
        for tensor, shape, dtype in wanted:
            if (
                type(tensor) is not Tensor
                or tensor.is_nested
                or tensor.layout is not strided
                or tensor.dtype is not dtype
                or tensor.device != device
                or tensor.shape != shape
                or not tensor.is_contiguous()
                or tensor.is_neg()
                or tensor.requires_grad
                or (tensor.is_inference() and not torch.is_inference_mode_enabled())
                or (dtype.is_complex and tensor.is_conj())
            ):
                return False
            begin = tensor.data_ptr()
            targets.append((begin, begin + tensor.nbytes))
        targets.sort()
        last = 1  # so that none is at address 0
        for begin, end in targets:
            if begin < last:
                return False
            last = end
        for start, stop in spans:
            for begin, end in targets:
                if start < end and begin < stop:
                    return False
        return True
    except RuntimeError:  # of a tensor that has no shape or no address
        return False


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first and last address, end excluded."""
    if tensor.numel() == 0:
        return 0, 0
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    last = sum((size - 1) * stride for size, stride in steps)
    return start, start + (last + 1) * tensor.element_size()


class Fits:
    """Whether a backend can take logits and rows unchanged, for an `out` that has been checked."""

    def __init__(self, out: Compacted | Ring) -> None:
        self._like = [(like.dtype, like.device) for like in (out.logit, *out.rows)]
        self._tails = [like.shape[1:] for like in (out.logit, *out.rows)]
        self._most, self._n = out.batch if isinstance(out, Ring) else 2**63, -1
        self._shapes: list[torch.Size] = []

    def __call__(self, logit: Tensor, rows: tuple[Tensor, ...]) -> bool:
        given, like = (logit, *rows), self._like
        if type(logit) not in OWN or logit.is_nested or len(given) != len(like):
            return False
        n = logit.numel()
        if n != self._n:
            self._n, self._shapes = n, [torch.Size((n, *tail)) for tail in self._tails]
        if n > self._most:
            return False
        for row, shape, (dtype, device) in zip(given, self._shapes, like, strict=True):
            if (
                type(row) not in OWN
                or row.is_nested
                or row.layout is not strided
                or row.shape != shape
                or row.dtype is not dtype
                or row.device != device
                or not row.is_contiguous()
                or row.is_neg()
                or row.requires_grad
                or (dtype.is_complex and row.is_conj())
            ):
                return False
        return True
