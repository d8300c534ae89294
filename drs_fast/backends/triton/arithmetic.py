"""Random words, normals and the decision, operation by operation as the reference defines them."""

import triton
import triton.language as tl

from drs_fast import core
from drs_fast.backends import arithmetic

LATENT, ACCEPT = tl.constexpr(core.LATENT), tl.constexpr(core.ACCEPT)
# Kernel arguments for whose values no special machine code should be made.
NUMBERS = [
    "log_m_bits", "gamma_bits", "s_bits", "seed", "row", "n", "stream", "draw", "capacity", "slots",
    "status_words", "candidates", "size", "q_bits", "parts",
]  # fmt: skip
UNIFORM_UNIT = tl.constexpr(arithmetic.UNIFORM_UNIT)
LOG = tl.constexpr(arithmetic.LOG)
WORD_UNIT = tl.constexpr(arithmetic.WORD_UNIT)
TWO_THIRDS_BITS = tl.constexpr(arithmetic.TWO_THIRDS_BITS)
MANTISSA_MASK = tl.constexpr(arithmetic.MANTISSA_MASK)
LN_2 = tl.constexpr(arithmetic.LN_2)
SINE = tl.constexpr(arithmetic.SINE)
COSINE = tl.constexpr(arithmetic.COSINE)
EIGHTH_TURN = tl.constexpr(arithmetic.EIGHTH_TURN)
QUARTER_MASK = tl.constexpr(arithmetic.QUARTER_MASK)
RADIANS = tl.constexpr(arithmetic.RADIANS)
FACTORIALS = tl.constexpr(arithmetic.FACTORIALS)
LARGEST_EXPONENT = tl.constexpr(arithmetic.LARGEST_EXPONENT)
LOG2_E = tl.constexpr(arithmetic.LOG2_E)
ROUNDER = tl.constexpr(arithmetic.ROUNDER)
ROUNDER_BITS = tl.constexpr(arithmetic.ROUNDER_BITS)
LN_2_HIGH = tl.constexpr(arithmetic.LN_2_HIGH)
LN_2_LOW = tl.constexpr(arithmetic.LN_2_LOW)
ATANH = tl.constexpr(arithmetic.ATANH)
LN_2_NEAREST = tl.constexpr(arithmetic.LN_2_NEAREST)
TWO_THIRDS_BITS_64 = tl.constexpr(arithmetic.TWO_THIRDS_BITS_64)
MAX_GAMMA = tl.constexpr(arithmetic.MAX_GAMMA)
MANTISSA_MASK_64 = tl.constexpr(arithmetic.MANTISSA_MASK_64)


@triton.jit
def words(seed, row, stream, draw):
    """Philox4x32-10 words, uint32, of every row (int64) and draw; their shapes are broadcast.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    zero = row * 0 + draw * 0
    low, high = (row + zero).to(tl.uint32), ((row + zero) >> 32).to(tl.uint32)
    return tl.philox(seed, low, high, (zero + stream).to(tl.uint32), (zero + draw).to(tl.uint32))


@triton.jit
def uniform_bits(seed, row, stream, draw):
    """k of u = k 2^-53, int64."""
    w0, w1, _, _ = words(seed, row, stream, draw)
    return (w0.to(tl.int64) << 21) | (w1 >> 11).to(tl.int64)


@triton.jit
def horner(coefficients: tl.constexpr, terms: tl.constexpr, x):
    total = x * 0.0 + coefficients[0]
    for i in tl.static_range(1, terms):
        total = total * x + coefficients[i]
    return total


@triton.jit
def interleave(w0, w1, w2, w3):
    """(rows, draws) x 4 -> (rows, 4 draws): element 4 i + j is element i of the j-th tensor."""
    pairs = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.reshape(pairs, (w0.shape[0], 4 * w0.shape[1]))


@triton.jit
def box_muller(first, second):
    """Two standard normals, float32, from two words."""
    radius = _radius(first)
    cosine, sine = _circle(second)
    return radius * cosine, radius * sine


@triton.jit
def normals(seed, row, stream, draw):
    """(rows, 1) and (1, draws) -> (rows, 4 draws) float32."""
    w0, w1, w2, w3 = words(seed, row, stream, draw)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return interleave(z0, z1, z2, z3)


@triton.jit
def _radius(word):
    bits = (word.to(tl.float32) + 0.5).to(tl.int32, bitcast=True) - TWO_THIRDS_BITS
    exponent = bits >> 23
    f = ((bits & MANTISSA_MASK) + TWO_THIRDS_BITS).to(tl.float32, bitcast=True) - 1.0
    distance = ((word ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * -WORD_UNIT
    f = tl.where(exponent == 32, distance, f)
    series = f + (f * f) * (horner(LOG, 8, f) * f - 0.5)
    log = (exponent - 32).to(tl.float32) * LN_2 + series
    return tl.sqrt_rn(log * -2.0)


@triton.jit
def _circle(word):
    shifted = word + EIGHTH_TURN
    quadrant = (shifted >> 30).to(tl.int32)
    angle = ((shifted & QUARTER_MASK).to(tl.int32) - EIGHTH_TURN).to(tl.float32) * RADIANS
    square = angle * angle
    sine = angle + (angle * square) * horner(SINE, 3, square)
    cosine = (square * square) * horner(COSINE, 3, square) + (1.0 - square * 0.5)
    swap = (quadrant & 1) == 1
    first, second = tl.where(swap, sine, cosine), tl.where(swap, cosine, sine)
    # Times -1.0, because Triton's unary minus turns 0.0 into 0.0.
    first = tl.where((quadrant == 1) | (quadrant == 2), first * -1.0, first)
    return first, tl.where(quadrant >= 2, second * -1.0, second)


@triton.jit
def exponential(x):
    """E = exp(x) and q = expm1(x) for x clamped to [-700, 700]; float64."""
    x = tl.minimum(tl.maximum(x, -LARGEST_EXPONENT), LARGEST_EXPONENT)
    shifted = x * LOG2_E + ROUNDER
    whole = shifted - ROUNDER
    power = shifted.to(tl.int64, bitcast=True) - ROUNDER_BITS
    r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW
    scale = ((power + 1023) << 52).to(tl.float64, bitcast=True)
    y = (horner(FACTORIALS, 14, r) * (r * r) + r) * scale
    return y + scale, y + (scale - 1.0)


@triton.jit
def logarithm(x):
    """ln x for positive normal x; float64."""
    bits = x.to(tl.int64, bitcast=True) - TWO_THIRDS_BITS_64
    m = ((bits & MANTISSA_MASK_64) + TWO_THIRDS_BITS_64).to(tl.float64, bitcast=True)
    f = (m - 1.0) / (m + 1.0)
    series = horner(ATANH, 13, f * f)
    return (bits >> 52).to(tl.float64) * LN_2_NEAREST + (series * (f * f) * f + f * 2.0)


@triton.jit
def terms(logit, log_m, gamma, s):
    """p / (1 - p) as numerator and denominator; float64."""
    c1, _ = exponential(gamma)
    e, q = exponential(logit - log_m)
    return e, tl.maximum(c1 * (s + (1.0 - s) * (q * -1.0)), 0.0)


@triton.jit
def parameter(tensor, bits, index, inside, FORM: tl.constexpr):
    """float64: a number given as bits, the single value of a tensor, or its value for a row."""
    if FORM == "number":
        value = bits.to(tl.int64).to(tl.float64, bitcast=True)
    elif FORM == "tensor":
        value = tl.load(tensor)
    else:
        value = tl.load(tensor + index, mask=inside, other=0.0)
    return value


@triton.jit
def finite(logit):
    return (logit > float("-inf")) & (logit < float("inf"))


@triton.jit
def decide(logit, bits, log_m, gamma, s):
    """u < sigmoid(F) multiplied out, with u = bits 2^-53; bool.

    Source: Azadi et al., Discriminator rejection sampling (2019), equation 8.
    """
    u = bits.to(tl.float64) * UNIFORM_UNIT
    numerator, rest = terms(logit, log_m, gamma, s)
    return finite(logit) & (numerator * (1.0 - u) > u * rest)
