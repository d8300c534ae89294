// CUDA's threads in turn, each as far as its next barrier, and one block after another: enough of
// CUDA for csrc/cuda. Threads of the host would spend nearly all their time in waking each other.
#pragma once

#include <ucontext.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

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

constexpr int THREADS = 256, WARP = 32, STACK = 1 << 16;

struct Barrier {
    int waiting = 0, passed = 0;
};

struct Threads {
    ucontext_t host, contexts[THREADS];
    char stacks[THREADS][STACK];
    std::function<void()> kernel;
    Barrier block, warps[THREADS / WARP];
    uint32_t lanes[THREADS];
    int ended;
    unsigned current, step = 1;
};

inline Threads threads;

}  // namespace emulated

inline dim3 threadIdx, blockIdx, blockDim(emulated::THREADS), gridDim;

namespace emulated {

// Goes on with another thread; returns when it is this one's turn again.
inline void yield() {
    const unsigned own = threads.current, next = (own + threads.step) % THREADS;
    const dim3 block = blockIdx;
    threads.current = next, threadIdx = dim3(next);
    swapcontext(&threads.contexts[own], &threads.contexts[next]);
    blockIdx = block;
}

inline void wait(Barrier& barrier, int size) {
    if (++barrier.waiting == size) {
        barrier.waiting = 0;
        ++barrier.passed;
    } else {
        for (const int passed = barrier.passed; barrier.passed == passed;) yield();
    }
}

inline void thread() {
    for (unsigned y = 0; y < gridDim.y; ++y)
        for (unsigned x = 0; x < gridDim.x; ++x) {
            blockIdx = dim3(x, y);
            threads.kernel();
            wait(threads.block, THREADS);
        }
    if (++threads.ended == THREADS) setcontext(&threads.host);
    for (;;) yield();
}

}  // namespace emulated

inline void __syncthreads() { emulated::wait(emulated::threads.block, emulated::THREADS); }

// Every lane's value, to every lane of the warp.
template <class Combine>
uint32_t exchange(uint32_t value, Combine combine) {
    const int warp = threadIdx.x / emulated::WARP;
    auto& barrier = emulated::threads.warps[warp];
    emulated::threads.lanes[threadIdx.x] = value;
    emulated::wait(barrier, emulated::WARP);
    uint32_t total = 0;
    for (int lane = 0; lane < emulated::WARP; ++lane)
        total = combine(total, emulated::threads.lanes[warp * emulated::WARP + lane], lane);
    emulated::wait(barrier, emulated::WARP);
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
template <class T>
void atomicAdd(T* at, T value) { std::atomic_ref(*at).fetch_add(value); }
inline void __nanosleep(unsigned) {}

struct __half { _Float16 value; };
struct __nv_bfloat16 { uint16_t value; };
inline float __half2float(__half x) { return (float)x.value; }
inline float __bfloat162float(__nv_bfloat16 x) { return bits_of<float>((uint32_t)x.value << 16); }

namespace drs {

constexpr int THREADS = emulated::THREADS;

template <class... Parameters, class... Arguments>
void run(Stream, dim3 grid, void (*kernel)(Parameters...), const Arguments&... arguments) {
    auto& threads = emulated::threads;
    gridDim = grid;
    threads.kernel = [&] { kernel(arguments...); };
    threads.step = threads.step * 3 % THREADS;  // so that each comes before each other at times
    threads.ended = 0;
    for (int i = 0; i < THREADS; ++i) {
        ucontext_t& context = threads.contexts[i];
        getcontext(&context);
        context.uc_stack.ss_sp = threads.stacks[i];
        context.uc_stack.ss_size = emulated::STACK;
        makecontext(&context, emulated::thread, 0);
    }
    threads.current = 0, threadIdx = dim3(0);
    swapcontext(&threads.host, &threads.contexts[0]);
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
