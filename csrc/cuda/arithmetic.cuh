// Random words, normals and the decision, operation by operation as in backends/reference.py.
// Compiled with -fmad=false: a fused a * b + c has other bits.
#pragma once

#include <cstdint>

#include "../shared/constants.h"

namespace drs {

// Philox4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
__device__ inline uint4 philox(uint64_t seed, uint64_t row, uint32_t stream, uint32_t draw) {
    uint32_t c0 = row, c1 = row >> 32, c2 = stream, c3 = draw;
    uint32_t k0 = seed, k1 = seed >> 32;
#pragma unroll
    for (int round = 0; round < PHILOX_ROUNDS; ++round) {
        const uint32_t high0 = __umulhi(c0, PHILOX_MULTIPLIER_0), low0 = c0 * PHILOX_MULTIPLIER_0;
        const uint32_t high1 = __umulhi(c2, PHILOX_MULTIPLIER_1), low1 = c2 * PHILOX_MULTIPLIER_1;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += PHILOX_WEYL_0, k1 += PHILOX_WEYL_1;
    }
    return {c0, c1, c2, c3};
}

// k of u = k 2^-53.
__device__ inline int64_t uniform_bits(uint4 word) {
    return (int64_t)word.x << 21 | word.y >> 11;
}

template <class Real, int N>
__device__ inline Real horner(const Real (&coefficients)[N], Real x) {
    Real total = coefficients[0];
#pragma unroll
    for (int j = 1; j < N; ++j) total = total * x + coefficients[j];
    return total;
}

__device__ inline float radius(uint32_t word) {
    constexpr float LOG[] = {DRS_LOG};
    const int32_t bits = __float_as_int(__uint2float_rn(word) + 0.5f) - TWO_THIRDS_BITS;
    const int32_t exponent = bits >> 23;
    const float near = __int_as_float((bits & MANTISSA_MASK) + TWO_THIRDS_BITS) - 1.0f;
    const float top = (__uint2float_rn(~word) + 0.5f) * -WORD_UNIT;
    const float f = exponent == 32 ? top : near;
    const float series = f + (f * f) * (horner(LOG, f) * f - 0.5f);
    return __fsqrt_rn((__int2float_rn(exponent - 32) * LN_2 + series) * -2.0f);
}

// Two standard normals from two words: Box and Muller (1958).
__device__ inline float2 box_muller(uint32_t first, uint32_t second) {
    constexpr float SINE[] = {DRS_SINE};
    constexpr float COSINE[] = {DRS_COSINE};
    const uint32_t shifted = second + EIGHTH_TURN, quadrant = shifted >> 30;
    const float angle =
        __int2float_rn((int32_t)(shifted & QUARTER_MASK) - (int32_t)EIGHTH_TURN) * RADIANS;
    const float square = angle * angle;
    const float sine = angle + (angle * square) * horner(SINE, square);
    const float cosine = (square * square) * horner(COSINE, square) + (1.0f - square * 0.5f);
    const bool swap = quadrant & 1u;
    const float x = swap ? sine : cosine, y = swap ? cosine : sine, r = radius(first);
    return {r * (quadrant == 1u || quadrant == 2u ? -x : x), r * (quadrant >= 2u ? -y : y)};
}

__device__ inline float4 normals(uint64_t seed, uint64_t row, uint32_t stream, uint32_t draw) {
    const uint4 word = philox(seed, row, stream, draw);
    const float2 a = box_muller(word.x, word.y), b = box_muller(word.z, word.w);
    return {a.x, a.y, b.x, b.y};
}

// E = exp(x) and q = expm1(x) for x clamped to [-700, 700].
__device__ inline double2 exponential(double x) {
    constexpr double FACTORIALS[] = {DRS_FACTORIALS};
    x = x < -LARGEST_EXPONENT ? -LARGEST_EXPONENT : x > LARGEST_EXPONENT ? LARGEST_EXPONENT : x;
    const double shifted = x * LOG2_E + ROUNDER;
    const double whole = shifted - ROUNDER;
    const int64_t power = __double_as_longlong(shifted) - ROUNDER_BITS;
    const double r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    const double scale = __longlong_as_double((power + 1023) << 52);
    const double y = (horner(FACTORIALS, r) * (r * r) + r) * scale;
    return {y + scale, y + (scale - 1.0)};
}

// ln x for positive normal x.
__device__ inline double logarithm(double x) {
    constexpr double ATANH[] = {DRS_ATANH};
    const int64_t bits = __double_as_longlong(x) - TWO_THIRDS_BITS_64;
    const double m = __longlong_as_double((bits & MANTISSA_MASK_64) + TWO_THIRDS_BITS_64);
    const double f = (m - 1.0) / (m + 1.0), series = horner(ATANH, f * f);
    return (double)(bits >> 52) * LN_2_NEAREST + (series * (f * f) * f + f * 2.0);
}

// p / (1 - p) as numerator and denominator.
__device__ inline double2 terms(double logit, double log_m, double c1, double s) {
    const double2 e = exponential(logit - log_m);
    const double rest = c1 * (s + (1.0 - s) * -e.y);
    return {e.x, rest > 0.0 ? rest : 0.0};
}

__device__ inline bool finite(double logit) { return fabs(logit) < __longlong_as_double(0x7FF0000000000000); }

// u < sigmoid(F) multiplied out: Azadi et al. (2019), equation 8.
__device__ inline bool decide(double logit, int64_t bits, double log_m, double c1, double s) {
    const double u = (double)bits * UNIFORM_UNIT;
    const double2 t = terms(logit, log_m, c1, s);
    return finite(logit) && t.x * (1.0 - u) > u * t.y;
}

}  // namespace drs
