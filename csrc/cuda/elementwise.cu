// Uniforms, words, normals, probabilities, weights and decisions: one thread per row or per four elements.
#include <launch.cuh>  // from this folder, or the emulator's

#include "gpu.hpp"
#include "rows.cuh"

namespace drs {
namespace {

__device__ int64_t thread_number() { return (int64_t)blockIdx.x * THREADS + threadIdx.x; }

unsigned blocks(int64_t threads) { return (threads + THREADS - 1) / THREADS; }

__global__ void __launch_bounds__(THREADS)
    uniforms(Rows rows, uint32_t stream, uint32_t draw, int64_t n, double* out) {
    const int64_t i = thread_number();
    if (i < n)
        out[i] = uniform_bits(philox(rows.seed, row_number(rows, i), stream, draw)) * UNIFORM_UNIT;
}

// Threads of one row are neighbours; blockIdx.y runs along a row.
struct Place {
    int64_t row, draw;
};

__device__ Place place(int64_t draws) {
    const Team team(draws);
    return {(int64_t)blockIdx.x * team.rows + team.row, (int64_t)blockIdx.y * team.lanes + team.lane};
}

dim3 grid(int64_t n, int64_t draws) {
    int64_t lanes = 1;
    while (lanes < draws && lanes < 32) lanes *= 2;
    return {(unsigned)((n * lanes + THREADS - 1) / THREADS), (unsigned)((draws + lanes - 1) / lanes)};
}

__global__ void __launch_bounds__(THREADS)
    word_rows(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int64_t* out) {
    const Place at = place((d + 3) / 4);
    if (at.row >= n || 4 * at.draw >= d) return;
    const uint4 word = philox(rows.seed, row_number(rows, at.row), stream, draw + at.draw);
    const uint32_t words[] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
        if (4 * at.draw + j < d) out[at.row * d + 4 * at.draw + j] = words[j];
}

__global__ void __launch_bounds__(THREADS)
    normal_rows(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, float* out) {
    const Place at = place((d + 3) / 4);
    if (at.row >= n || 4 * at.draw >= d) return;
    const uint64_t number = row_number(rows, at.row);
    store_normals(out + at.row * d, d, at.draw,
                  normals(rows.seed, number, stream, draw + at.draw));
}

template <class Logit>
__global__ void __launch_bounds__(THREADS)
    probabilities(Logits logits, Threshold threshold, double* out) {
    const int64_t i = thread_number();
    if (i >= logits.n) return;
    const double value = wide(((const Logit*)logits.data)[i]);
    const double2 t = terms(value, value_of(threshold.log_m, i), c1_of(threshold, i), threshold.s);
    out[i] = finite(value) ? t.x / (t.x + t.y) : 0.0;
}

template <class Logit>
__global__ void __launch_bounds__(THREADS)
    weights(Logits logits, Threshold threshold, double* out) {
    const int64_t i = thread_number();
    if (i >= logits.n) return;
    const double value = wide(((const Logit*)logits.data)[i]);
    const double2 t = terms(value, value_of(threshold.log_m, i), c1_of(threshold, i), threshold.s);
    out[i] = finite(value) ? t.x + t.y : 0.0;
}

template <class Logit>
__global__ void __launch_bounds__(THREADS)
    decisions(Logits logits, Rows rows, Threshold threshold, bool* out) {
    const int64_t i = thread_number();
    if (i >= logits.n) return;
    const double value = wide(((const Logit*)logits.data)[i]);
    const int64_t bits = uniform_bits(philox(rows.seed, row_number(rows, i), ACCEPT, 0));
    out[i] = decide(value, bits, value_of(threshold.log_m, i), c1_of(threshold, i), threshold.s);
}

}  // namespace

const char* uniform(Stream where, Rows rows, uint32_t stream, uint32_t draw, int64_t n,
                    double* out) {
    return launch(where, Kind::FLOAT32, [&](auto) {
        run(where, blocks(n), uniforms, rows, stream, draw, n, out);
    });
}

const char* words(Stream where, Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d,
                  int64_t* out) {
    return launch(where, Kind::FLOAT32, [&](auto) {
        run(where, grid(n, (d + 3) / 4), word_rows, rows, stream, draw, n, d, out);
    });
}

const char* normal(Stream where, Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d,
                   float* out) {
    return launch(where, Kind::FLOAT32, [&](auto) {
        run(where, grid(n, (d + 3) / 4), normal_rows, rows, stream, draw, n, d, out);
    });
}

const char* probability(Stream where, Logits logits, Threshold threshold, double* out) {
    return launch(where, logits.kind, [&](auto logit) {
        run(where, blocks(logits.n), probabilities<decltype(logit)>, logits, threshold, out);
    });
}

const char* weight(Stream where, Logits logits, Threshold threshold, double* out) {
    return launch(where, logits.kind, [&](auto logit) {
        run(where, blocks(logits.n), weights<decltype(logit)>, logits, threshold, out);
    });
}

const char* accept(Stream where, Logits logits, Rows rows, Threshold threshold, bool* out) {
    return launch(where, logits.kind, [&](auto logit) {
        run(where, blocks(logits.n), decisions<decltype(logit)>, logits, rows, threshold, out);
    });
}

int device_count(const char** error) { return devices(error); }

}  // namespace drs
