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

struct Kept {  // accepted rows of a tile
    const uint16_t* indices;
    int64_t first, start, slots;
    int count;

    __device__ int64_t index(int k) const { return first + indices[k]; }
    __device__ int64_t slot(int k) const { return (start + k) & slots; }
};

struct Team {  // as many threads as a row has words, at most a warp
    int lanes, lane, row, rows;

    __device__ explicit Team(int64_t width) {
        lanes = width >= 32 ? 32 : 1;
        while (lanes < width && lanes < 32) lanes *= 2;
        lane = threadIdx.x & (lanes - 1), row = threadIdx.x / lanes, rows = blockDim.x / lanes;
    }
};

// Streaming, because data used once should not displace data that is used again.
template <class Word>
__device__ inline void copy_words(const RowTensor& tensor, const Kept& kept) {
    constexpr int ROWS = 4;  // loads in flight
    const Word* const source = (const Word*)tensor.source;
    Word* const target = (Word*)tensor.target;
    const Team team(tensor.width);
    for (int k = team.row; k < kept.count; k += team.rows * ROWS) {
        for (int64_t column = team.lane; column < tensor.width; column += team.lanes) {
            Word word[ROWS];
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
                if (k + i * team.rows < kept.count)
                    word[i] = __ldcs(source + kept.index(k + i * team.rows) * tensor.stride + column);
#pragma unroll
            for (int i = 0; i < ROWS; ++i)
                if (k + i * team.rows < kept.count)
                    __stcs(target + kept.slot(k + i * team.rows) * tensor.width + column, word[i]);
        }
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
    const Team team(draws);
    for (int k = team.row; k < kept.count; k += team.rows) {
        const uint64_t number = row_number(rows, kept.index(k));
        float* const row = z + kept.slot(k) * d;
        for (int64_t draw = team.lane; draw < draws; draw += team.lanes)
            store_normals(row, d, draw, normals(rows.seed, number, LATENT, draw));
    }
}

}  // namespace drs
