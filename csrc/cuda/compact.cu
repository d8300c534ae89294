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

constexpr int BLOCKS_AT_ONCE = 3;  // per multiprocessor; core/compacted.py counts on it

using Word = cuda::atomic_ref<int64_t, cuda::thread_scope_device>;
constexpr auto RELAXED = cuda::memory_order_relaxed;

__device__ int64_t status(int64_t epoch, int64_t flag, int64_t count) {
    return epoch << EPOCH_SHIFT | flag << FLAG_SHIFT | count;
}

// How many rows earlier tiles accepted. One warp loads WINDOWS times 32 words at a time, nearest
// first, and goes by them 32 at a time.
template <int WINDOWS>
__device__ int64_t look_back(int64_t* words, int64_t tile, int64_t epoch) {
    const int lane = threadIdx.x & 31;
    int64_t before = 0;
    for (int64_t nearest = tile - 1; nearest >= 0;) {
        int64_t word[WINDOWS];
#pragma unroll
        for (int i = 0; i < WINDOWS; ++i) {
            const int64_t at = nearest - 32 * i - lane;
            word[i] = at < 0 ? status(epoch, INCLUSIVE, 0) : Word(words[at]).load(RELAXED);
        }
#pragma unroll
        for (int i = 0; i < WINDOWS; ++i) {
            const int64_t flag = word[i] >> EPOCH_SHIFT == epoch ? word[i] >> FLAG_SHIFT & 3 : 0;
            const uint32_t count = word[i] & COUNT_MASK;
            const uint32_t missing = __ballot_sync(~0u, flag == 0);
            const uint32_t inclusive = __ballot_sync(~0u, flag == INCLUSIVE);
            const uint32_t first = inclusive & -inclusive;  // the nearest that knows all before it
            if (inclusive && !(missing & (first - 1))) {
                const bool counts = 1u << lane <= first;
                return before + __reduce_add_sync(~0u, counts ? count : 0u);
            }
            if (missing) break;
            before += __reduce_add_sync(~0u, count);
            nearest -= 32;
        }
    }
    return before;
}

// In one thread of the last block: writes totals to their places, readies the workspace for reuse.
__device__ void finish(const Output& out, int64_t* words, int64_t status_words, int64_t n) {
    const int64_t total = words[TOTAL], invalid = words[INVALID], above = words[ABOVE];
    if (out.state) {
        const int64_t end = out.state[RING_CURSOR] + total, limit = out.state[RING_LIMIT];
        if (end <= limit) out.state[RING_CURSOR] = end;
        else if (out.state[RING_CURSOR] < limit) out.state[RING_CURSOR] = limit;
        out.state[RING_ROW] += n;
        out.state[RING_INVALID] += invalid;
        out.state[RING_ABOVE] += above;
    } else {
        *out.count = total < out.capacity ? total : out.capacity;
        *out.invalid = invalid;
        *out.above = above;
    }
    words[TICKET] = words[DONE] = words[TOTAL] = words[INVALID] = words[ABOVE] = 0;
    words[EPOCH] = words[EPOCH] + 1 & EPOCH_MASK;
    if (words[EPOCH] == 0)
        for (int64_t i = 0; i < status_words; ++i) words[HEADER + i] = 0;
}

// Tiles are taken by ticket, so that a tile waits only for running tiles. The blocks that share a
// tile all decide on it, which is cheap; the first of them says what it found.
template <class Logit, int TILE>
__global__ void __launch_bounds__(THREADS, BLOCKS_AT_ONCE)
    single_pass(Logits logits, Rows rows, Threshold threshold, Output out, Workspace workspace,
                unsigned parts) {
    constexpr int ITEMS = TILE / THREADS;
    static_assert(ITEMS * THREADS == TILE);
    using Scan = cub::BlockScan<int, THREADS>;
    __shared__ typename Scan::TempStorage scratch;
    __shared__ uint16_t indices[TILE];
    __shared__ unsigned shared_ticket;
    __shared__ int64_t shared_start;

    int64_t* const words = workspace.words;
    unsigned ticket = 0;
    if (threadIdx.x == 0) ticket = Word(words[TICKET]).fetch_add(1, RELAXED);
    // What does not depend on the tile, while the ticket is on its way.
    const int64_t epoch = words[EPOCH], n = logits.n;
    double c1 = c1_of(threshold, 0);
    int64_t cursor = 0, limit = out.capacity;
    if (out.state) {
        cursor = out.state[RING_CURSOR], limit = out.state[RING_LIMIT];
        rows.row = out.state[RING_ROW];
    }
    if (threadIdx.x == 0) shared_ticket = ticket;
    __syncthreads();
    const unsigned tile = shared_ticket / parts, part = shared_ticket % parts;
    const int64_t first = (int64_t)tile * TILE;

    int kept = 0, odd = 0;
    bool keep[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int64_t index = first + threadIdx.x * ITEMS + i;
        keep[i] = false;
        if (index >= n) continue;
        const double value = wide(((const Logit*)logits.data)[index]);
        const double log_m = value_of(threshold.log_m, index);
        if (threshold.gamma.per_row) c1 = c1_of(threshold, index);
        const uint4 word = philox(rows.seed, row_number(rows, index), ACCEPT, 0);
        keep[i] = decide(value, uniform_bits(word), log_m, c1, threshold.s);
        const bool valid = value < __longlong_as_double(0x7FF0000000000000);
        kept += keep[i];
        odd += valid ? value > log_m : 1 << 16;
    }
    odd = __reduce_add_sync(~0u, odd);
    if (odd && part == 0 && (threadIdx.x & 31) == 0) {
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
        const bool speaks = threadIdx.x == 0 && part == 0;
        if (speaks) own.store(status(epoch, tile ? ALONE : INCLUSIVE, count), RELAXED);
        const int64_t before = look_back<TILE == SMALL_TILE ? 8 : 1>(words_of_tiles, tile, epoch);
        if (speaks) {
            if (tile) own.store(status(epoch, INCLUSIVE, before + count), RELAXED);
            if (first + TILE >= n) Word(words[TOTAL]).store(before + count, RELAXED);
        }
        if (threadIdx.x == 0) shared_start = cursor + before;
    }
    __syncthreads();
    const int64_t start = shared_start;
    const bool counts = threadIdx.x == THREADS - 1;  // its warp has the fewest rows
    unsigned done = 0;
    if (counts) {
        cuda::atomic_thread_fence(cuda::memory_order_release, cuda::thread_scope_device);
        done = Word(words[DONE]).fetch_add(1, RELAXED);
    }

    const int64_t room = limit - start;
    const Kept tile_rows{indices, first, start, out.slots, (int)(count < room ? count : room),
                         part,    parts};
    for (int i = 0; i < out.count_of_tensors; ++i) copy_rows(out.tensors[i], tile_rows);
    if (out.z) make_latents(out.z, out.d, rows, tile_rows);
    if (part == 0) {
        for (int k = threadIdx.x; k < tile_rows.count; k += THREADS) {
            const int64_t index = tile_rows.index(k), slot = tile_rows.slot(k);
            out.ids[slot] = row_number(rows, index);
            ((Logit*)out.logit)[slot] = ((const Logit*)logits.data)[index];
        }
    }
    // Last, so that the rows are on their way before the count of blocks is back.
    if (counts && done == gridDim.x - 1) {
        cuda::atomic_thread_fence(cuda::memory_order_acquire, cuda::thread_scope_device);
        finish(out, words, workspace.status_words, n);
    }
}

}  // namespace

const char* accept_compact(Stream where, Logits logits, Rows rows, Threshold threshold, Output out,
                           Workspace workspace, Tiling tiling) {
    const unsigned parts = tiling.parts;
    const dim3 blocks((logits.n + tiling.rows - 1) / tiling.rows * parts);
    return launch(where, logits.kind, [&](auto logit) {
        const auto kernel = tiling.rows == SMALL_TILE ? single_pass<decltype(logit), SMALL_TILE>
                                                      : single_pass<decltype(logit), TILE_ROWS>;
        run(where, blocks, kernel, logits, rows, threshold, out, workspace, parts);
    });
}

}  // namespace drs
