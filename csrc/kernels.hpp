// Shared by the kernels, and the table of kernels for the instruction set in use.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "cpu.hpp"
#include "shared/constants.h"

namespace drs {

constexpr int TILE = 1024;
constexpr int LINE = 64;  // bytes
constexpr int PACK = 64;  // rows that advance together: several vectors, to hide latencies
constexpr int64_t AHEAD = 64;                // rows between their prefetch (to L2) and their use
constexpr int64_t PREFETCHED_BYTES = 2048;   // after these the hardware knows the pattern
constexpr int64_t STREAMED_BYTES = 8 << 20;  // outputs too large for the caches anyway

constexpr double FACTORIALS[14] = {DRS_FACTORIALS};  // 1/15!, ..., 1/2!

struct Key {
    uint32_t low, high;
};

inline Key key_of(const Rows& rows) { return {(uint32_t)rows.seed, (uint32_t)(rows.seed >> 32)}; }

struct alignas(64) Words {
    uint32_t w[4][TILE];
};

// The threshold in float32, if one serves all rows and its range allows.
struct Quick {
    float log_m_high, log_m_low, c1, s;
    bool possible;
    explicit Quick(const Threshold& t)
        : log_m_high((float)*t.log_m), log_m_low((float)(*t.log_m - log_m_high)), c1((float)*t.c1),
          s((float)t.s),
          possible(!t.log_m_per_row && !t.c1_per_row && *t.c1 > 1e-17 && *t.c1 < 1e17) {}
};

template <class Vector>
inline Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Vector>
inline void store(void* to, Vector vector) {
    std::memcpy(to, &vector, sizeof vector);
}

template <class To, class From>
inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// Calls work(logits) with the logits' own type.
template <class Work>
auto typed(const Logits& logits, const Work& work) {
    return logits.wide ? work((const double*)logits.data) : work((const float*)logits.data);
}

inline int64_t number(const Rows& rows, int64_t i) {
    return rows.ids ? rows.ids[i] : (int64_t)(rows.first + (uint64_t)i);
}

inline Rows from(Rows rows, int64_t i) {
    rows.ids ? void(rows.ids += i) : void(rows.first += (uint64_t)i);
    return rows;
}

inline Threshold from(Threshold threshold, int64_t i) {
    if (threshold.log_m_per_row) threshold.log_m += i;
    if (threshold.c1_per_row) threshold.c1 += i;
    return threshold;
}

inline int64_t whole_packs(int64_t n) { return n / PACK * PACK; }

// The last rows, fewer than a pack, padded with valid rows that are never accepted.
template <class Real>
struct Tail {
    Real logit[PACK];
    int64_t ids[PACK];
    double log_m[PACK], c1[PACK];
    Rows rows;
    Threshold threshold;

    Tail(const Real* logits, const Rows& all, const Threshold& t, int64_t begin, int64_t end) {
        for (int lane = 0; lane < PACK; ++lane) {
            const int64_t i = std::min(begin + lane, end - 1);
            logit[lane] = begin + lane < end ? logits[i] : -std::numeric_limits<Real>::infinity();
            ids[lane] = number(all, i);
            log_m[lane] = t.log_m[t.log_m_per_row ? i : 0];
            c1[lane] = t.c1[t.c1_per_row ? i : 0];
        }
        rows = {all.seed, 0, ids};
        threshold = {log_m, c1, true, true, t.s};
    }
};

// exp(x) for x clamped to [-700, 700].
inline double exponential(double x) {
    x = x < -LARGEST_EXPONENT ? -LARGEST_EXPONENT : x;
    x = x > LARGEST_EXPONENT ? LARGEST_EXPONENT : x;
    const double shifted = x * LOG2_E + ROUNDER;
    const double whole = shifted - ROUNDER;
    const uint64_t power = bits<uint64_t>(shifted) - (uint64_t)ROUNDER_BITS;
    const double r = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    const double scale = bits<double>((power + 1023) << 52);
    double h = FACTORIALS[0];
    for (int j = 1; j < 14; ++j) h = h * r + FACTORIALS[j];
    return (h * (r * r) + r) * scale + scale;
}

struct Kernels {
    const char* name;
    void (*words)(Key, const uint64_t* row, uint32_t stream, const uint64_t* draw, int n, Words&);
    void (*uniform)(const Rows&, uint32_t stream, uint32_t draw, int64_t n, double* out);
    void (*box_muller)(const uint32_t* radius, const uint32_t* angle, int n, float* cosines,
                       float* sines);
    void (*probability_float)(const float*, const Threshold&, int64_t n, double* out);
    void (*probability_double)(const double*, const Threshold&, int64_t n, double* out);
    void (*weight_float)(const float*, const Threshold&, int64_t n, double* out);
    void (*weight_double)(const double*, const Threshold&, int64_t n, double* out);
    Counts (*decide_float)(const float*, const Rows&, const Threshold&, int64_t index, int64_t n,
                           int64_t* kept);
    Counts (*decide_double)(const double*, const Rows&, const Threshold&, int64_t index, int64_t n,
                            int64_t* kept);
    void (*exponentials)(double* x, int64_t n);  // in place
    void (*bounds)(const double* logit, const uint32_t* w0, int n, double* low, double* high);
    void (*gather)(const RowTensor&, const int64_t* indices, int64_t n, int64_t first);
};

Kernels& kernels();

// Call after rows were written past the caches, before another thread reads them.
void finish_streams();

}  // namespace drs
