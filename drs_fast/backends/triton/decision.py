"""The decision, its probability and weight, and the largest logit: one row per lane."""

import triton
import triton.language as tl

from drs_fast.backends.triton.arithmetic import (
    ACCEPT,
    NUMBERS,
    decide,
    finite,
    parameter,
    terms,
    uniform_bits,
)
from drs_fast.backends.triton.random import row_numbers


@triton.jit(do_not_specialize=NUMBERS)
def accept(
    logit, ids, log_m, gamma, out,
    log_m_bits: tl.int64, gamma_bits: tl.int64, s_bits: tl.int64,
    seed: tl.int64, row: tl.int64, n: tl.int64,
    HAS_IDS: tl.constexpr, LOG_M: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    value = tl.load(logit + index, mask=inside, other=float("-inf")).to(tl.float64)
    top = parameter(log_m, log_m_bits, index, inside, LOG_M)
    shift = parameter(gamma, gamma_bits, index, inside, GAMMA)
    s = parameter(None, s_bits, index, inside, "number")
    bits = uniform_bits(seed, row_numbers(ids, row, index, inside, HAS_IDS), ACCEPT, 0)
    tl.store(out + index, decide(value, bits, top, shift, s), mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def probability(
    logit, log_m, gamma, out,
    log_m_bits: tl.int64, gamma_bits: tl.int64, s_bits: tl.int64, n: tl.int64,
    LOG_M: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    value = tl.load(logit + index, mask=inside, other=float("-inf")).to(tl.float64)
    top = parameter(log_m, log_m_bits, index, inside, LOG_M)
    shift = parameter(gamma, gamma_bits, index, inside, GAMMA)
    s = parameter(None, s_bits, index, inside, "number")
    numerator, rest = terms(value, top, shift, s)
    p = tl.where(finite(value), numerator / (numerator + rest), 0.0)
    tl.store(out + index, p, mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def weight(
    logit, log_m, gamma, out,
    log_m_bits: tl.int64, gamma_bits: tl.int64, s_bits: tl.int64, n: tl.int64,
    LOG_M: tl.constexpr, GAMMA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = index < n
    value = tl.load(logit + index, mask=inside, other=float("-inf")).to(tl.float64)
    top = parameter(log_m, log_m_bits, index, inside, LOG_M)
    shift = parameter(gamma, gamma_bits, index, inside, GAMMA)
    s = parameter(None, s_bits, index, inside, "number")
    numerator, rest = terms(value, top, shift, s)
    tl.store(out + index, tl.where(finite(value), numerator + rest, 0.0), mask=inside)


@triton.jit(do_not_specialize=NUMBERS)
def largest(logit, out, n: tl.int64, BLOCK: tl.constexpr):
    """Sets out () float64 to the largest of itself and the valid logits."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    # Plus 0.0, because which of 0.0 and -0.0 is the larger depends on their order.
    value = tl.load(logit + index, mask=index < n, other=float("-inf")).to(tl.float64) + 0.0
    valid = value < float("inf")
    tl.atomic_max(out, tl.max(tl.where(valid, value, float("-inf"))), sem="relaxed")
