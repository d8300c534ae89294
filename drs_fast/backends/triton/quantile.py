"""An order statistic by radix selection: one sweep over the logits per 11 bits of a key."""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import NUMBERS
from drs_fast.core.compacted import HEADER

DONE, PREFIX, RANK = (tl.constexpr(i) for i in range(3))
HISTOGRAM = tl.constexpr(HEADER)
BITS = tl.constexpr(11)
BINS = tl.constexpr(2048)
LOWEST = tl.constexpr(-(2**63))


@triton.jit
def _key(value, WIDE: tl.constexpr):
    """An unsigned integer that rises with the value."""
    if WIDE:
        bits = value.to(tl.int64, bitcast=True)
        key = (bits ^ ((bits >> 63) | LOWEST)).to(tl.uint64, bitcast=True)
    else:
        bits = value.to(tl.int32, bitcast=True)
        key = (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)
    return key


@triton.jit
def _value(key, WIDE: tl.constexpr):
    if WIDE:
        value = (key ^ (~(key >> 63) | LOWEST)).to(tl.float64, bitcast=True)
    else:
        bits = key.to(tl.int32)
        value = (bits ^ (~(bits >> 31) | -2147483648)).to(tl.float32, bitcast=True)
    return value


@triton.jit(do_not_specialize=NUMBERS)
def sweep(
    logit, percent, workspace, out, n: tl.int64,
    SHIFT: tl.constexpr, TOP: tl.constexpr, WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Counts the next digit of the keys that start with PREFIX; the last block appends it."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    raw = tl.load(logit + index, mask=index < n, other=float("inf"))
    value = raw.to(tl.float64) if WIDE else raw.to(tl.float32)
    key = _key(value + 0.0, WIDE)  # so that -0.0 and 0.0 are one value
    valid = value < float("inf")
    if not TOP:
        valid = valid & ((key >> (SHIFT + BITS)).to(tl.int64) == tl.load(workspace + PREFIX))
    digit = ((key >> SHIFT) & (BINS - 1)).to(tl.int32)
    bins = tl.arange(0, BINS)
    count = tl.histogram(digit, BINS, mask=valid).to(tl.int64)
    tl.atomic_add(workspace + HISTOGRAM + bins, count, mask=count > 0, sem="relaxed")
    tl.debug_barrier()
    if tl.atomic_add(workspace + DONE, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        _append_digit(workspace, percent, out, SHIFT, TOP, WIDE)


@triton.jit
def _append_digit(
    workspace, percent, out, SHIFT: tl.constexpr, TOP: tl.constexpr, WIDE: tl.constexpr
):
    bins = tl.arange(0, BINS)
    count = tl.atomic_xchg(workspace + HISTOGRAM + bins, bins.to(tl.int64) * 0, sem="relaxed")
    total = tl.sum(count)
    if TOP:
        prefix = total * 0
        rank = tl.ceil(tl.load(percent) * total.to(tl.float64) / 100.0).to(tl.int64)
        rank = tl.maximum(rank, 1)
    else:
        prefix = tl.load(workspace + PREFIX)
        rank = tl.load(workspace + RANK)
    digit = tl.sum((tl.cumsum(count) < rank).to(tl.int64))
    prefix = (prefix << BITS) | digit
    tl.store(workspace + PREFIX, prefix)
    tl.store(workspace + RANK, rank - tl.sum(tl.where(bins < digit, count, 0)))
    tl.store(workspace + DONE, total * 0)
    if SHIFT == 0:
        tl.store(out, tl.where(total > 0, _value(prefix, WIDE), float("nan")))
