// The ops of the C++ backend on raw pointers that ops.py has checked.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace drs {

struct Rows {  // row numbers: ids[i] if given, else first + i
    uint64_t seed, first;
    const int64_t* ids;
};

struct Logits {  // float32 or float64
    const void* data;
    bool wide;
};

struct Threshold {  // log_m and c1 = exp(gamma): one number, or one per row
    const double *log_m, *c1;
    bool log_m_per_row, c1_per_row;
    double s;
};

struct RowTensor {
    const char* source;
    char* target;
    int64_t row_bytes, source_stride;
    bool streamed = false;  // written past the caches
};

struct Place {  // the k-th accepted row goes to slot (start + k) % capacity; no more than `room`
    int64_t *ids, capacity, start, room;
};

struct Counts {
    int64_t count = 0, invalid = 0, above = 0;
};

// Those of this processor, best first; the one in use; and another, for tests that compare them.
std::vector<std::string> instruction_sets();
std::string instruction_set();
void use_instruction_set(const std::string& name);

void uniform(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int threads, double* out);
void words(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
           int64_t* out);
void normal(Rows rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
            float* out);
void probability(Logits logits, Threshold threshold, int64_t n, int threads, double* out);
void weight(Logits logits, Threshold threshold, int64_t n, int threads, double* out);
void accept(Logits logits, Rows rows, Threshold threshold, int64_t n, int threads, uint8_t* keep);
Counts accept_compact(Logits logits, Rows rows, Threshold threshold, int64_t n, int threads,
                      const std::vector<RowTensor>& tensors, Place place);
// accept_compact of the ring's next rows, in the slots after those it has; then the state moves on
// (shared/constants.h has its words).
void accept_append(Logits logits, uint64_t seed, const int64_t* numbers, Threshold threshold,
                   int64_t n, int threads, const std::vector<RowTensor>& tensors, int64_t* ids,
                   int64_t capacity, int64_t* state);
// Of each group of candidates: where its chain ends (start: null for none) and how often it moves,
// or `size` drawn by weight; -1 where there is none.
void walk(Logits logits, Rows rows, const double* start, int64_t groups, int64_t candidates,
          int threads, int64_t* ends, int64_t* counts);
void select(Logits logits, Rows rows, int64_t groups, int64_t candidates, int64_t size,
            bool replace, int threads, int64_t* out);
// out = (z + drift grad) + scale normal
void langevin(const float* z, const float* grad, Rows rows, uint32_t draw, int64_t n, int64_t d,
              float drift, float scale, int threads, float* out);
// The max(1, ceil(q n / 100))-th smallest of the n valid logits; NaN if there is none.
double order_statistic(Logits logits, double q, int64_t n);
// Copies the rows at these indices: the part of accept_compact that is limited by memory.
void gather(RowTensor tensor, const int64_t* indices, int64_t n, int threads);

}  // namespace drs
