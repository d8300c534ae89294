// Starts kernels from the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "gpu.hpp"

namespace drs {

constexpr int THREADS = 256;  // per block

template <class... Parameters, class... Arguments>
void run(Stream where, dim3 grid, void (*kernel)(Parameters...), const Arguments&... arguments) {
    kernel<<<grid, THREADS, 0, (cudaStream_t)where.stream>>>(arguments...);
}

// Runs `call` on the device with a value of the logits' type; returns an error's text, or null.
template <class Call>
const char* launch(Stream where, Kind kind, Call call) {
    cudaError_t error = cudaSetDevice(where.device);
    if (error == cudaSuccess) {
        switch (kind) {
            case Kind::FLOAT32: call(float()); break;
            case Kind::FLOAT64: call(double()); break;
            case Kind::FLOAT16: call(__half()); break;
            case Kind::BFLOAT16: call(__nv_bfloat16()); break;
        }
        error = cudaGetLastError();
    }
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

inline int devices(const char** error) {
    int count = 0;
    const cudaError_t found = cudaGetDeviceCount(&count);
    *error = found == cudaSuccess ? nullptr : cudaGetErrorString(found);
    return found == cudaSuccess ? count : 0;
}

}  // namespace drs
