// The ops on logits: probability, weight, accept, accept_compact, order_statistic; and the bare gather.
#include <cmath>
#include <memory>

#include "kernels.hpp"
#include "parallel.hpp"

namespace drs {
namespace {

auto decide_of(const float*) { return kernels().decide_float; }
auto decide_of(const double*) { return kernels().decide_double; }
auto probability_of(const float*) { return kernels().probability_float; }
auto probability_of(const double*) { return kernels().probability_double; }
auto weight_of(const float*) { return kernels().weight_float; }
auto weight_of(const double*) { return kernels().weight_double; }

RowTensor streamable(RowTensor t, int64_t n) {
    t.streamed = t.row_bytes % LINE == 0 && (uintptr_t)t.target % LINE == 0 &&
                 t.row_bytes * n >= STREAMED_BYTES;
    return t;
}

// Uninitialised space for indices. It is kept for the thread's next call unless it is large,
// because fresh pages cost as much as the decisions.
struct Scratch {
    static constexpr int64_t KEPT = 4 << 20;
    int64_t* data;

    explicit Scratch(int64_t size) {
        thread_local std::unique_ptr<int64_t[]> kept;
        thread_local int64_t kept_size = 0;
        if (size > kept_size) {
            std::unique_ptr<int64_t[]> fresh(new int64_t[size]);
            if (size > KEPT) {
                own = std::move(fresh);
            } else {
                kept = std::move(fresh);
                kept_size = size;
            }
        }
        data = own ? own.get() : kept.get();
    }

private:
    std::unique_ptr<int64_t[]> own;
};

// Writes the accepted rows of [begin, end) to `kept`, which has space for one more pack.
template <class Real>
Counts decide(const Real* logit, const Rows& rows, const Threshold& threshold, int64_t begin,
              int64_t end, int64_t* kept) {
    if (begin == end) return {0, 0, 0};  // a threshold per row then has no address
    const int64_t whole = whole_packs(end - begin), last = begin + whole;
    const auto decide = decide_of(logit);
    Counts counts =
        decide(logit + begin, from(rows, begin), from(threshold, begin), begin, whole, kept);
    if (last == end) return counts;
    const Tail<Real> tail(logit, rows, threshold, last, end);
    const Counts rest =
        decide(tail.logit, tail.rows, tail.threshold, last, PACK, kept + counts.count);
    return {counts.count + rest.count, counts.invalid + rest.invalid, counts.above + rest.above};
}

// A float64 of every row, by the function that `of` finds for the type of the logits.
template <class Of>
void per_row(Logits logits, const Threshold& threshold, int64_t n, int threads, double* out, Of of) {
    typed(logits, [&](auto logit) {
        const auto function = of(logit);
        parallel(n, threads, [&](int64_t, int64_t begin, int64_t end) {
            const int64_t whole = whole_packs(end - begin), last = begin + whole;
            function(logit + begin, from(threshold, begin), whole, out + begin);
            if (last == end) return;
            const Tail tail(logit, Rows{}, threshold, last, end);
            double found[PACK];
            function(tail.logit, tail.threshold, PACK, found);
            std::copy(found, found + (end - last), out + last);
        });
    });
}

}  // namespace

void probability(Logits logits, Threshold threshold, int64_t n, int threads, double* out) {
    per_row(logits, threshold, n, threads, out, [](auto logit) { return probability_of(logit); });
}

void weight(Logits logits, Threshold threshold, int64_t n, int threads, double* out) {
    per_row(logits, threshold, n, threads, out, [](auto logit) { return weight_of(logit); });
}

void accept(Logits logits, Rows rows, Threshold threshold, int64_t n, int threads, uint8_t* keep) {
    typed(logits, [&](auto logit) {
        parallel(n, threads, [&](int64_t, int64_t begin, int64_t end) {
            int64_t kept[TILE + PACK];
            std::fill(keep + begin, keep + end, 0);
            for (int64_t start = begin; start < end; start += TILE) {
                const int64_t stop = std::min(start + TILE, end);
                const int64_t count = decide(logit, rows, threshold, start, stop, kept).count;
                for (int64_t j = 0; j < count; ++j) keep[kept[j]] = 1;
            }
        });
    });
}

// Decides all rows, then copies; in between, each part learns where its accepted rows go.
Counts accept_compact(Logits logits, Rows rows, Threshold threshold, int64_t n, int threads,
                      const std::vector<RowTensor>& tensors, Place place) {
    struct Part {
        Counts counts;
        int64_t first;
    };
    std::vector<Part> parts((size_t)parts_of(n, threads));
    const Scratch scratch(n + PACK * (int64_t)parts.size());
    const auto kept_of = [&](int64_t part, int64_t begin) {
        return scratch.data + begin + PACK * part;
    };
    typed(logits, [&](auto logit) {
        parallel(n, threads, [&](int64_t part, int64_t begin, int64_t end) {
            int64_t* kept = kept_of(part, begin);
            parts[part].counts = decide(logit, rows, threshold, begin, end, kept);
        });
    });
    Counts total;
    for (Part& part : parts) {
        part.first = total.count;
        part.counts.count = std::min(part.counts.count, place.room - total.count);
        total.count += part.counts.count;
        total.invalid += part.counts.invalid;
        total.above += part.counts.above;
    }
    parallel(n, threads, [&](int64_t index, int64_t begin, int64_t) {
        const Part& part = parts[index];
        const int64_t* kept = kept_of(index, begin);
        int64_t done = 0;
        while (done < part.counts.count) {  // twice if the slots wrap around
            const int64_t slot = (place.start + part.first + done) % place.capacity;
            const int64_t count = std::min(part.counts.count - done, place.capacity - slot);
            for (int64_t j = 0; j < count; ++j)
                place.ids[slot + j] = number(rows, kept[done + j]);
            for (const RowTensor& tensor : tensors)
                kernels().gather(streamable(tensor, n), kept + done, count, slot);
            done += count;
        }
        finish_streams();
    });
    return total;
}

void accept_append(Logits logits, uint64_t seed, const int64_t* numbers, Threshold threshold,
                   int64_t n, int threads, const std::vector<RowTensor>& tensors, int64_t* ids,
                   int64_t capacity, int64_t* state) {
    const int64_t room = std::max<int64_t>(std::min(n, state[RING_LIMIT] - state[RING_CURSOR]), 0);
    const Counts counts =
        accept_compact(logits, {seed, (uint64_t)state[RING_ROW], numbers}, threshold, n, threads,
                       tensors, {ids, capacity, state[RING_CURSOR], room});
    state[RING_CURSOR] += counts.count;
    state[RING_ROW] += n;
    state[RING_INVALID] += counts.invalid;
    state[RING_ABOVE] += counts.above;
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
    parallel(n, threads, [&](int64_t, int64_t begin, int64_t end) {
        kernels().gather(tensor, indices + begin, end - begin, begin);
        finish_streams();
    });
}

}  // namespace drs
