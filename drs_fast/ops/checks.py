"""What every op checks of the arguments that a backend will read; outputs.py has the rest."""

import math

import torch
from torch import Tensor

from drs_fast.backends import reference
from drs_fast.backends.arithmetic import MAX_GAMMA
from drs_fast.core import Rng
from drs_fast.core.arguments import describe, integer, number, usable
from drs_fast.core.tensors import dense, dense_words, plain

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip
ROW, GROUPS = (
    f"a floating-point tensor {shape}: float16, bfloat16, float32 or float64"
    for shape in ("(N,)", "(B, K)")
)
MOST_BYTES = 2**47  # most that a processor can address


def logit(logit: Tensor) -> Tensor:
    found = logits(logit, ROW)
    if found.ndim != 1:
        fix = (
            "; squeeze the discriminator output"
            if found.numel() == found.shape[0:1].numel()
            else ""
        )
        raise ValueError(f"logit must be (N,), got {tuple(found.shape)}{fix}")
    return dense(found)


def logits(given: Tensor, kind: str) -> Tensor:
    """A tensor of logits, unchanged."""
    found = plain("logit", given, kind)
    if found.dtype not in DTYPES:
        fix = "" if found.is_complex() else "; .float() converts it"
        raise ValueError(f"logit must be {kind}, got {describe(found)}{fix}")
    return found


def room(name: str, *sizes: int) -> None:
    """ValueError if a result of this many numbers would not fit in any memory."""
    if math.prod(sizes) * 8 > MOST_BYTES:
        raise ValueError(
            f"{name} of {' x '.join(map(str, sizes))} numbers does not fit; ask for fewer at once"
        )


def rows(
    rng: Rng, n: int, ids: Tensor | None, device: torch.device | str
) -> tuple[Tensor | None, torch.device]:
    if not isinstance(rng, Rng):
        raise ValueError(f"rng must be drs.Rng(seed, row), got {describe(rng)}")
    integer("n", n, 0)
    where = usable(device)
    if ids is None:
        if rng.row > 2**63 - n:
            raise ValueError(f"rows {rng.row} to {rng.row + n} pass 2^63; start at a smaller row")
        return None, where
    ids = plain("ids", ids, "an int64 tensor")
    if ids.shape != (n,) or ids.dtype != torch.int64:
        raise ValueError(f"ids must be ({n},) int64, got {describe(ids)}")
    if not same_device(ids.device, where):
        raise ValueError(f"ids must be on {where}, got {ids.device}")
    if ids.device.type == "cpu" and n and int(ids.min()) < 0:
        raise ValueError(f"ids must be row numbers >= 0, got {int(ids.min())}")
    return dense(ids), where


def same_device(device: torch.device, wanted: torch.device) -> bool:
    """Whether it is the wanted device; a wanted "cuda" has no number and matches any."""
    return device.type == wanted.type and wanted.index in (None, device.index)


def counter(stream: int, draw: int) -> None:
    integer("stream", stream, 0, 2**32)
    integer("draw", draw, 0, 2**32)


def threshold(
    logit: Tensor, log_m: float | Tensor, gamma: float | Tensor, eps: float
) -> reference.Threshold:
    """log_m and gamma as numbers, or as float64 tensors () or (n,); and s."""
    return reference.Threshold(
        _parameter("log_m", log_m, logit, math.inf),
        _parameter("gamma", gamma, logit, MAX_GAMMA),
        reference.stabiliser(number("eps", eps, 0.0, 1.0)),
    )


def _parameter(name: str, value: float | Tensor, logit: Tensor, limit: float) -> float | Tensor:
    """A number if the value is known on the host, otherwise float64 on the logits' device."""
    if not isinstance(value, Tensor):
        return number(name, value, -limit, limit)
    value = plain(name, value)
    if (value.ndim and value.shape != logit.shape) or value.dtype not in (*DTYPES, *INTEGERS):
        raise ValueError(
            f"{name} must be a number, or real numbers () or ({len(logit)},), got {describe(value)}"
        )
    wide = dense(value).double()
    if wide.ndim == 0 and wide.device.type == "cpu":
        return number(name, wide.item(), -limit, limit)
    if wide.device != logit.device:
        raise ValueError(f"{name} must be on {logit.device}, got {wide.device}")
    if wide.device.type == "cpu" and not bool((torch.isfinite(wide) & (wide.abs() <= limit)).all()):
        bound = "" if math.isinf(limit) else f" in [{-limit:g}, {limit:g}]"
        raise ValueError(f"{name} must be finite{bound}, got {value}")
    return wide


def row_tensors(rows: tuple[Tensor, ...], n: int, where: torch.device) -> tuple[Tensor, ...]:
    """The rows as plain tensors."""
    found = []
    for i, row in enumerate(rows):
        own = plain(f"rows[{i}]", row)
        if own.shape[:1] != (n,) or own.device != where:
            raise ValueError(f"rows[{i}] must be ({n}, ...) on {where}, got {describe(row)}")
        found.append(own)
    return tuple(found)


def row_major(rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Any stride between rows will do; only the inside of a row must be contiguous.
    return tuple([_words(row) for row in rows])


def _words(row: Tensor) -> Tensor:
    if not _row_major(row):
        return dense_words(row)
    return row.detach() if row.requires_grad else row


def _row_major(row: Tensor) -> bool:
    if row.is_conj() or row.is_neg():
        return False
    return row.is_contiguous() or row.shape[0] == 0 or row[0].is_contiguous()
