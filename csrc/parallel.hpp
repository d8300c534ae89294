// Splits rows among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// The thread pool of GNU OpenMP, which PyTorch loaded first: a second pool would compete with its
// waiting threads. Null on other platforms, where plain threads are used.
extern "C" __attribute__((weak)) void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);

namespace drs {

constexpr int64_t ROWS_PER_THREAD = 16384;
constexpr int64_t PARTS_PER_THREAD = 4;  // so that a delayed thread costs little

// How many parts `parallel` makes of [0, n).
inline int64_t parts_of(int64_t n, int threads) {
    const int64_t used = std::clamp<int64_t>(n / ROWS_PER_THREAD, 1, std::max(threads, 1));
    return used == 1 ? 1 : used * PARTS_PER_THREAD;
}

template <class Work>
struct Parts {
    const Work& work;
    int64_t n, parts;
    std::atomic<int64_t> next{0};
    void run() {
        for (int64_t part; (part = next.fetch_add(1)) < parts;)
            work(part, n * part / parts, n * (part + 1) / parts);
    }
};

// Runs work(part, begin, end) on equal parts of [0, n); work must not throw.
template <class Work>
void parallel(int64_t n, int threads, const Work& work) {
    Parts<Work> job{work, n, parts_of(n, threads)};
    if (job.parts == 1) return job.run();
    const int64_t used = job.parts / PARTS_PER_THREAD;
    if (GOMP_parallel) {
        const auto run = [](void* data) { static_cast<Parts<Work>*>(data)->run(); };
        return GOMP_parallel(run, &job, (unsigned)used, 0);
    }
    std::vector<std::thread> others;
    others.reserve((size_t)used);
    try {
        for (int64_t other = 1; other < used; ++other) others.emplace_back([&] { job.run(); });
    } catch (const std::system_error&) {  // no more threads: the others do the work
    }
    job.run();
    for (std::thread& other : others) other.join();
}

}  // namespace drs
