"""gamma as a percentile by radix selection: one launch, if blocks may wait."""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import (
    MAX_GAMMA,
    NUMBERS,
    exponential,
    logarithm,
    parameter,
)

# Words of the workspace, all zero between launches. NEXT lies in a cache line of its own, because
# it is polled.
DRAWN, FINISHED, PREFIX, RANK, NEXT = (tl.constexpr(i) for i in (0, 1, 2, 3, 16))
HISTOGRAM = tl.constexpr(32)
BITS = tl.constexpr(8)  # more bins than 256 would cost a thread more registers than it has
BINS = tl.constexpr(256)
LOWEST = tl.constexpr(-(2**63))


@triton.jit
def _key(value, WIDE: tl.constexpr):
    """An unsigned integer that rises with the value; -0.0 is below 0.0, but has the same F."""
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
    return value.to(tl.float64)


@triton.jit
def _score(logit, log_m, s):
    """F without gamma, clamped."""
    _, q_minus = exponential(log_m - logit)
    t = q_minus + s
    f = tl.where(t > 0.0, logarithm(t) * -1.0, MAX_GAMMA)
    return tl.minimum(tl.maximum(f, -MAX_GAMMA), MAX_GAMMA)


@triton.jit
def _load(logit, n, tile, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    index = tile * BLOCK + tl.arange(0, BLOCK)
    if (tile + 1) * BLOCK <= n:  # without a mask, because a mask splits loads of 16 bytes
        value = tl.load(logit + index)
    else:
        value = tl.load(logit + index, mask=index < n, other=float("nan"))
    return value.to(tl.float64) if WIDE else value.to(tl.float32)


@triton.jit(do_not_specialize=NUMBERS)
def radix_select(
    logit, log_m, out, workspace,
    log_m_bits: tl.int64, q_bits: tl.int64, s_bits: tl.int64, n: tl.int64, parts: tl.int32,
    PASSES: tl.constexpr, LOG_M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A digit of the keys a pass. A pass has a block for each part of the logits.

    Blocks draw their place, so that a block waits only for blocks that run, or for none if each
    pass is a launch.
    """
    WIDE: tl.constexpr = PASSES * BITS == 64
    place = tl.atomic_add(workspace + DRAWN, 1, sem="relaxed").to(tl.int32)
    step, tile = place // parts, (place % parts).to(tl.int64)
    shift = (PASSES - 1 - step) * BITS
    value = _load(logit, n, tile, WIDE, BLOCK)
    while tl.atomic_add(workspace + NEXT, 0, sem="acquire") < step:
        pass
    prefix = tl.load(workspace + PREFIX, volatile=True)
    bins = tl.arange(0, BINS)
    counts = bins * 0
    while tile * BLOCK < n:
        key = _key(value, WIDE)
        key = key >> shift.to(key.dtype)
        same = (value < float("inf")) & ((key >> BITS).to(tl.int64) == prefix)
        counts += tl.histogram((key & (BINS - 1)).to(tl.int32), BINS, mask=same)
        tile += parts
        value = _load(logit, n, tile, WIDE, BLOCK)
    histogram = workspace + HISTOGRAM + bins
    tl.atomic_add(histogram, counts.to(tl.int64), mask=counts > 0, sem="relaxed")
    # After this the block's counts are there, and the last block sees those of all.
    tl.debug_barrier()
    if tl.atomic_add(workspace + FINISHED, 1, sem="acq_rel") == parts - 1:
        count = tl.atomic_xchg(histogram, bins.to(tl.int64) * 0, sem="relaxed")
        total = tl.sum(count)
        rank = tl.load(workspace + RANK, volatile=True)
        if step == 0:
            q = parameter(None, q_bits, tile, True, "number")
            rank = tl.maximum(tl.ceil(q * total.to(tl.float64) / 100.0).to(tl.int64), 1)
        digit = tl.sum((tl.cumsum(count) < rank).to(tl.int64))
        prefix = (prefix << BITS) | digit
        rank -= tl.sum(tl.where(bins < digit, count, 0))
        last = step == PASSES - 1
        if last:
            top = parameter(log_m, log_m_bits, tile, True, LOG_M)
            s = parameter(None, s_bits, tile, True, "number")
            found = _score(_value(prefix, WIDE), top, s)
            tl.store(out, tl.where(total > 0, found, float("nan")))
            tl.store(workspace + DRAWN, 0)
        tl.store(workspace + FINISHED, 0)
        tl.store(workspace + PREFIX, tl.where(last, 0, prefix))
        tl.store(workspace + RANK, tl.where(last, 0, rank))
        tl.debug_barrier()
        tl.atomic_xchg(workspace + NEXT, tl.where(last, 0, step + 1), sem="release")
