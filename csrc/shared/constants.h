// Numbers that C++, CUDA, Triton and Python share. Those of Python are in core/rows.py,
// core/compacted.py and backends/arithmetic.py; tests/ops/test_constants.py compares them.
#pragma once

#include <cstdint>

namespace drs {

// The version of the interface between Python and the compiled code: raise it when the arguments or
// the meaning of a function in module.cpp change, so that Python refuses what was built before.
constexpr int ABI = 1;

// Streams of random numbers.
constexpr uint32_t LATENT = 0;
constexpr uint32_t ACCEPT = 1;
constexpr uint32_t SELECT = 2;
constexpr uint32_t CHAIN = 3;
constexpr uint32_t NOISE = 4;

// Words of a ring's state, int64; the last one holds a float64.
constexpr int RING_CURSOR = 0;
constexpr int RING_LIMIT = 1;
constexpr int RING_ROW = 2;
constexpr int RING_INVALID = 3;
constexpr int RING_ABOVE = 4;
constexpr int RING_LOG_M = 5;
constexpr int RING_WORDS = 6;

// Words of a workspace, int64: counters, then from HEADER on a status word a tile.
constexpr int TICKET = 0;
constexpr int DONE = 1;
constexpr int EPOCH = 2;
constexpr int TOTAL = 3;
constexpr int INVALID = 4;
constexpr int ABOVE = 5;
constexpr int HEADER = 16;
constexpr int TILE_ROWS = 1024;
constexpr int SMALL_TILE = 256;

// A status word: a count in 31 bits, a flag in 2 (none, this tile's count, the count up to and with
// this tile), the epoch in 30: words of earlier launches are stale without being cleared.
constexpr int64_t ALONE = 1;
constexpr int64_t INCLUSIVE = 2;
constexpr int FLAG_SHIFT = 31;
constexpr int EPOCH_SHIFT = 33;
constexpr int64_t COUNT_MASK = 0x7FFFFFFF;
constexpr int64_t EPOCH_MASK = 0x3FFFFFFF;

// Philox4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
constexpr int PHILOX_ROUNDS = 10;
constexpr uint32_t PHILOX_MULTIPLIER_0 = 0xD2511F53u;
constexpr uint32_t PHILOX_MULTIPLIER_1 = 0xCD9E8D57u;
constexpr uint32_t PHILOX_WEYL_0 = 0x9E3779B9u;
constexpr uint32_t PHILOX_WEYL_1 = 0xBB67AE85u;
constexpr double UNIFORM_UNIT = 0x1p-53;

// ln u of a word, in float32: log1p(f) = f + f^2 (-1/2 + f P(f)) on [-1/3, 1/3].
constexpr float WORD_UNIT = 0x1p-32f;
constexpr int32_t TWO_THIRDS_BITS = 0x3F2AAAAB;
constexpr int32_t MANTISSA_MASK = 0x7FFFFF;
constexpr float LN_2 = 0.6931472f;
#define DRS_LOG                                                                            \
    -0.12891679f, 0.1398444f, -0.12184262f, 0.14005868f, -0.16680488f, 0.20010406f,        \
        -0.24999797f, 0.33333215f

// Sine and cosine of a word's angle, in float32, on [-pi/4, pi/4].
constexpr uint32_t EIGHTH_TURN = 0x20000000u;
constexpr uint32_t QUARTER_MASK = 0x3FFFFFFFu;
constexpr float RADIANS = 1.4629181e-09f;
#define DRS_SINE -0.000195173f, 0.008332178f, -0.16666655f
#define DRS_COSINE 2.4438452e-05f, -0.0013887368f, 0.041666646f

// exp and expm1 in float64. Adding ROUNDER = 1.5 2^52 rounds to an integer.
constexpr double LARGEST_EXPONENT = 700.0;
constexpr double LOG2_E = 1.4426950408889634;
constexpr double ROUNDER = 6755399441055744.0;
constexpr int64_t ROUNDER_BITS = 0x4338000000000000;
constexpr double LN_2_HIGH = 0.6931471805598903;
constexpr double LN_2_LOW = 5.497923018708371e-14;
#define DRS_FACTORIALS                                                                     \
    1.0 / 1307674368000.0, 1.0 / 87178291200.0, 1.0 / 6227020800.0, 1.0 / 479001600.0,     \
        1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0,    \
        1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0

// ln x in float64: 2 atanh(f) with f = (m - 1) / (m + 1) and m in [2/3, 4/3).
constexpr double LN_2_NEAREST = 0.6931471805599453;
constexpr int64_t TWO_THIRDS_BITS_64 = 0x3FE5555555555555;
constexpr int64_t MANTISSA_MASK_64 = 0xFFFFFFFFFFFFF;
constexpr double MAX_GAMMA = 600.0;
#define DRS_ATANH                                                                          \
    2.0 / 27.0, 2.0 / 25.0, 2.0 / 23.0, 2.0 / 21.0, 2.0 / 19.0, 2.0 / 17.0, 2.0 / 15.0,    \
        2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0

}  // namespace drs
