// Random words, uniforms and normals, as backends/reference.py defines them, on vectors of rows.
// kernels.cpp includes this file once per instruction set, each in its own namespace; the bits agree.

constexpr int LANES = DRS_ISA / 64;
constexpr int VECTORS = PACK / LANES;

typedef uint64_t Lanes __attribute__((vector_size(8 * LANES)));
typedef uint32_t Halves __attribute__((vector_size(4 * LANES)));
typedef int32_t HalfMask __attribute__((vector_size(4 * LANES)));
typedef int64_t Mask __attribute__((vector_size(8 * LANES)));
typedef double Doubles __attribute__((vector_size(8 * LANES)));

inline Lanes iota(uint64_t first) {
    Lanes lanes;
    for (int lane = 0; lane < LANES; ++lane) lanes[lane] = first + lane;
    return lanes;
}

inline Lanes multiply(Lanes x, uint32_t factor) {
#if DRS_ISA == 512
    return (Lanes)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(factor));
#elif DRS_ISA == 256
    return (Lanes)_mm256_mul_epu32((__m256i)x, _mm256_set1_epi64x(factor));
#elif defined(__SSE2__)
    return (Lanes)_mm_mul_epu32((__m128i)x, _mm_set1_epi64x(factor));
#else
    return (x & 0xffffffffu) * factor;
#endif
}

// Here and below several vectors are processed together; one alone would wait for its latencies.
// Philox4x32-10 of the counters (row low, row high, stream, draw); the words lie in the low halves.
template <int V>
inline void philox(Key key, const Lanes (&row)[V], uint32_t stream, const Lanes (&draw)[V],
                   Lanes (&c)[4][V]) {
    for (int v = 0; v < V; ++v)
        c[0][v] = row[v], c[1][v] = row[v] >> 32, c[2][v] = Lanes{} + stream, c[3][v] = draw[v];
    uint64_t k0 = key.low, k1 = key.high;
    // What the high halves hold is garbage until the end: multiply does not read it.
    for (int round = 0; round < PHILOX_ROUNDS; ++round) {
        for (int v = 0; v < V; ++v) {
            const Lanes p0 = multiply(c[0][v], PHILOX_MULTIPLIER_0), p1 = multiply(c[2][v], PHILOX_MULTIPLIER_1);
            c[0][v] = (p1 >> 32) ^ c[1][v] ^ k0;
            c[1][v] = p1;
            c[2][v] = (p0 >> 32) ^ c[3][v] ^ k1;
            c[3][v] = p0;
        }
        k0 = (uint32_t)(k0 + PHILOX_WEYL_0);
        k1 = (uint32_t)(k1 + PHILOX_WEYL_1);
    }
}

// The words of n counters, n padded to whole packs.
void words(Key key, const uint64_t* row, uint32_t stream, const uint64_t* draw, int n, Words& out) {
    for (int i = 0; i < n; i += PACK) {
        Lanes rows[VECTORS], draws[VECTORS], c[4][VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            rows[v] = load<Lanes>(row + i + v * LANES);
            draws[v] = load<Lanes>(draw + i + v * LANES);
        }
        philox(key, rows, stream, draws, c);
        for (int w = 0; w < 4; ++w)
            for (int v = 0; v < VECTORS; ++v)
                store(&out.w[w][i + v * LANES], __builtin_convertvector(c[w][v], Halves));
    }
}

// An integer below 2^32 as a double, exactly.
inline Doubles real(Lanes word) {
    return bits<Doubles>(word | 0x4330000000000000u) - 4503599627370496.0;
}

// The words of the rows from the i-th.
inline void row_words(const Rows& rows, uint32_t stream, uint32_t draw, int64_t i,
                      Lanes (&c)[4][VECTORS]) {
    Lanes row[VECTORS], draws[VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        const int64_t at = i + v * LANES;
        row[v] = rows.ids ? load<Lanes>(rows.ids + at) : iota(rows.first + (uint64_t)at);
        draws[v] = Lanes{} + draw;
    }
    philox(key_of(rows), row, stream, draws, c);
}

inline Doubles uniform_of(Lanes w0, Lanes w1) {
    return real(w0 & 0xffffffffu) * 0x1p-32 + real((w1 & 0xffffffffu) >> 11) * UNIFORM_UNIT;
}

// n, here and below, counts whole packs.
void uniform(const Rows& rows, uint32_t stream, uint32_t draw, int64_t n, double* out) {
    for (int64_t i = 0; i < n; i += PACK) {
        Lanes c[4][VECTORS];
        row_words(rows, stream, draw, i, c);
        for (int v = 0; v < VECTORS; ++v) store(out + i + v * LANES, uniform_of(c[0][v], c[1][v]));
    }
}

template <int N>
inline float horner(const float (&coefficients)[N], float x) {
    float total = coefficients[0];
    for (int j = 1; j < N; ++j) total = total * x + coefficients[j];
    return total;
}

// ln u with u = (word + 1/2) 2^-32.
inline float logarithm(uint32_t word) {
    const int32_t mantissa = bits<int32_t>((float)word + 0.5f) - TWO_THIRDS_BITS;
    const int32_t exponent = mantissa >> 23;
    const float top = -(((float)~word + 0.5f) * WORD_UNIT);
    const float near = bits<float>((mantissa & MANTISSA_MASK) + TWO_THIRDS_BITS) - 1.0f;
    const float f = exponent == 32 ? top : near;
    const float series = f + (f * f) * (horner(LOG, f) * f - 0.5f);
    return (float)(exponent - 32) * LN_2 + series;
}

// Box-Muller on the words (radius, angle) of n counters.
void box_muller(const uint32_t* radius, const uint32_t* angle, int n, float* cosines,
                float* sines) {
    for (int i = 0; i < n; ++i) {
        const float r = std::sqrt(logarithm(radius[i]) * -2.0f);

        const uint32_t shifted = angle[i] + EIGHTH_TURN;
        const uint32_t quadrant = shifted >> 30;
        const float a = (float)((int32_t)(shifted & QUARTER_MASK) - (int32_t)EIGHTH_TURN) * RADIANS;
        const float square = a * a;
        const float sine = a + (a * square) * horner(SINE, square);
        const float cosine = (square * square) * horner(COSINE, square) + (1.0f - square * 0.5f);
        const bool swap = quadrant & 1u;
        const float first = swap ? sine : cosine, second = swap ? cosine : sine;
        cosines[i] = r * ((quadrant == 1u) | (quadrant == 2u) ? -first : first);
        sines[i] = r * (quadrant >= 2u ? -second : second);
    }
}
