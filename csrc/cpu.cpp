#include "cpu.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DRS_DISPATCH 1
#else
#define DRS_DISPATCH 0
#endif

// The thread pool of whoever loaded GNU OpenMP first, which is PyTorch: a second pool would compete
// with its waiting threads. Null elsewhere, and then plain threads serve.
extern "C" __attribute__((weak)) void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);

namespace drs {
namespace {

constexpr int TILE = 1024;
constexpr int LINE = 64;  // bytes
constexpr int PACK = 64;  // rows that advance together: several vectors, to hide latencies
constexpr uint32_t ACCEPT = 1;
constexpr int64_t ROWS_PER_THREAD = 16384;
constexpr int64_t AHEAD = 64;                // rows between their prefetch (to L2) and their use
constexpr int64_t PREFETCHED_BYTES = 2048;   // beyond these the hardware has seen the pattern
constexpr int64_t STREAMED_BYTES = 8 << 20;  // outputs that leave the caches anyway

struct Key {
    uint32_t low, high;
};

Key key_of(const Rows& rows) { return {(uint32_t)rows.seed, (uint32_t)(rows.seed >> 32)}; }

struct alignas(64) Words {
    uint32_t w[4][TILE];
};

struct Tile {
    int64_t first, count;  // its accepted rows go to [first, first + count) of the output
    int64_t copied;        // of them, so far
    int64_t indices[TILE + PACK];
};

// The threshold in float32, where one serves all rows and its range allows.
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

constexpr double FACTORIALS[14] = {  // 1/15!, ..., 1/2!
    1.0 / 1307674368000.0, 1.0 / 87178291200.0, 1.0 / 6227020800.0, 1.0 / 479001600.0,
    1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0,
    1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0};
constexpr float LOG[8] = {-0.12891679f, 0.1398444f,   -0.12184262f, 0.14005868f,
                          -0.16680488f, 0.20010406f, -0.24999797f, 0.33333215f};
constexpr float SINE[3] = {-0.000195173f, 0.008332178f, -0.16666655f};
constexpr float COSINE[3] = {2.4438452e-05f, -0.0013887368f, 0.041666646f};

#define DRS_ISA 128
namespace baseline {
#include "kernels.inl"
}
#undef DRS_ISA

#if DRS_DISPATCH
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define DRS_ISA 256
namespace avx2 {
#include "kernels.inl"
}
#undef DRS_ISA
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define DRS_ISA 512
namespace avx512 {
#include "kernels.inl"
}
#undef DRS_ISA
#pragma GCC pop_options
#endif

void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

struct Kernels {
    const char* name;
    decltype(&baseline::words) words;
    void (*uniform)(const Rows&, uint32_t, uint32_t, int64_t, double*);
    decltype(&baseline::probability<float>) probability_float;
    decltype(&baseline::probability<double>) probability_double;
    decltype(&baseline::decide_tile<float>) decide_float;
    decltype(&baseline::decide_tile<double>) decide_double;
    decltype(&baseline::copy_rest) copy_rest;
    decltype(&baseline::gather) gather;
    decltype(&baseline::box_muller) box_muller;
};

#define DRS_KERNELS(isa)                                                                   \
    Kernels {                                                                              \
        #isa, isa::words, isa::uniform, isa::probability<float>, isa::probability<double>, \
            isa::decide_tile<float>, isa::decide_tile<double>, isa::copy_rest,             \
            isa::gather, isa::box_muller                                                   \
    }

// What this processor can run, best first.
std::vector<Kernels> supported() {
    std::vector<Kernels> list;
#if DRS_DISPATCH
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        list.push_back(DRS_KERNELS(avx512));
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        list.push_back(DRS_KERNELS(avx2));
#endif
    list.push_back(DRS_KERNELS(baseline));
    return list;
}

Kernels& kernels() {
    static Kernels chosen = supported().front();
    return chosen;
}

// Runs work(begin, end) on equal parts of [0, n); work must not throw.
template <class Work>
struct Parts {
    const Work& work;
    int64_t n, parts;
    std::atomic<int64_t> next{0};
    void run() {
        for (int64_t part; (part = next.fetch_add(1)) < parts;)
            work(n * part / parts, n * (part + 1) / parts);
    }
};

template <class Work>
void parallel(int64_t n, int threads, const Work& work) {
    const int64_t parts = std::clamp<int64_t>(n / ROWS_PER_THREAD, 1, std::max(threads, 1));
    Parts<Work> job{work, n, parts};
    if (parts == 1) return job.run();
    if (GOMP_parallel) {
        const auto run = [](void* data) { static_cast<Parts<Work>*>(data)->run(); };
        return GOMP_parallel(run, &job, (unsigned)parts, 0);
    }
    std::vector<std::thread> others;
    others.reserve((size_t)parts);
    try {
        for (int64_t other = 1; other < parts; ++other) others.emplace_back([&] { job.run(); });
    } catch (const std::system_error&) {  // no more threads: the others do their share
    }
    job.run();
    for (std::thread& other : others) other.join();
}

int64_t number(const Rows& rows, int64_t i) {
    return rows.ids ? rows.ids[i] : (int64_t)(rows.first + (uint64_t)i);
}

Rows from(Rows rows, int64_t i) {
    rows.ids ? void(rows.ids += i) : void(rows.first += (uint64_t)i);
    return rows;
}

Threshold from(Threshold threshold, int64_t i) {
    if (threshold.log_m_per_row) threshold.log_m += i;
    if (threshold.c1_per_row) threshold.c1 += i;
    return threshold;
}

int64_t whole_packs(int64_t n) { return n / PACK * PACK; }

// The last rows, fewer than a pack, padded with rows that are valid and never accepted.
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

auto decide_of(const float*) { return kernels().decide_float; }
auto decide_of(const double*) { return kernels().decide_double; }
auto probability_of(const float*) { return kernels().probability_float; }
auto probability_of(const double*) { return kernels().probability_double; }

RowTensor streamable(RowTensor t, int64_t n) {
    t.streamed = t.row_bytes % LINE == 0 && (uintptr_t)t.target % LINE == 0 &&
                 t.row_bytes * n >= STREAMED_BYTES;
    return t;
}

// Decides rows [begin, end) into `decided`, while the rows of another tile are copied.
template <class Real>
void decide_tile(const Real* logit, const Rows& rows, const Threshold& threshold, int64_t begin,
                 int64_t end, const std::vector<RowTensor>& tensors, Tile& copied, Tile& decided,
                 Counts& counts) {
    const int whole = (int)whole_packs(end - begin);
    const auto decide = decide_of(logit);
    decided.count = decide(logit + begin, from(rows, begin), from(threshold, begin), begin, whole,
                           decided.indices, counts, tensors, copied);
    kernels().copy_rest(tensors, copied);
    if (begin + whole < end) {
        const Tail<Real> tail(logit, rows, threshold, begin + whole, end);
        decided.count += decide(tail.logit, tail.rows, tail.threshold, begin + whole, PACK,
                                decided.indices + decided.count, counts, tensors, copied);
    }
}

// Calls work(logits) with their own type.
template <class Work>
auto typed(const Logits& logits, const Work& work) {
    return logits.wide ? work((const double*)logits.data) : work((const float*)logits.data);
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels& each : supported()) names.push_back(each.name);
    return names;
}

std::string instruction_set() { return kernels().name; }

void use_instruction_set(const std::string& name) {
    for (const Kernels& each : supported())
        if (each.name == name) kernels() = each;
}

void uniform(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int threads, double* out) {
    parallel(n, threads, [&](int64_t begin, int64_t end) {
        const int64_t whole = whole_packs(end - begin), last = begin + whole;
        kernels().uniform(from(rows, begin), stream, draw, whole, out + begin);
        if (last == end) return;
        int64_t ids[PACK];
        for (int lane = 0; lane < PACK; ++lane)
            ids[lane] = number(rows, std::min(last + lane, end - 1));
        double u[PACK];
        kernels().uniform({rows.seed, 0, ids}, stream, draw, PACK, u);
        std::copy(u, u + (end - last), out + last);
    });
}

namespace {

// Calls store(counter, block size, words) for the counters row * ceil(d / 4) + draw of every row.
template <class Store>
void for_counters(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
                  const Store& store) {
    const int64_t draws = (d + 3) / 4;
    if (draws == 0) return;
    parallel(n * draws, threads, [&](int64_t begin, int64_t end) {
        alignas(64) uint64_t row[TILE] = {}, which[TILE] = {};
        Words words;
        int64_t i = begin / draws, j = begin % draws;
        for (int64_t start = begin; start < end; start += TILE) {
            const int size = (int)std::min<int64_t>(TILE, end - start);
            for (int k = 0; k < size; ++k) {
                row[k] = (uint64_t)number(rows, i);
                which[k] = draw + (uint64_t)j;
                if (++j == draws) j = 0, ++i;
            }
            const int padded = (size + PACK - 1) / PACK * PACK;
            kernels().words(key_of(rows), row, stream, which, padded, words);
            store(start, size, words);
        }
    });
}

// Writes four columns of a block of counters to rows of d elements.
template <class Element, class Column>
void scatter(const Column (&columns)[4], int64_t start, int size, int64_t d, Element* out) {
    const int64_t draws = (d + 3) / 4;
    if (d % 4 == 0) {
        Element* target = out + 4 * start;
        for (int k = 0; k < size; ++k)
            for (int w = 0; w < 4; ++w) target[4 * k + w] = (Element)columns[w][k];
        return;
    }
    int64_t i = start / draws, j = start % draws;
    for (int k = 0; k < size; ++k) {
        const int64_t width = std::min<int64_t>(4, d - 4 * j);
        for (int64_t w = 0; w < width; ++w) out[i * d + 4 * j + w] = (Element)columns[w][k];
        if (++j == draws) j = 0, ++i;
    }
}

}  // namespace

void words(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
           int64_t* out) {
    const auto store = [&](int64_t start, int size, const Words& words) {
        const uint32_t* columns[4] = {words.w[0], words.w[1], words.w[2], words.w[3]};
        scatter(columns, start, size, d, out);
    };
    for_counters(rows, stream, draw, n, d, threads, store);
}

void normal(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
            float* out) {
    const auto store = [&](int64_t start, int size, const Words& words) {
        alignas(64) float z[4][TILE];
        kernels().box_muller(words.w[0], words.w[1], size, z[0], z[1]);
        if (d > 2) kernels().box_muller(words.w[2], words.w[3], size, z[2], z[3]);
        const float* columns[4] = {z[0], z[1], z[2], z[3]};
        scatter(columns, start, size, d, out);
    };
    for_counters(rows, stream, draw, n, d, threads, store);
}

void probability(Logits logits, Threshold threshold, int64_t n, int threads, double* out) {
    typed(logits, [&](auto logit) {
        parallel(n, threads, [&](int64_t begin, int64_t end) {
            const int64_t whole = whole_packs(end - begin), last = begin + whole;
            const auto probability = probability_of(logit);
            probability(logit + begin, from(threshold, begin), whole, out + begin);
            if (last == end) return;
            const Tail tail(logit, Rows{}, threshold, last, end);
            double p[PACK];
            probability(tail.logit, tail.threshold, PACK, p);
            std::copy(p, p + (end - last), out + last);
        });
    });
}

void accept(Logits logits, Rows rows, Threshold threshold, int64_t n, int threads, uint8_t* keep) {
    typed(logits, [&](auto logit) {
        parallel(n, threads, [&](int64_t begin, int64_t end) {
            Tile tile, none = {};
            Counts counts;
            std::fill(keep + begin, keep + end, 0);
            for (int64_t start = begin; start < end; start += TILE) {
                const int64_t stop = std::min(start + TILE, end);
                decide_tile(logit, rows, threshold, start, stop, {}, none, tile, counts);
                for (int64_t j = 0; j < tile.count; ++j) keep[tile.indices[j]] = 1;
            }
        });
    });
}

// One pass: threads take tiles by ticket, decide them, and learn in tile order where their accepted
// rows go. The rows of one tile are copied while the next is decided.
Counts accept_compact(Logits logits, Rows rows, Threshold threshold, int64_t n, int threads,
                      const std::vector<RowTensor>& tensors, int64_t* ids, int64_t capacity) {
    std::vector<RowTensor> narrow, wide;  // rows of less than a cache line, and the others
    for (const RowTensor& tensor : tensors)
        (tensor.row_bytes < LINE ? narrow : wide).push_back(streamable(tensor, n));
    std::atomic<int64_t> ticket{0}, placed{0}, invalid{0}, above{0};
    int64_t total = 0;  // accepted rows of the tiles [0, placed)
    typed(logits, [&](auto logit) {
        parallel(n, threads, [&](int64_t, int64_t) {
            Tile tiles[2];
            Counts counts;
            Tile *decided = &tiles[0], *copied = &tiles[1];
            copied->count = copied->copied = 0;
            for (int64_t tile; (tile = ticket.fetch_add(1)) * TILE < n;) {
                const int64_t begin = tile * TILE, end = std::min(begin + TILE, n);
                decide_tile(logit, rows, threshold, begin, end, wide, *copied, *decided, counts);
                for (int spins = 0; placed.load(std::memory_order_acquire) != tile; ++spins)
                    if (spins > 1000) std::this_thread::yield();
                decided->first = total;
                decided->count = std::min(decided->count, capacity - total);
                total += decided->count;
                placed.store(tile + 1, std::memory_order_release);
                decided->copied = 0;
                for (int64_t j = 0; j < decided->count; ++j)
                    ids[decided->first + j] = number(rows, decided->indices[j]);
                for (const RowTensor& tensor : narrow)
                    kernels().gather(tensor, decided->indices, decided->count, decided->first);
                std::swap(decided, copied);
            }
            kernels().copy_rest(wide, *copied);
            finish_streams();
            invalid += counts.invalid;
            above += counts.above;
        });
    });
    return {total, invalid, above};
}

namespace {

template <class Real>
double order_statistic_of(const Real* logit, double q, int64_t n) {
    std::vector<Real> valid;
    valid.reserve(n);
    for (int64_t i = 0; i < n; ++i)
        if (logit[i] < std::numeric_limits<Real>::infinity()) valid.push_back(logit[i]);
    if (valid.empty()) return NAN;
    const double rank = std::ceil(q * (double)valid.size() / 100.0);
    const auto middle = valid.begin() + std::max<int64_t>((int64_t)rank, 1) - 1;
    std::nth_element(valid.begin(), middle, valid.end());
    return *middle;
}

}  // namespace

double order_statistic(Logits logits, double q, int64_t n) {
    return typed(logits, [&](auto logit) { return order_statistic_of(logit, q, n); });
}

void gather(RowTensor tensor, const int64_t* indices, int64_t n, int threads) {
    tensor = streamable(tensor, n);
    parallel(n, threads, [&](int64_t begin, int64_t end) {
        kernels().gather(tensor, indices + begin, end - begin, begin);
        finish_streams();
    });
}

}  // namespace drs
