"""Random numbers and elementary functions of the reference, in plain PyTorch.

Everything is float64 or float32 `+ - *` (and correctly rounded sqrt and /) in a fixed order, one
rounding per operation. Library exponentials, logarithms and sines differ between PyTorch, libm and
CUDA, so none is used: the other backends repeat these operations and get the same bits.
"""

import math

import torch
from torch import Tensor

from drs_fast.core import Rng

MASK = 0xFFFFFFFF
# csrc/shared/constants.h has the same numbers for C++ and CUDA.
PHILOX_ROUNDS = 10
PHILOX_MULTIPLIER_0, PHILOX_MULTIPLIER_1 = 0xD2511F53, 0xCD9E8D57
PHILOX_WEYL_0, PHILOX_WEYL_1 = 0x9E3779B9, 0xBB67AE85
UNIFORM_UNIT = 2.0**-53


def philox(
    rows: Tensor, seed: int, stream: int, draw: Tensor | int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 words, int64 tensors in [0, 2^32).

    key = (seed low, seed high); counter = (row low, row high, stream, draw).
    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
    """
    key0, key1 = seed & MASK, seed >> 32
    c0, c1 = rows & MASK, (rows >> 32) & MASK
    c2, c3 = torch.full_like(c0, stream), torch.zeros_like(c0) + draw
    for _ in range(PHILOX_ROUNDS):
        high0, low0 = _multiply(c0, PHILOX_MULTIPLIER_0)
        high1, low1 = _multiply(c2, PHILOX_MULTIPLIER_1)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + PHILOX_WEYL_0) & MASK, (key1 + PHILOX_WEYL_1) & MASK
    return c0, c1, c2, c3


def _multiply(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    # In halves of 16 bits, because a full 64-bit product would overflow int64.
    upper, lower = (x >> 16) * factor, (x & 0xFFFF) * factor
    high = (upper + (lower >> 16)) >> 16
    low = (((upper & 0xFFFF) << 16) + lower) & MASK
    return high, low


def rows_of(rng: Rng, ids: Tensor | None, n: int, device: torch.device) -> Tensor:
    """Row numbers (n,) int64."""
    return ids if ids is not None else torch.arange(n, device=device) + rng.row


def uniform(
    rng: Rng, ids: Tensor | None, n: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    """u = k 2^-53 in [0, 1), with k the first 53 bits of the row's words; (n,) float64."""
    w0, w1, _, _ = philox(rows_of(rng, ids, n, device), rng.seed, stream, draw)
    return ((w0 << 21) | (w1 >> 11)).double() * UNIFORM_UNIT


def words(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    """Element j is word j % 4 of draw + j // 4; (n, d) int64 in [0, 2^32)."""
    rows = rows_of(rng, ids, n, device)[:, None]
    draws = torch.arange(-(-d // 4), device=device)[None, :] + draw
    shape = (n, draws.shape[1])
    blocks = philox(rows.expand(shape), rng.seed, stream, draws.expand(shape))
    return torch.stack(blocks, dim=2).reshape(n, 4 * shape[1])[:, :d].contiguous()


def normal(
    rng: Rng, ids: Tensor | None, n: int, d: int, *, stream: int, draw: int, device: torch.device
) -> Tensor:
    """Standard normals by Box-Muller on pairs of words: cosine, then sine; (n, d) float32.

    Source: Box and Muller, A note on the generation of random normal deviates (1958).
    """
    even = -(-d // 2) * 2
    pairs = words(rng, ids, n, even, stream=stream, draw=draw, device=device).reshape(-1, 2)
    radius, (cosine, sine) = _radius(pairs[:, 0]), _circle(pairs[:, 1])
    return torch.stack((radius * cosine, radius * sine), dim=1).reshape(n, even)[:, :d].contiguous()


# log1p(f) = f + f^2 (-1/2 + f P(f)) on [-1/3, 1/3]; sin and cos on [-pi/4, pi/4]; for float32
LOG = (
    -0.12891679, 0.1398444, -0.12184262, 0.14005868, -0.16680488, 0.20010406, -0.24999797,
    0.33333215,
)  # fmt: skip
SINE = (-0.000195173, 0.008332178, -0.16666655)
COSINE = (2.4438452e-05, -0.0013887368, 0.041666646)
WORD_UNIT = 2.0**-32
TWO_THIRDS_BITS, MANTISSA_MASK = 0x3F2AAAAB, 0x7FFFFF  # of a float32
LN_2 = 0.6931472
EIGHTH_TURN, QUARTER_MASK = 0x20000000, 0x3FFFFFFF  # of a word that is an angle
RADIANS = 1.4629181e-09  # 2 pi 2^-32


def horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + coefficient
    return total


def _radius(word: Tensor) -> Tensor:
    """sqrt(-2 ln u) with u = (word + 1/2) 2^-32, in float32; precise at both ends of (0, 1)."""
    bits = (word.float() + 0.5).view(torch.int32) - TWO_THIRDS_BITS
    exponent = bits >> 23
    f = ((bits & MANTISSA_MASK) + TWO_THIRDS_BITS).view(torch.float32) - 1.0
    # Near u = 1 the word no longer fits a float32, but its distance to 2^32 does.
    f = torch.where(exponent == 32, -(((MASK - word).float() + 0.5) * WORD_UNIT), f)
    series = f + (f * f) * (horner(LOG, f) * f - 0.5)
    log = (exponent - 32).float() * LN_2 + series
    return _square_root(log * -2.0)


def _square_root(x: Tensor) -> Tensor:
    """Correctly rounded float32; torch.sqrt can be one unit off if it calls a vector library."""
    root = torch.sqrt(x)
    for direction in (0.0, torch.inf):
        neighbour = torch.nextafter(root, torch.full_like(root, direction))
        middle = (root.double() + neighbour.double()) * 0.5  # its square is exact in float64
        beyond = (middle * middle > x) if direction == 0.0 else (middle * middle < x)
        root = torch.where(beyond, neighbour, root)
    return root


def _circle(word: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle 2 pi word 2^-32, in float32."""
    shifted = word + EIGHTH_TURN
    quadrant = (shifted >> 30) & 3
    angle = ((shifted & QUARTER_MASK) - EIGHTH_TURN).float() * RADIANS
    square = angle * angle
    sine = angle + (angle * square) * horner(SINE, square)
    cosine = (square * square) * horner(COSINE, square) + (1.0 - square * 0.5)
    swap = (quadrant & 1) == 1
    first, second = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    first = torch.where((quadrant == 1) | (quadrant == 2), -first, first)
    return first, torch.where(quadrant >= 2, -second, second)


FACTORIALS = tuple(1.0 / math.factorial(j) for j in range(15, 1, -1))
LARGEST_EXPONENT = 700.0
LOG2_E = 1.4426950408889634
ROUNDER, ROUNDER_BITS = 6755399441055744.0, 0x4338000000000000  # adding 1.5 2^52 rounds
LN_2_HIGH, LN_2_LOW = 0.6931471805598903, 5.497923018708371e-14


def exponential(x: Tensor) -> tuple[Tensor, Tensor]:
    """E = exp(x) and q = expm1(x) for x clamped to [-700, 700]; float64."""
    x = torch.clamp(x, -LARGEST_EXPONENT, LARGEST_EXPONENT)
    shifted = x * LOG2_E + ROUNDER
    whole = shifted - ROUNDER
    power = shifted.view(torch.int64) - ROUNDER_BITS
    r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW
    scale = ((power + 1023) << 52).view(torch.float64)
    y = (horner(FACTORIALS, r) * (r * r) + r) * scale
    return y + scale, y + (scale - 1.0)


ATANH = tuple(2.0 / j for j in range(27, 1, -2))
LN_2_NEAREST = 0.6931471805599453
TWO_THIRDS_BITS_64, MANTISSA_MASK_64 = 0x3FE5555555555555, 0xFFFFFFFFFFFFF  # of a float64
MAX_GAMMA = 600.0


def logarithm(x: Tensor) -> Tensor:
    """ln x for positive normal x, float64: 2 atanh((m - 1) / (m + 1)) on m in [2/3, 4/3)."""
    bits = x.view(torch.int64) - TWO_THIRDS_BITS_64
    m = ((bits & MANTISSA_MASK_64) + TWO_THIRDS_BITS_64).view(torch.float64)
    f = (m - 1.0) / (m + 1.0)
    series = horner(ATANH, f * f)
    return (bits >> 52).double() * LN_2_NEAREST + (series * (f * f) * f + f * 2.0)


NUMERATOR = (
    -0.012198773065432246, 0.2927740672600067, -1.5880548670735866, 3.4677130150277033,
    -3.3520576831273936, 1.196288015107665,
)  # fmt: skip
DENOMINATOR = (
    -0.034773526964713204, 0.44703878656055057, -1.873950311326677, 3.504483347523339,
    -3.0405664087246658, 1.0,
)  # fmt: skip


def truncated_normal(symmetric: Tensor) -> Tensor:
    """The inverse distribution function of a normal truncated to [-2, 2], at (1 + s) / 2; float32.

    sqrt(2) erfinv(s erf(sqrt 2)), as s times a rational function of s^2, to 2e-9.
    """
    s = symmetric.double()
    square = s * s
    return (s * (horner(NUMERATOR, square) / horner(DENOMINATOR, square))).float()
