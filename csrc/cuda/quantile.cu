// gamma as a percentile by radix selection, and the largest logit, in one launch each.
#include <cub/block/block_scan.cuh>
#include <cuda/atomic>
#include <launch.cuh>  // from this folder, or the emulator's

#include "arithmetic.cuh"
#include "gpu.hpp"
#include "rows.cuh"

namespace drs {
namespace {

constexpr int ITEMS = 16, TILE = THREADS * ITEMS, MOST_PARTS = 512;
constexpr int BITS = 11, BINS = 1 << BITS, OWN = BINS / THREADS;

// Words of the workspace, all zero between launches. NEXT lies in a cache line of its own, because
// it is polled.
enum : int { DRAWN = 0, FINISHED = 1, PREFIX = 2, RANK = 3, NEXT = 16, HISTOGRAM = 32 };
static_assert(HISTOGRAM + BINS == ORDER_WORDS && MOST_PARTS <= BINS);

using Word = cuda::atomic_ref<int64_t, cuda::thread_scope_device>;
constexpr auto RELAXED = cuda::memory_order_relaxed;

__device__ float exact(float logit) { return logit; }
__device__ double exact(double logit) { return logit; }
__device__ float exact(__half logit) { return __half2float(logit); }
__device__ float exact(__nv_bfloat16 logit) { return __bfloat162float(logit); }

// Unsigned integers that rise with the value. -0.0 is below 0.0, but has the same F.
__device__ uint32_t key_of(float value) {
    const int32_t bits = __float_as_int(value);
    return bits ^ (bits >> 31 | INT32_MIN);
}

__device__ uint64_t key_of(double value) {
    const int64_t bits = __double_as_longlong(value);
    return bits ^ (bits >> 63 | INT64_MIN);
}

__device__ float value_of_key(uint32_t key) {
    return __int_as_float(key ^ ((int32_t)~key >> 31 | INT32_MIN));
}

__device__ double value_of_key(uint64_t key) {
    return __longlong_as_double(key ^ ((int64_t)~key >> 63 | INT64_MIN));
}

template <class Logit>
constexpr int passes = (8 * sizeof(exact(Logit())) + BITS - 1) / BITS;

// 16 logits a thread, in loads of 16 bytes where they are aligned; NaN past the end.
template <class Logit, class Value>
__device__ void load_tile(const Logits& logits, int64_t tile, Value (&values)[ITEMS]) {
    constexpr int WIDTH = 16 / sizeof(Logit);
    const Logit* const from = (const Logit*)logits.data + tile * TILE;
    const int64_t left = logits.n - tile * TILE;
    if (left >= TILE && (uintptr_t)from % 16 == 0) {
        uint4 lines[ITEMS / WIDTH];
#pragma unroll
        for (int i = 0; i < ITEMS / WIDTH; ++i)
            lines[i] = ((const uint4*)from)[i * THREADS + threadIdx.x];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            values[i] = exact(((const Logit*)&lines[i / WIDTH])[i % WIDTH]);
    } else {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const int64_t at = i * THREADS + threadIdx.x;
            values[i] = at < left ? exact(from[at]) : __int_as_float(0x7FC00000);
        }
    }
}

template <class Value>
__device__ Value infinity() { return __int_as_float(0x7F800000); }

template <class Value>
__device__ bool valid(Value logit) { return logit < infinity<Value>(); }

// Whether this is the last block of a pass to come here; it sees what the others wrote.
__device__ bool last_of(int64_t* words, int64_t parts) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        last = Word(words[FINISHED]).fetch_add(1, cuda::memory_order_release) == parts - 1;
        cuda::atomic_thread_fence(cuda::memory_order_acquire, cuda::thread_scope_device);
        if (last) words[FINISHED] = 0;
    }
    __syncthreads();
    return last;
}

// F without gamma, clamped: Azadi et al. (2019), equation 8.
__device__ double score(double logit, double log_m, double s) {
    const double t = exponential(log_m - logit).y + s;
    const double f = t > 0.0 ? -logarithm(t) : MAX_GAMMA;
    return f < -MAX_GAMMA ? -MAX_GAMMA : f > MAX_GAMMA ? MAX_GAMMA : f;
}

// A digit of the keys a pass. A pass has a block for each part of the logits. Blocks draw their
// place, so that a block waits only for blocks that run, however few of them do.
template <class Logit>
__global__ void __launch_bounds__(THREADS)
    radix_select(Logits logits, double q, Threshold threshold, double* out, int64_t* words) {
    using Value = decltype(exact(Logit()));
    using Key = decltype(key_of(Value()));
    using Scan = cub::BlockScan<int64_t, THREADS>;
    constexpr int PASSES = passes<Logit>;
    __shared__ typename Scan::TempStorage scratch;
    __shared__ uint32_t counts[BINS];
    __shared__ int64_t shared_place, shared_prefix, shared_rank;

    if (threadIdx.x == 0) {
        shared_place = Word(words[DRAWN]).fetch_add(1, RELAXED);
        shared_rank = 0;
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) counts[i * THREADS + threadIdx.x] = 0;
    __syncthreads();
    const int64_t parts = gridDim.x / PASSES, place = shared_place;
    const int pass = place / parts, shift = (PASSES - 1 - pass) * BITS;
    Value values[ITEMS];
    int64_t tile = place % parts;
    load_tile<Logit>(logits, tile, values);
    if (threadIdx.x == 0) {
        while (Word(words[NEXT]).load(cuda::memory_order_acquire) < pass) __nanosleep(40);
        shared_prefix = words[PREFIX];
    }
    __syncthreads();

    const Key prefix = shared_prefix;
    for (; tile * TILE < logits.n; load_tile<Logit>(logits, tile += parts, values)) {
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const Key key = key_of(values[i]) >> shift;
            if (valid(values[i]) && key >> BITS == prefix) atomicAdd(&counts[key % BINS], 1u);
        }
    }
    __syncthreads();
    auto* const histogram = (unsigned long long*)words + HISTOGRAM;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        const int bin = i * THREADS + threadIdx.x;
        if (counts[bin]) atomicAdd(&histogram[bin], (unsigned long long)counts[bin]);
    }
    if (!last_of(words, parts)) return;

    int64_t rank = words[RANK], own[OWN], sum = 0, before, total;
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        own[i] = Word(words[HISTOGRAM + threadIdx.x * OWN + i]).exchange(0, RELAXED);
        sum += own[i];
    }
    Scan(scratch).ExclusiveSum(sum, before, total);
    if (pass == 0) {
        rank = ceil(q * (double)total / 100.0);
        rank = rank > 1 ? rank : 1;
    }
#pragma unroll
    for (int i = 0; i < OWN; ++i) {
        if (before < rank && rank <= before + own[i]) {
            shared_prefix = (int64_t)prefix << BITS | threadIdx.x * OWN + i;
            shared_rank = rank - before;
        }
        before += own[i];
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    if (pass < PASSES - 1) {
        words[PREFIX] = shared_prefix, words[RANK] = shared_rank;
        Word(words[NEXT]).store(pass + 1, cuda::memory_order_release);
    } else {
        words[DRAWN] = words[PREFIX] = words[RANK] = words[NEXT] = 0;
        const double found = value_of_key((Key)shared_prefix);
        *out = total > 0 ? score(found, value_of(threshold.log_m, 0), threshold.s)
                         : __longlong_as_double(0x7FF8000000000000);
    }
}

// Of all threads' values, in thread 0.
__device__ double block_top(double value) {
    __shared__ double tops[THREADS];
    tops[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half && tops[threadIdx.x + half] > tops[threadIdx.x])
            tops[threadIdx.x] = tops[threadIdx.x + half];
    }
    return tops[threadIdx.x];
}

template <class Logit>
__global__ void __launch_bounds__(THREADS) top(Logits logits, double* out, int64_t* words) {
    using Value = decltype(exact(Logit()));
    Value values[ITEMS], most = -infinity<Value>();
    for (int64_t tile = blockIdx.x; tile * TILE < logits.n; tile += gridDim.x) {
        load_tile<Logit>(logits, tile, values);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            if (valid(values[i]) && values[i] > most) most = values[i];
    }
    const double own = block_top(most);
    int64_t* const parts = words + HISTOGRAM;
    if (threadIdx.x == 0) parts[blockIdx.x] = __double_as_longlong(own);
    if (!last_of(words, gridDim.x)) return;
    double all = -infinity<double>();
    for (int part = threadIdx.x; part < gridDim.x; part += THREADS) {
        const double value = __longlong_as_double(Word(parts[part]).exchange(0, RELAXED));
        if (value > all) all = value;
    }
    all = block_top(all);
    if (threadIdx.x == 0) *out = all + 0.0;
}

unsigned parts_of(int64_t n) {
    const int64_t tiles = (n + TILE - 1) / TILE;
    return tiles < 1 ? 1 : tiles < MOST_PARTS ? tiles : MOST_PARTS;
}

}  // namespace

const char* quantile_gamma(Stream where, Logits logits, double q, Threshold threshold, double* out,
                           int64_t* words) {
    return launch(where, logits.kind, [&](auto logit) {
        run(where, parts_of(logits.n) * passes<decltype(logit)>, radix_select<decltype(logit)>,
            logits, q, threshold, out, words);
    });
}

const char* largest(Stream where, Logits logits, double* out, int64_t* words) {
    return launch(where, logits.kind, [&](auto logit) {
        run(where, parts_of(logits.n), top<decltype(logit)>, logits, out, words);
    });
}

}  // namespace drs
