// The decision, as backends/reference.py defines it, on vectors of rows; the copying of rows.
// kernels.cpp includes this file once per instruction set, each in its own namespace; the bits agree.

#if DRS_ISA == 512
inline int64_t append(int64_t* kept, int64_t count, Lanes index, __mmask8 mask) {
    _mm512_storeu_si512(kept + count, _mm512_maskz_compress_epi64(mask, (__m512i)index));
    return count + __builtin_popcount(mask);
}
#endif

inline int64_t append(int64_t* kept, int64_t count, Lanes index, Mask keep) {
#if DRS_ISA == 512
    return append(kept, count, index, _mm512_movepi64_mask((__m512i)keep));
#else
    for (int lane = 0; lane < LANES; ++lane) {
        kept[count] = (int64_t)index[lane];
        count += keep[lane] != 0;
    }
    return count;
#endif
}

// p / (1 - p) for the logits from the i-th, as numerator and denominator: E and c1 (s + (1-s)(-q))
// with E = exp(d), q = expm1(d), d = logit - log_m.
struct Odds {
    Doubles logit[VECTORS], log_m[VECTORS], accept[VECTORS], reject[VECTORS];
};

template <class Real>
inline void odds(const Real* logit, const Threshold& t, int64_t i, Odds& o) {
    typedef Real Reals __attribute__((vector_size(sizeof(Real) * LANES)));
    Doubles r[VECTORS], h[VECTORS], scale[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        const int64_t at = i + v * LANES;
        o.logit[v] = __builtin_convertvector(load<Reals>(logit + at), Doubles);
        o.log_m[v] = t.log_m_per_row ? load<Doubles>(t.log_m + at) : Doubles{} + *t.log_m;
        Doubles x = o.logit[v] - o.log_m[v];
        x = x < -LARGEST_EXPONENT ? Doubles{} - LARGEST_EXPONENT : x;
        x = x > LARGEST_EXPONENT ? Doubles{} + LARGEST_EXPONENT : x;
        const Doubles shifted = x * LOG2_E + ROUNDER;
        const Doubles whole = shifted - ROUNDER;
        const Lanes power = bits<Lanes>(shifted) - (uint64_t)ROUNDER_BITS;
        r[v] = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
        scale[v] = bits<Doubles>((power + 1023) << 52);
        h[v] = Doubles{} + FACTORIALS[0];
    }
    for (int j = 1; j < 14; ++j)
        for (int v = 0; v < VECTORS; ++v) h[v] = h[v] * r[v] + FACTORIALS[j];
    for (int v = 0; v < VECTORS; ++v) {
        const Doubles c1 = t.c1_per_row ? load<Doubles>(t.c1 + i + v * LANES) : Doubles{} + *t.c1;
        const Doubles y = (h[v] * (r[v] * r[v]) + r[v]) * scale[v];
        const Doubles q = y + (scale[v] - 1.0);
        o.accept[v] = y + scale[v];
        const Doubles reject = c1 * (t.s + (1.0 - t.s) * (-q));
        o.reject[v] = reject > 0.0 ? reject : Doubles{};
    }
}

void exponentials(double* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = exponential(x[i]);
}

// A chain below `low` moves to the candidate, a chain above `high` stays: u < exp(logit - current)
// if current < logit - ln u, and w0 gives ln u to 2e-4 unless it is small.
void bounds(const double* logit, const uint32_t* w0, int n, double* low, double* high) {
    const double infinity = std::numeric_limits<double>::infinity();
    for (int i = 0; i < n; ++i) {
        const double middle = logit[i] - (double)logarithm(w0[i]);
        const double margin = 1e-3 + std::abs(middle) * 0x1p-50;
        const bool finite = logit[i] - logit[i] == 0.0, precise = w0[i] >= 4096;
        low[i] = finite & precise ? middle - margin : -infinity;
        high[i] = !finite ? -infinity : precise ? middle + margin : infinity;
    }
}

template <class Real>
void probability(const Real* logit, const Threshold& threshold, int64_t n, double* p) {
    for (int64_t i = 0; i < n; i += PACK) {
        Odds o;
        odds(logit, threshold, i, o);
        for (int v = 0; v < VECTORS; ++v) {
            const Doubles chance = o.accept[v] / (o.accept[v] + o.reject[v]);
            store(p + i + v * LANES, o.logit[v] - o.logit[v] == 0.0 ? chance : Doubles{});
        }
    }
}

// exp(logit - log_m) over the probability.
template <class Real>
void weight(const Real* logit, const Threshold& threshold, int64_t n, double* w) {
    for (int64_t i = 0; i < n; i += PACK) {
        Odds o;
        odds(logit, threshold, i, o);
        for (int v = 0; v < VECTORS; ++v) {
            const Doubles weight = o.accept[v] + o.reject[v];
            store(w + i + v * LANES, o.logit[v] - o.logit[v] == 0.0 ? weight : Doubles{});
        }
    }
}

typedef float Floats __attribute__((vector_size(8 * LANES)));
typedef uint32_t Words32 __attribute__((vector_size(8 * LANES)));
typedef int32_t Mask32 __attribute__((vector_size(8 * LANES)));
constexpr int WIDE = 2 * LANES;

// The decision in float32; `sure` says where rounding cannot change it. With |d| <= 60 and
// u, 1 - u >= 2^-12, each side of the inequality has a relative error below 2e-5.
inline Mask32 decide_quickly(Floats logit, Words32 w0, const Quick& t, Mask32& sure) {
    const Floats d = (logit - t.log_m_high) - t.log_m_low;
    const Floats x = d < -60.0f ? Floats{} - 60.0f : d;
    const Floats shifted = x * 1.442695f + 12582912.0f;
    const Floats whole = shifted - 12582912.0f;
    const Floats r = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
    const Floats scale = bits<Floats>((bits<Words32>(shifted) - (0x4B400000u - 127u)) << 23);
    Floats h = Floats{} + 1.0f / 5040;
    h = h * r + 1.0f / 720;
    h = h * r + 1.0f / 120;
    h = h * r + 1.0f / 24;
    h = h * r + 1.0f / 6;
    h = h * r + 0.5f;
    const Floats y = (h * (r * r) + r) * scale;
    const Floats u = (__builtin_convertvector(w0, Floats) + 0.5f) * 0x1p-32f;
    const Floats rest_of_u = (__builtin_convertvector(~w0, Floats) + 0.5f) * 0x1p-32f;
    const Floats accept = (y + scale) * rest_of_u;
    const Floats reject = u * (t.c1 * (t.s - (1.0f - t.s) * (y + (scale - 1.0f))));
    const Floats gap = accept - reject;
    sure = ((gap < 0.0f ? -gap : gap) > 6e-5f * (accept + reject)) & (d < 0.0f) & (u > 0x1p-12f) &
           (rest_of_u > 0x1p-12f);
    return gap > 0.0f;
}

inline bool every(Mask32 mask) {
#if DRS_ISA == 512
    return _mm512_movepi32_mask((__m512i)mask) == 0xffff;
#else
    int32_t all = -1;
    for (int lane = 0; lane < WIDE; ++lane) all &= mask[lane];
    return all;
#endif
}

// The low halves of two vectors.
inline Words32 join(Lanes first, Lanes second) {
#if DRS_ISA == 512
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (Words32)_mm512_permutex2var_epi32((__m512i)first, even, (__m512i)second);
#else
    const Halves low[2] = {__builtin_convertvector(first, Halves),
                           __builtin_convertvector(second, Halves)};
    return load<Words32>(low);
#endif
}

// Whether all rows of a pack are sure; if so, appends the accepted ones.
inline bool append_quickly(const float* logit, const Lanes (&w0)[VECTORS], const Quick& t,
                           int64_t index, int64_t* kept, int64_t& count) {
    Mask32 keep[PACK / WIDE], all = Mask32{} - 1;
    for (int v = 0; v < PACK / WIDE; ++v) {
        Mask32 sure;
        keep[v] = decide_quickly(load<Floats>(logit + v * WIDE), join(w0[2 * v], w0[2 * v + 1]), t,
                                 sure);
        all &= sure;
    }
    if (!every(all)) return false;
    for (int v = 0; v < PACK / WIDE; ++v) {
#if DRS_ISA == 512
        const __mmask16 mask = _mm512_movepi32_mask((__m512i)keep[v]);
        for (int half = 0; half < 2; ++half) {
            const Lanes at = iota((uint64_t)(index + v * WIDE + half * LANES));
            count = append(kept, count, at, (__mmask8)(mask >> (LANES * half)));
        }
#else
        int32_t lanes[WIDE];
        store(lanes, keep[v]);
        for (int lane = 0; lane < WIDE; ++lane) {
            kept[count] = index + v * WIDE + lane;
            count += lanes[lane] != 0;
        }
#endif
    }
    return true;
}

inline bool append_quickly(const double*, const Lanes (&)[VECTORS], const Quick&, int64_t,
                           int64_t*, int64_t&) {
    return false;
}

// Writes the accepted ones of n rows, numbered from `index`, to `kept`, with space for a pack more.
template <class Real>
Counts decide(const Real* logit, const Rows& rows, const Threshold& threshold, int64_t index,
              int64_t n, int64_t* kept) {
    const Quick quick(threshold);
    Counts counts;
    int64_t count = 0;
    Mask invalid = {}, above = {};
    for (int64_t i = 0; i < n; i += PACK) {
        Lanes c[4][VECTORS];
        row_words(rows, ACCEPT, 0, i, c);
        if (quick.possible && append_quickly(logit + i, c[0], quick, index + i, kept, count))
            continue;
        Odds o;
        odds(logit, threshold, i, o);
        for (int v = 0; v < VECTORS; ++v) {
            const Doubles l = o.logit[v], u = uniform_of(c[0][v], c[1][v]);
            const Mask valid = l < INFINITY;
            count = append(kept, count, iota((uint64_t)(index + i + v * LANES)),
                           (l - l == 0.0) & (o.accept[v] * (1.0 - u) > u * o.reject[v]));
            invalid += ~valid;
            above += valid & (l > o.log_m[v]);
        }
    }
    for (int lane = 0; lane < LANES; ++lane) {
        counts.invalid -= invalid[lane];
        counts.above -= above[lane];
    }
    counts.count = count;
    return counts;
}

inline void stream(char* target, const char* source) {
#if DRS_ISA == 512
    _mm512_stream_si512((__m512i*)target, _mm512_loadu_si512(source));
#elif defined(__SSE2__)
    for (int b = 0; b < LINE; b += 16)
        _mm_stream_si128((__m128i*)(target + b), _mm_loadu_si128((const __m128i*)(source + b)));
#else
    std::memcpy(target, source, LINE);
#endif
}

inline void copy_row(const RowTensor& t, int64_t source, int64_t target) {
    const char* from = t.source + source * t.source_stride;
    char* to = t.target + target * t.row_bytes;
    if (t.streamed)
        for (int64_t b = 0; b < t.row_bytes; b += LINE) stream(to + b, from + b);
    else
        std::memcpy(to, from, t.row_bytes);
}

inline void prefetch_row(const RowTensor& t, int64_t source) {
    const char* from = t.source + source * t.source_stride;
    const int64_t bytes = t.row_bytes < PREFETCHED_BYTES ? t.row_bytes : PREFETCHED_BYTES;
    for (int64_t b = 0; b < bytes; b += LINE) __builtin_prefetch(from + b, 0, 2);
}

template <int BYTES>
void gather_fixed(const RowTensor& t, const int64_t* indices, int64_t n, int64_t first) {
    for (int64_t j = 0; j < n; ++j)
        std::memcpy(t.target + (first + j) * BYTES, t.source + indices[j] * t.source_stride, BYTES);
}

// target[first + j] = source[indices[j]]
void gather(const RowTensor& t, const int64_t* indices, int64_t n, int64_t first) {
    switch (t.row_bytes) {
        case 0: return;  // nothing to copy, and maybe no address
        case 1: return gather_fixed<1>(t, indices, n, first);
        case 2: return gather_fixed<2>(t, indices, n, first);
        case 4: return gather_fixed<4>(t, indices, n, first);
        case 8: return gather_fixed<8>(t, indices, n, first);
        case 16: return gather_fixed<16>(t, indices, n, first);
    }
    for (int64_t j = 0; j < n; ++j) {
        if (j + AHEAD < n) prefetch_row(t, indices[j + AHEAD]);
        copy_row(t, indices[j], first + j);
    }
}
