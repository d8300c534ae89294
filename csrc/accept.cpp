// The ops on logits: probability, accept, accept_compact, order_statistic; and the bare gather.
#include <cmath>

#include "kernels.hpp"
#include "parallel.hpp"

namespace drs {
namespace {

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
