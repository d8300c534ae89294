// Python bindings. They take addresses and sizes, and need no tensor library.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <limits>
#include <tuple>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "cpu.hpp"
#include "shared/constants.h"

namespace py = pybind11;

namespace {

using Address = uintptr_t;
using RowsArgs = std::tuple<uint64_t, uint64_t, Address>;                    // seed, first, ids
using LogitArgs = std::tuple<Address, bool>;                                 // data, float64
using ThresholdArgs =  // address, per row, number without an address, for log_m and c1; then s
    std::tuple<Address, bool, double, Address, bool, double, double>;
using TensorArgs = std::tuple<Address, Address, int64_t, int64_t>;  // source, target, bytes, stride

drs::Rows rows_of(const RowsArgs& a) {
    return {std::get<0>(a), std::get<1>(a), (const int64_t*)std::get<2>(a)};
}

drs::Logits logits_of(const LogitArgs& a) { return {(const void*)std::get<0>(a), std::get<1>(a)}; }

// It points into its arguments.
drs::Threshold threshold_of(const ThresholdArgs& a) {
    const auto& [log_m, log_m_per_row, log_m_number, c1, c1_per_row, c1_number, s] = a;
    return {log_m ? (const double*)log_m : &log_m_number, c1 ? (const double*)c1 : &c1_number,
            log_m_per_row, c1_per_row, s};
}

drs::RowTensor tensor_of(const TensorArgs& a) {
    const auto& [source, target, row_bytes, stride] = a;
    return {(const char*)source, (char*)target, row_bytes, stride};
}

std::vector<drs::RowTensor> tensors_of(const std::vector<TensorArgs>& tensors) {
    std::vector<drs::RowTensor> list;
    for (const TensorArgs& tensor : tensors) list.push_back(tensor_of(tensor));
    return list;
}

// Makes freed memory stay with the process, or go back to the system. False if it cannot.
bool keep_pages(bool keep) {
#ifdef __GLIBC__
    constexpr int LARGE = 1 << 25;  // glibc's own choice when large blocks come and go
    mallopt(M_MMAP_MAX, keep ? 0 : 65536);
    mallopt(M_TRIM_THRESHOLD, keep ? std::numeric_limits<int>::max() : 2 * LARGE);
    mallopt(M_MMAP_THRESHOLD, LARGE);
#if __GLIBC_PREREQ(2, 33)
    if (!keep && mallinfo2().keepcost > 2 * LARGE) malloc_trim(0);
#endif
    return true;
#else
    return false;
#endif
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    using Out = Address;
    const py::call_guard<py::gil_scoped_release> without_gil;
    m.attr("ABI") = drs::ABI;
    m.def("keep_pages", &keep_pages, without_gil);
    m.def("instruction_sets", &drs::instruction_sets);
    m.def("instruction_set", &drs::instruction_set);
    m.def("use_instruction_set", &drs::use_instruction_set);
    m.def(
        "uniform",
        [](RowsArgs rows, uint32_t stream, uint32_t draw, int64_t n, int threads, Out out) {
            drs::uniform(rows_of(rows), stream, draw, n, threads, (double*)out);
        },
        without_gil);
    m.def(
        "words",
        [](RowsArgs rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
           Out out) {
            drs::words(rows_of(rows), stream, draw, n, d, threads, (int64_t*)out);
        },
        without_gil);
    m.def(
        "normal",
        [](RowsArgs rows, uint32_t stream, uint32_t draw, int64_t n, int64_t d, int threads,
           Out out) { drs::normal(rows_of(rows), stream, draw, n, d, threads, (float*)out); },
        without_gil);
    m.def(
        "probability",
        [](LogitArgs logits, ThresholdArgs threshold, int64_t n, int threads, Out out) {
            drs::probability(logits_of(logits), threshold_of(threshold), n, threads, (double*)out);
        },
        without_gil);
    m.def(
        "weight",
        [](LogitArgs logits, ThresholdArgs threshold, int64_t n, int threads, Out out) {
            drs::weight(logits_of(logits), threshold_of(threshold), n, threads, (double*)out);
        },
        without_gil);
    m.def(
        "accept",
        [](LogitArgs logits, RowsArgs rows, ThresholdArgs threshold, int64_t n, int threads,
           Out keep) {
            drs::accept(logits_of(logits), rows_of(rows), threshold_of(threshold), n, threads,
                        (uint8_t*)keep);
        },
        without_gil);
    m.def(
        "accept_compact",
        [](LogitArgs logits, RowsArgs rows, ThresholdArgs threshold, int64_t n, int threads,
           const std::vector<TensorArgs>& tensors, Out ids, int64_t capacity, Out count,
           Out invalid, Out above) {
            const drs::Counts c = drs::accept_compact(
                logits_of(logits), rows_of(rows), threshold_of(threshold), n, threads,
                tensors_of(tensors), {(int64_t*)ids, capacity, 0, capacity});
            *(int64_t*)count = c.count;
            *(int64_t*)invalid = c.invalid;
            *(int64_t*)above = c.above;
        },
        without_gil);
    m.def(
        "accept_append",
        [](LogitArgs logits, uint64_t seed, Address numbers, ThresholdArgs threshold, int64_t n,
           int threads, const std::vector<TensorArgs>& tensors, Out ids, int64_t capacity,
           Out state) {
            drs::accept_append(logits_of(logits), seed, (const int64_t*)numbers,
                               threshold_of(threshold), n, threads, tensors_of(tensors),
                               (int64_t*)ids, capacity, (int64_t*)state);
        },
        without_gil);
    m.def(
        "order_statistic",
        [](LogitArgs logits, double q, int64_t n) {
            return drs::order_statistic(logits_of(logits), q, n);
        },
        without_gil);
    m.def(
        "walk",
        [](LogitArgs logits, RowsArgs rows, Address start, int64_t groups, int64_t candidates,
           int threads, Out index, Out count) {
            drs::walk(logits_of(logits), rows_of(rows), (const double*)start, groups, candidates,
                      threads, (int64_t*)index, (int64_t*)count);
        },
        without_gil);
    m.def(
        "select",
        [](LogitArgs logits, RowsArgs rows, int64_t groups, int64_t candidates, int64_t size,
           bool replace, int threads, Out out) {
            drs::select(logits_of(logits), rows_of(rows), groups, candidates, size, replace,
                        threads, (int64_t*)out);
        },
        without_gil);
    m.def(
        "langevin",
        [](Address z, Address grad, RowsArgs rows, uint32_t draw, int64_t n, int64_t d,
           float drift, float scale, int threads, Out out) {
            drs::langevin((const float*)z, (const float*)grad, rows_of(rows), draw, n, d, drift,
                          scale, threads, (float*)out);
        },
        without_gil);
    m.def(
        "gather",
        [](TensorArgs tensor, Address indices, int64_t n, int threads) {
            drs::gather(tensor_of(tensor), (const int64_t*)indices, n, threads);
        },
        without_gil);
}
