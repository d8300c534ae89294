// Reads logits and row numbers, copies and makes accepted rows.
#pragma once

#include "arithmetic.cuh"
#include "gpu.hpp"

namespace drs {

__device__ inline double wide(double logit) { return logit; }
__device__ inline double wide(float logit) { return logit; }
__device__ inline double wide(__half logit) { return __half2float(logit); }
__device__ inline double wide(__nv_bfloat16 logit) { return __bfloat162float(logit); }

__device__ inline int64_t row_number(const Rows& rows, int64_t index) {
    return rows.ids ? rows.ids[index] : rows.row + index;
}

__device__ inline double value_of(const Parameter& parameter, int64_t index) {
    return parameter.data ? parameter.data[parameter.per_row ? index : 0] : parameter.number;
}

__device__ inline double c1_of(const Threshold& threshold, int64_t index) {
    return exponential(value_of(threshold.gamma, index)).x;
}

struct Kept {  // accepted rows of a tile, and which part of their words a block copies
    const uint16_t* indices;
    int64_t first, start, slots;
    int count;
    unsigned part, parts;

    __device__ int64_t index(int k) const { return first + indices[k]; }
    __device__ int64_t slot(int k) const { return (start + k) & slots; }
};

struct Team {  // as many threads as a row has words, at most a warp
    int shift, lanes, lane, row, rows;  // lanes = 1 << shift

    __device__ explicit Team(int64_t width) {
        shift = width >= 32 ? 5 : 0;
        while (1 << shift < width && shift < 5) ++shift;
        lanes = 1 << shift, lane = threadIdx.x & (lanes - 1);
        row = threadIdx.x >> shift, rows = blockDim.x >> shift;
    }
};

// The pieces of a tile's accepted rows, each a word for every thread of a team. They go in turn to
// the teams of all blocks that share the tile, so that few wide rows are work for many blocks.
class Pieces {
    const Team team;
    unsigned per_row, piece, more_rows, more_pieces;  // more: to the team's next piece

  public:
    int k;  // which accepted row

    __device__ Pieces(int64_t width, const Kept& kept) : team(width) {
        const unsigned first = kept.part * team.rows + team.row, step = kept.parts * team.rows;
        per_row = (width + team.lanes - 1) >> team.shift;
        k = first / per_row, piece = first % per_row;
        more_rows = step / per_row, more_pieces = step % per_row;
    }

    __device__ int64_t column() const { return ((int64_t)piece << team.shift) + team.lane; }

    __device__ void advance() {
        k += more_rows, piece += more_pieces;
        if (piece >= per_row) piece -= per_row, ++k;
    }
};

// Streaming, because data used once should not displace data that is used again.
template <class Word>
__device__ inline void copy_words(const RowTensor& tensor, const Kept& kept) {
    constexpr int LOADS = 4;  // in flight
    const Word* const source = (const Word*)tensor.source;
    Word* const target = (Word*)tensor.target;
    Pieces from(tensor.width, kept), to = from;
    while (to.k < kept.count) {
        Word word[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; ++i, from.advance())
            if (from.k < kept.count && from.column() < tensor.width)
                word[i] = __ldcs(source + kept.index(from.k) * tensor.stride + from.column());
#pragma unroll
        for (int i = 0; i < LOADS; ++i, to.advance())
            if (to.k < kept.count && to.column() < tensor.width)
                __stcs(target + kept.slot(to.k) * tensor.width + to.column(), word[i]);
    }
}

__device__ inline void copy_rows(const RowTensor& tensor, const Kept& kept) {
    switch (tensor.word) {
        case 16: return copy_words<uint4>(tensor, kept);
        case 8: return copy_words<uint2>(tensor, kept);
        case 4: return copy_words<uint32_t>(tensor, kept);
        case 2: return copy_words<uint16_t>(tensor, kept);
        default: return copy_words<uint8_t>(tensor, kept);
    }
}

__device__ inline void store_normals(float* row, int64_t d, int64_t draw, float4 value) {
    float* const at = row + 4 * draw;
    if (d % 4 == 0 && (uintptr_t)row % 16 == 0) return __stcs((float4*)at, value);
    const float values[] = {value.x, value.y, value.z, value.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
        if (4 * draw + j < d) at[j] = values[j];
}

__device__ inline void make_latents(float* z, int64_t d, const Rows& rows, const Kept& kept) {
    const int64_t draws = (d + 3) / 4;
    for (Pieces at(draws, kept); at.k < kept.count; at.advance()) {
        if (at.column() >= draws) continue;
        const uint64_t number = row_number(rows, kept.index(at.k));
        store_normals(z + kept.slot(at.k) * d, d, at.column(),
                      normals(rows.seed, number, LATENT, at.column()));
    }
}

}  // namespace drs
