// Python bindings of the CUDA kernels. They take addresses, sizes and a stream, and raise errors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "../shared/constants.h"
#include "gpu.hpp"

namespace py = pybind11;

namespace {

using Address = uintptr_t;
using StreamArgs = std::tuple<int, Address>;                                // device, stream
using RowsArgs = std::tuple<uint64_t, int64_t, Address>;                    // seed, first, ids
using LogitArgs = std::tuple<Address, int, int64_t>;                        // data, kind, n
using ThresholdArgs =  // address, per row, number, for log_m and gamma; then s
    std::tuple<Address, bool, double, Address, bool, double, double>;
using TensorArgs = std::tuple<Address, Address, int64_t, int64_t>;  // source, target, bytes, stride

drs::Stream stream_of(const StreamArgs& a) { return {std::get<0>(a), (void*)std::get<1>(a)}; }

drs::Rows rows_of(const RowsArgs& a) {
    return {std::get<0>(a), std::get<1>(a), (const int64_t*)std::get<2>(a)};
}

drs::Logits logits_of(const LogitArgs& a) {
    return {(const void*)std::get<0>(a), (drs::Kind)std::get<1>(a), std::get<2>(a)};
}

drs::Threshold threshold_of(const ThresholdArgs& a) {
    const auto& [log_m, log_m_per_row, log_m_number, gamma, gamma_per_row, gamma_number, s] = a;
    return {{(const double*)log_m, log_m_per_row, log_m_number},
            {(const double*)gamma, gamma_per_row, gamma_number},
            s};
}

// The widest words in which all rows can be addressed.
drs::RowTensor tensor_of(const TensorArgs& a) {
    const auto& [source, target, bytes, stride] = a;
    int word = 16;
    while ((source | target | (Address)bytes | (Address)stride) % word) word /= 2;
    return {(const char*)source, (char*)target, bytes / word, stride / word, word};
}

void check(const char* error) {
    if (error) throw std::runtime_error(std::string("CUDA: ") + error);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.attr("ABI") = drs::ABI;
    m.attr("MAX_TENSORS") = drs::MAX_TENSORS;
    m.attr("ORDER_WORDS") = drs::ORDER_WORDS;
    m.def("devices", [] {
        const char* error;
        const int count = drs::device_count(&error);
        return std::make_tuple(count, std::string(error ? error : ""));
    });
    m.def("uniform", [](StreamArgs where, RowsArgs rows, uint32_t stream, uint32_t draw, int64_t n,
                        Address out) {
        check(drs::uniform(stream_of(where), rows_of(rows), stream, draw, n, (double*)out));
    });
    m.def("words", [](StreamArgs where, RowsArgs rows, uint32_t stream, uint32_t draw, int64_t n,
                      int64_t d, Address out) {
        check(drs::words(stream_of(where), rows_of(rows), stream, draw, n, d, (int64_t*)out));
    });
    m.def("normal", [](StreamArgs where, RowsArgs rows, uint32_t stream, uint32_t draw, int64_t n,
                       int64_t d, Address out) {
        check(drs::normal(stream_of(where), rows_of(rows), stream, draw, n, d, (float*)out));
    });
    m.def("probability", [](StreamArgs where, LogitArgs logit, ThresholdArgs threshold,
                            Address out) {
        check(drs::probability(stream_of(where), logits_of(logit), threshold_of(threshold),
                               (double*)out));
    });
    m.def("weight", [](StreamArgs where, LogitArgs logit, ThresholdArgs threshold, Address out) {
        check(drs::weight(stream_of(where), logits_of(logit), threshold_of(threshold),
                          (double*)out));
    });
    m.def("accept", [](StreamArgs where, LogitArgs logit, RowsArgs rows, ThresholdArgs threshold,
                       Address out) {
        check(drs::accept(stream_of(where), logits_of(logit), rows_of(rows),
                          threshold_of(threshold), (bool*)out));
    });
    m.def("quantile_gamma", [](StreamArgs where, LogitArgs logit, double q, ThresholdArgs threshold,
                               Address out, Address words) {
        check(drs::quantile_gamma(stream_of(where), logits_of(logit), q, threshold_of(threshold),
                                  (double*)out, (int64_t*)words));
    });
    m.def("largest", [](StreamArgs where, LogitArgs logit, Address out, Address words) {
        check(drs::largest(stream_of(where), logits_of(logit), (double*)out, (int64_t*)words));
    });
    m.def("accept_compact", [](StreamArgs where, LogitArgs logit, RowsArgs rows,
                               ThresholdArgs threshold, const std::vector<TensorArgs>& tensors,
                               Address ids, Address logits, Address z, int64_t d, int64_t capacity,
                               std::tuple<Address, Address, Address> counts, Address state,
                               Address workspace, int64_t status_words, int tile,
                               int parts) {
        if (tensors.size() > drs::MAX_TENSORS) throw std::invalid_argument("too many row tensors");
        drs::Output out{};
        std::transform(tensors.begin(), tensors.end(), out.tensors, tensor_of);
        out.count_of_tensors = (int)tensors.size();
        out.ids = (int64_t*)ids, out.logit = (void*)logits, out.z = (float*)z, out.d = d;
        out.capacity = capacity, out.slots = state ? capacity - 1 : -1;
        out.count = (int64_t*)std::get<0>(counts);
        out.invalid = (int64_t*)std::get<1>(counts);
        out.above = (int64_t*)std::get<2>(counts);
        out.state = (int64_t*)state;
        check(drs::accept_compact(stream_of(where), logits_of(logit), rows_of(rows),
                                  threshold_of(threshold), out,
                                  {(int64_t*)workspace, status_words}, {tile, parts}));
    });
}
