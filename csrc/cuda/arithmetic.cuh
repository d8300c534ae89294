// Random words, normals and the decision, operation by operation as in backends/reference.py.
// Compiled with -fmad=false: a fused a * b + c has other bits.
#pragma once

#include <cstdint>

namespace drs {

constexpr uint32_t LATENT = 0, ACCEPT = 1;

// Philox4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).
__device__ inline uint4 philox(uint64_t seed, uint64_t row, uint32_t stream, uint32_t draw) {
    uint32_t c0 = row, c1 = row >> 32, c2 = stream, c3 = draw;
    uint32_t k0 = seed, k1 = seed >> 32;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
        const uint32_t high1 = __umulhi(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
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
    constexpr float LOG[] = {-0.12891679f, 0.1398444f,  -0.12184262f, 0.14005868f,
                             -0.16680488f, 0.20010406f, -0.24999797f, 0.33333215f};
    const int32_t bits = __float_as_int(__uint2float_rn(word) + 0.5f) - 0x3F2AAAAB;
    const int32_t exponent = bits >> 23;
    const float near = __int_as_float((bits & 0x7FFFFF) + 0x3F2AAAAB) - 1.0f;
    const float top = (__uint2float_rn(~word) + 0.5f) * -0x1p-32f;
    const float f = exponent == 32 ? top : near;
    const float series = f + (f * f) * (horner(LOG, f) * f - 0.5f);
    return __fsqrt_rn((__int2float_rn(exponent - 32) * 0.6931472f + series) * -2.0f);
}

// Two standard normals from two words: Box and Muller (1958).
__device__ inline float2 box_muller(uint32_t first, uint32_t second) {
    constexpr float SINE[] = {-0.000195173f, 0.008332178f, -0.16666655f};
    constexpr float COSINE[] = {2.4438452e-05f, -0.0013887368f, 0.041666646f};
    const uint32_t shifted = second + 0x20000000u, quadrant = shifted >> 30;
    const float angle =
        __int2float_rn((int32_t)(shifted & 0x3FFFFFFFu) - 0x20000000) * 1.4629181e-09f;
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
    constexpr double FACTORIALS[] = {
        1.0 / 1307674368000.0, 1.0 / 87178291200.0, 1.0 / 6227020800.0, 1.0 / 479001600.0,
        1.0 / 39916800.0,      1.0 / 3628800.0,     1.0 / 362880.0,     1.0 / 40320.0,
        1.0 / 5040.0,          1.0 / 720.0,         1.0 / 120.0,        1.0 / 24.0,
        1.0 / 6.0,             1.0 / 2.0};
    x = x < -700.0 ? -700.0 : x > 700.0 ? 700.0 : x;
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;
    const double whole = shifted - 6755399441055744.0;
    const int64_t power = __double_as_longlong(shifted) - 0x4338000000000000;
    const double r = (x - whole * 0.6931471805598903) - whole * 5.497923018708371e-14;
    const double scale = __longlong_as_double((power + 1023) << 52);
    const double y = (horner(FACTORIALS, r) * (r * r) + r) * scale;
    return {y + scale, y + (scale - 1.0)};
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
    const double u = (double)bits * 0x1p-53;
    const double2 t = terms(logit, log_m, c1, s);
    return finite(logit) && t.x * (1.0 - u) > u * t.y;
}

}  // namespace drs
