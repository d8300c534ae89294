// Accept and compact in one launch, by decoupled look-back.
// Source: Merrill and Garland, Single-pass parallel prefix scan with decoupled look-back (2016).
#include <cub/block/block_scan.cuh>
#include <cuda/atomic>
#include <launch.cuh>  // from this folder, or the emulator's

#include "arithmetic.cuh"
#include "gpu.hpp"
#include "rows.cuh"

namespace drs {
namespace {

constexpr int TILE = TILE_ROWS, ITEMS = TILE / THREADS;
static_assert(ITEMS * THREADS == TILE);

using Word = cuda::atomic_ref<int64_t, cuda::thread_scope_device>;
constexpr auto RELAXED = cuda::memory_order_relaxed;

__device__ int64_t status(int64_t epoch, int64_t flag, int64_t count) {
    return epoch << EPOCH_SHIFT | flag << FLAG_SHIFT | count;
}

// How many rows earlier tiles accepted; one warp looks at 32 tiles at a time.
__device__ int64_t look_back(int64_t* words, int64_t tile, int64_t epoch) {
    const int lane = threadIdx.x & 31;
    int64_t before = 0;
    for (int64_t nearest = tile - 1; nearest >= 0;) {
        const int64_t at = nearest - lane;
        int64_t flag = INCLUSIVE;
        uint32_t count = 0;
        if (at >= 0) {
            const int64_t word = Word(words[at]).load(RELAXED);
            flag = word >> EPOCH_SHIFT == epoch ? word >> FLAG_SHIFT & 3 : 0;
            count = word & COUNT_MASK;
        }
        const uint32_t missing = __ballot_sync(~0u, flag == 0);
        const uint32_t inclusive = __ballot_sync(~0u, flag == INCLUSIVE);
        const uint32_t first = inclusive & -inclusive;  // the nearest tile that knows all before it
        if (inclusive && !(missing & (first - 1))) {
            const bool counts = 1u << lane <= first;
            return before + __reduce_add_sync(~0u, counts ? count : 0u);
        }
        if (!missing) {
            before += __reduce_add_sync(~0u, count);
            nearest -= 32;
        }
    }
    return before;
}

// In one thread of the last block: writes totals to their places, readies the workspace for reuse.
__device__ void finish(const Output& out, int64_t* words, int64_t status_words, int64_t epoch,
                       int64_t n, int64_t limit) {
    const int64_t total = words[TOTAL], invalid = words[INVALID], above = words[ABOVE];
    if (out.state) {
        const int64_t end = out.state[RING_CURSOR] + total;
        if (end <= limit) out.state[RING_CURSOR] = end;
        else if (out.state[RING_CURSOR] < limit) out.state[RING_CURSOR] = limit;
        out.state[RING_ROW] += n;
        out.state[RING_INVALID] += invalid;
        out.state[RING_ABOVE] += above;
    } else {
        *out.count = total < limit ? total : limit;
        *out.invalid = invalid;
        *out.above = above;
    }
    words[TICKET] = words[DONE] = words[TOTAL] = words[INVALID] = words[ABOVE] = 0;
    words[EPOCH] = epoch + 1 & EPOCH_MASK;
    if (words[EPOCH] == 0)
        for (int64_t i = 0; i < status_words; ++i) words[HEADER + i] = 0;
}

template <class Logit>
__global__ void __launch_bounds__(THREADS)
    single_pass(Logits logits, Rows rows, Threshold threshold, Output out, Workspace workspace) {
    using Scan = cub::BlockScan<int, THREADS>;
    __shared__ typename Scan::TempStorage scratch;
    __shared__ uint16_t indices[TILE];
    __shared__ int64_t shared_tile, shared_start;

    int64_t* const words = workspace.words;
    if (threadIdx.x == 0) shared_tile = Word(words[TICKET]).fetch_add(1, RELAXED);
    __syncthreads();
    const int64_t tile = shared_tile, epoch = words[EPOCH], n = logits.n, first = tile * TILE;
    int64_t cursor = 0, limit = out.capacity;
    if (out.state) {
        cursor = out.state[RING_CURSOR], limit = out.state[RING_LIMIT];
        rows.row = out.state[RING_ROW];
    }

    int kept = 0, odd = 0;
    bool keep[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int64_t index = first + threadIdx.x * ITEMS + i;
        keep[i] = false;
        if (index >= n) continue;
        const double value = wide(((const Logit*)logits.data)[index]);
        const double log_m = value_of(threshold.log_m, index), c1 = c1_of(threshold, index);
        const uint4 word = philox(rows.seed, row_number(rows, index), ACCEPT, 0);
        keep[i] = decide(value, uniform_bits(word), log_m, c1, threshold.s);
        const bool valid = value < __longlong_as_double(0x7FF0000000000000);
        kept += keep[i];
        odd += valid ? value > log_m : 1 << 16;
    }
    odd = __reduce_add_sync(~0u, odd);
    if (odd && (threadIdx.x & 31) == 0) {
        Word(words[INVALID]).fetch_add(odd >> 16, RELAXED);
        Word(words[ABOVE]).fetch_add(odd & 0xFFFF, RELAXED);
    }

    int place, count;
    Scan(scratch).ExclusiveSum(kept, place, count);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
        if (keep[i]) indices[place++] = threadIdx.x * ITEMS + i;

    if (threadIdx.x < 32) {
        int64_t* const words_of_tiles = words + HEADER;
        const Word own(words_of_tiles[tile]);
        if (threadIdx.x == 0) own.store(status(epoch, tile ? ALONE : INCLUSIVE, count), RELAXED);
        const int64_t before = look_back(words_of_tiles, tile, epoch);
        if (threadIdx.x == 0) {
            if (tile) own.store(status(epoch, INCLUSIVE, before + count), RELAXED);
            if (tile == gridDim.x - 1) Word(words[TOTAL]).store(before + count, RELAXED);
            shared_start = cursor + before;
        }
    }
    __syncthreads();
    const int64_t start = shared_start;
    if (threadIdx.x == 0 &&
        Word(words[DONE]).fetch_add(1, cuda::memory_order_acq_rel) == gridDim.x - 1)
        finish(out, words, workspace.status_words, epoch, n, limit);

    const int64_t room = limit - start;
    const Kept tile_rows{indices, first, start, out.slots, (int)(count < room ? count : room)};
    for (int k = threadIdx.x; k < tile_rows.count; k += THREADS) {
        const int64_t index = tile_rows.index(k), slot = tile_rows.slot(k);
        out.ids[slot] = row_number(rows, index);
        ((Logit*)out.logit)[slot] = ((const Logit*)logits.data)[index];
    }
    for (int i = 0; i < out.count_of_tensors; ++i) copy_rows(out.tensors[i], tile_rows);
    if (out.z) make_latents(out.z, out.d, rows, tile_rows);
}

}  // namespace

const char* accept_compact(Stream where, Logits logits, Rows rows, Threshold threshold, Output out,
                           Workspace workspace) {
    const dim3 tiles((logits.n + TILE - 1) / TILE);
    return launch(where, logits.kind, [&](auto logit) {
        run(where, tiles, single_pass<decltype(logit)>, logits, rows, threshold, out, workspace);
    });
}

}  // namespace drs
