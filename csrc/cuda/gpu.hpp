// Arguments of the CUDA kernels: addresses and sizes, no tensor library. Launchers return errors.
#pragma once

#include <cstdint>

namespace drs {

enum class Kind : int { FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };

struct Stream {  // where a kernel runs
    int device;
    void* stream;
};

struct Rows {  // row numbers: ids, or row, row + 1, ...
    uint64_t seed;
    int64_t row;
    const int64_t* ids;
};

struct Logits {
    const void* data;
    Kind kind;
    int64_t n;
};

struct Parameter {  // a number; or, if it has an address, the value there, or one value per row
    const double* data;
    bool per_row;
    double number;
};

struct Threshold {
    Parameter log_m, gamma;
    double s;
};

struct RowTensor {  // rows of `width` words of `word` bytes, `stride` words apart in the source
    const char* source;
    char* target;
    int64_t width, stride;
    int word;
};

constexpr int MAX_TENSORS = 16;

// Where accepted rows go. A ring's state holds the cursor, limit, next row and counts.
struct Output {
    RowTensor tensors[MAX_TENSORS];
    int count_of_tensors;
    int64_t* ids;
    void* logit;
    float* z;  // latents to make anew, d per row; null: none
    int64_t d;
    int64_t capacity, slots;  // slots: mask of a slot's number
    int64_t *count, *invalid, *above, *state;
};

// Its words are in shared/constants.h.
struct Workspace {
    int64_t* words;
    int64_t status_words;
};

constexpr int ORDER_WORDS = 2080;  // of the workspace of what follows; zero between launches

const char* quantile_gamma(Stream, Logits, double q, Threshold, double* out, int64_t* words);
const char* largest(Stream, Logits, double* out, int64_t* words);
struct Tiling {  // rows of a tile, and how many blocks share the copying of each tile's
    int rows, parts;
};

const char* uniform(Stream, Rows, uint32_t stream, uint32_t draw, int64_t n, double* out);
const char* words(Stream, Rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int64_t* out);
const char* normal(Stream, Rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, float* out);
const char* probability(Stream, Logits, Threshold, double* out);
const char* weight(Stream, Logits, Threshold, double* out);
const char* accept(Stream, Logits, Rows, Threshold, bool* out);
const char* accept_compact(Stream, Logits, Rows, Threshold, Output, Workspace, Tiling);
int device_count(const char** error);

}  // namespace drs
