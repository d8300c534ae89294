// The ops on groups of candidates, walk and select; and the steps of Langevin chains.
#include <cmath>
#include <memory>

#include "kernels.hpp"
#include "parallel.hpp"

namespace drs {
namespace {

inline bool valid(double logit) { return logit < (double)INFINITY; }
inline bool finite(double logit) { return logit - logit == 0.0; }

// Calls work(first, last) on parts of the groups.
template <class Work>
void for_groups(int64_t groups, int64_t candidates, int threads, const Work& work) {
    parallel(groups * candidates, threads, [&](int64_t, int64_t begin, int64_t end) {
        work((begin + candidates - 1) / candidates, (end + candidates - 1) / candidates);
    });
}

inline double uniform_of(const Words& words, int k) {
    return (double)((uint64_t)words.w[0][k] << 21 | words.w[1][k] >> 11) * UNIFORM_UNIT;
}

// The words of the counters (row(i), draw(i)) for i from `first` on.
template <class Row, class Draw>
void fill(Key key, uint32_t stream, int64_t first, int count, Row row, Draw draw, Words& words) {
    alignas(64) uint64_t rows[TILE], draws[TILE];
    const int padded = (count + PACK - 1) / PACK * PACK;
    for (int k = 0; k < padded; ++k) {
        const int64_t i = first + std::min(k, count - 1);
        rows[k] = (uint64_t)row(i);
        draws[k] = (uint64_t)draw(i);
    }
    kernels().words(key, rows, stream, draws, padded, words);
}

// A NaN state means there is none yet; any valid candidate replaces it.
inline bool moves(double current, double next, double u) {
    if (std::isnan(current)) return valid(next);
    const double d = next - current;
    return finite(next) && (d >= 0.0 || u < exponential(d));
}

// The weights of a group's logits, exp(logit - the largest).
template <class Real>
void weigh(const Real* logit, int64_t candidates, double* weight) {
    double top = -INFINITY;
    for (int64_t k = 0; k < candidates; ++k)
        if (valid(logit[k]) && logit[k] > top) top = logit[k];
    for (int64_t k = 0; k < candidates; ++k) weight[k] = logit[k] - top;
    kernels().exponentials(weight, candidates);
    for (int64_t k = 0; k < candidates; ++k) weight[k] = finite(logit[k]) ? weight[k] : 0.0;
}

// Draws one by the running sum of the weights and removes its weight; -1 if none is left.
int64_t take(double* weight, int64_t candidates, double u) {
    double total = 0.0, sum = 0.0;
    for (int64_t k = 0; k < candidates; ++k) total += weight[k];
    for (int64_t k = 0; k < candidates; ++k) {
        sum += weight[k];
        if (sum > u * total) {
            weight[k] = 0.0;
            return k;
        }
    }
    return -1;
}

}  // namespace

void walk(Logits logits, Rows rows, const double* start, int64_t groups, int64_t candidates,
          int threads, int64_t* ends, int64_t* counts) {
    const auto row = [&](int64_t i) { return number(rows, i); };
    const auto draw = [](int64_t) { return 0; };
    typed(logits, [&](auto logit) {
        for_groups(groups, candidates, threads, [&](int64_t first, int64_t last) {
            const int64_t end = last * candidates;
            Words words;
            alignas(64) double offered[TILE], low[TILE], high[TILE];
            double current = NAN;
            int64_t b = first, k = 0, index = -1, moved = 0;
            for (int64_t i = first * candidates; i < end; i += TILE) {
                const int count = (int)std::min<int64_t>(TILE, end - i);
                fill(key_of(rows), CHAIN, i, count, row, draw, words);
                std::copy(logit + i, logit + i + count, offered);
                kernels().bounds(offered, words.w[0], count, low, high);
                for (int j = 0; j < count; ++j) {
                    if (k == 0) {
                        current = start && valid(start[b]) ? start[b] : NAN;
                        index = -1, moved = 0;
                    }
                    if ((current < low[j]) | (current > high[j])) {
                        index = current < low[j] ? k : index;  // no branch, because it could not be predicted
                        moved += current < low[j];
                        current = current < low[j] ? offered[j] : current;
                    } else if (moves(current, offered[j], uniform_of(words, j))) {
                        index = k, ++moved;
                        current = offered[j];
                    }
                    if (++k == candidates) ends[b] = index, counts[b++] = moved, k = 0;
                }
            }
        });
    });
}

void select(Logits logits, Rows rows, int64_t groups, int64_t candidates, int64_t size,
            bool replace, int threads, int64_t* out) {
    const auto row = [&](int64_t i) { return number(rows, i / size * candidates); };
    const auto draw = [&](int64_t i) { return i % size; };
    const std::unique_ptr<double[]> room(new double[(size_t)(groups * candidates)]);
    typed(logits, [&](auto logit) {
        for_groups(groups, candidates, threads, [&](int64_t first, int64_t last) {
            const int64_t end = last * size;
            Words words;
            int64_t i = first * size;
            int next = TILE;
            for (int64_t b = first; b < last; ++b) {
                double *weight = room.get() + b * candidates, *after = weight + candidates;
                weigh(logit + b * candidates, candidates, weight);
                if (replace)
                    for (double* w = weight + 1; w < after; ++w) *w += w[-1];
                for (int64_t j = 0; j < size; ++j) {
                    if (next == TILE) {
                        fill(key_of(rows), SELECT, i, (int)std::min<int64_t>(TILE, end - i), row,
                             draw, words);
                        i += TILE, next = 0;
                    }
                    const double u = uniform_of(words, next++);
                    int64_t& index = out[b * size + j];
                    if (!replace) {
                        index = take(weight, candidates, u);
                        continue;
                    }
                    index = std::upper_bound(weight, after, u * after[-1]) - weight;
                    if (index == candidates) index = -1;
                }
            }
        });
    });
}

void langevin(const float* z, const float* grad, Rows rows, uint32_t draw, int64_t n, int64_t d,
              float drift, float scale, int threads, float* out) {
    normal(rows, NOISE, draw, n, d, threads, out);
    parallel(n * d, threads, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = (z[i] + drift * grad[i]) + scale * out[i];
    });
}

}  // namespace drs
