// The random ops: uniform, words, normal.
#include "kernels.hpp"
#include "parallel.hpp"

namespace drs {

void uniform(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int threads, double* out) {
    parallel(n, threads, [&](int64_t, int64_t begin, int64_t end) {
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
    parallel(n * draws, threads, [&](int64_t, int64_t begin, int64_t end) {
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

}  // namespace drs
