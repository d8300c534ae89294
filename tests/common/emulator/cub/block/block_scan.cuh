#pragma once

#include "launch.cuh"

namespace cub {

template <class T, int THREADS>
struct BlockScan {
    struct TempStorage {
        T values[THREADS];
    };

    TempStorage& storage;

    explicit BlockScan(TempStorage& storage) : storage(storage) {}

    void ExclusiveSum(T value, T& before, T& total) {
        storage.values[threadIdx.x] = value;
        __syncthreads();
        before = total = 0;
        for (unsigned i = 0; i < THREADS; ++i) {
            if (i < threadIdx.x) before += storage.values[i];
            total += storage.values[i];
        }
        __syncthreads();
    }
};

}  // namespace cub
