#include "kernels.hpp"

#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DRS_DISPATCH 1
#else
#define DRS_DISPATCH 0
#endif

namespace drs {
namespace {

constexpr float LOG[8] = {DRS_LOG};
constexpr float SINE[3] = {DRS_SINE};
constexpr float COSINE[3] = {DRS_COSINE};

#define DRS_ISA 128
namespace baseline {
#include "random.inl"
#include "decision.inl"
}
#undef DRS_ISA

#if DRS_DISPATCH
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define DRS_ISA 256
namespace avx2 {
#include "random.inl"
#include "decision.inl"
}
#undef DRS_ISA
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define DRS_ISA 512
namespace avx512 {
#include "random.inl"
#include "decision.inl"
}
#undef DRS_ISA
#pragma GCC pop_options
#endif

#define DRS_KERNELS(isa)                                                                    \
    Kernels {                                                                               \
        #isa, isa::words, isa::uniform, isa::box_muller, isa::probability<float>,           \
            isa::probability<double>, isa::weight<float>, isa::weight<double>,              \
            isa::decide<float>, isa::decide<double>,                                        \
            isa::exponentials, isa::bounds, isa::gather                                     \
    }

// The instruction sets this processor can run, best first.
std::vector<Kernels> supported() {
    std::vector<Kernels> list;
#if DRS_DISPATCH
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        list.push_back(DRS_KERNELS(avx512));
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2"))
        list.push_back(DRS_KERNELS(avx2));
#endif
    list.push_back(DRS_KERNELS(baseline));
    return list;
}

}  // namespace

Kernels& kernels() {
    static Kernels chosen = supported().front();
    return chosen;
}

void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels& each : supported()) names.push_back(each.name);
    return names;
}

std::string instruction_set() { return kernels().name; }

void use_instruction_set(const std::string& name) {
    for (const Kernels& each : supported())
        if (each.name == name) kernels() = each;
}

}  // namespace drs
