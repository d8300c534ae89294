// CUDA's threads as threads of the host, one block after another: enough of CUDA for csrc/cuda.
#pragma once

#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "gpu.hpp"

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct double2 { double x, y; };
struct dim3 {
    unsigned x, y;
    dim3(unsigned x = 1, unsigned y = 1) : x(x), y(y) {}
};

namespace emulated {

constexpr int THREADS = 256, WARP = 32;

struct Block {
    std::barrier<> threads{THREADS};
    std::vector<std::unique_ptr<std::barrier<>>> warps;
    uint32_t lanes[THREADS];

    Block() {
        for (int i = 0; i < THREADS / WARP; ++i)
            warps.push_back(std::make_unique<std::barrier<>>(WARP));
    }
};

inline Block block;

}  // namespace emulated

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim(emulated::THREADS), gridDim;

inline void __syncthreads() { emulated::block.threads.arrive_and_wait(); }

// Every lane's value, to every lane of the warp.
template <class Combine>
uint32_t exchange(uint32_t value, Combine combine) {
    const int warp = threadIdx.x / emulated::WARP;
    auto& barrier = *emulated::block.warps[warp];
    emulated::block.lanes[threadIdx.x] = value;
    barrier.arrive_and_wait();
    uint32_t total = 0;
    for (int lane = 0; lane < emulated::WARP; ++lane)
        total = combine(total, emulated::block.lanes[warp * emulated::WARP + lane], lane);
    barrier.arrive_and_wait();
    return total;
}

inline uint32_t __ballot_sync(uint32_t, bool value) {
    return exchange(value, [](uint32_t all, uint32_t one, int lane) { return all | one << lane; });
}

inline uint32_t __reduce_add_sync(uint32_t, uint32_t value) {
    return exchange(value, [](uint32_t all, uint32_t one, int) { return all + one; });
}

template <class To, class From>
To bits_of(From value) {
    To made;
    std::memcpy(&made, &value, sizeof(To));
    return made;
}

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint64_t)a * b >> 32; }
inline int32_t __float_as_int(float x) { return bits_of<int32_t>(x); }
inline float __int_as_float(int32_t x) { return bits_of<float>(x); }
inline int64_t __double_as_longlong(double x) { return bits_of<int64_t>(x); }
inline double __longlong_as_double(int64_t x) { return bits_of<double>(x); }
inline float __uint2float_rn(uint32_t x) { return (float)x; }
inline float __int2float_rn(int32_t x) { return (float)x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
template <class T>
T __ldcs(const T* at) { return *at; }
template <class T>
void __stcs(T* at, T value) { *at = value; }

struct __half { _Float16 value; };
struct __nv_bfloat16 { uint16_t value; };
inline float __half2float(__half x) { return (float)x.value; }
inline float __bfloat162float(__nv_bfloat16 x) { return bits_of<float>((uint32_t)x.value << 16); }

namespace drs {

constexpr int THREADS = emulated::THREADS;

template <class... Parameters, class... Arguments>
void run(Stream, dim3 grid, void (*kernel)(Parameters...), const Arguments&... arguments) {
    gridDim = grid;
    std::vector<std::thread> threads;
    for (unsigned thread = 0; thread < THREADS; ++thread)
        threads.emplace_back([&, thread] {
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    threadIdx = dim3(thread), blockIdx = dim3(x, y);
                    kernel(arguments...);
                    __syncthreads();
                }
        });
    for (auto& thread : threads) thread.join();
}

template <class Call>
const char* launch(Stream, Kind kind, Call call) {
    switch (kind) {
        case Kind::FLOAT32: call(float()); break;
        case Kind::FLOAT64: call(double()); break;
        case Kind::FLOAT16: call(__half()); break;
        case Kind::BFLOAT16: call(__nv_bfloat16()); break;
    }
    return nullptr;
}

inline int devices(const char** error) {
    *error = nullptr;
    return 1;
}

}  // namespace drs
