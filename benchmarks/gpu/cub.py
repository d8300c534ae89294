"""CUB's DeviceSelect for comparison: compiled by nvcc, called through ctypes."""

import ctypes
import functools
import shutil
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.ops import Missing

LIBRARY = Path(__file__).parents[2] / "build" / "gpu_select.so"
SOURCE = """
#include <cub/device/device_select.cuh>
#include <thrust/iterator/counting_iterator.h>

extern "C" int flagged(void* scratch, size_t* bytes, const bool* keep, long long* kept,
                       long long* count, long long n, cudaStream_t stream) {
  thrust::counting_iterator<long long> rows(0);
  return cub::DeviceSelect::Flagged(scratch, *bytes, rows, keep, kept, count, n, stream);
}
"""


def command() -> list[str]:
    """The command that compiles the library, after writing its source; Missing without nvcc."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if nvcc is None:
        raise Missing("nvcc is not on PATH")
    LIBRARY.parent.mkdir(exist_ok=True)
    source = LIBRARY.with_suffix(".cu")
    source.write_text(SOURCE)
    flags = ["-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC", "-arch=native"]
    return [nvcc, *flags, "-o", str(LIBRARY), str(source)]


@functools.cache
def _library() -> ctypes.CDLL:
    if not LIBRARY.exists():
        raise Missing("not built; see the build steps")
    library = ctypes.CDLL(str(LIBRARY))
    pointer = ctypes.c_void_p
    library.flagged.argtypes = [
        pointer, ctypes.POINTER(ctypes.c_size_t), pointer, pointer, pointer, ctypes.c_longlong,
        pointer,
    ]  # fmt: skip
    return library


class Select:
    """kept[0:count] = the indices of the set flags."""

    def __init__(self, keep: Tensor, kept: Tensor) -> None:
        self.kept = kept
        self._count = torch.zeros(1, dtype=torch.int64, device=keep.device)
        self._bytes = ctypes.c_size_t(0)
        self._scratch: Tensor | None = None
        self(keep)  # without scratch it only says how much it needs
        self._scratch = torch.empty(self._bytes.value, dtype=torch.uint8, device=keep.device)

    def __call__(self, keep: Tensor) -> None:
        failed = _library().flagged(
            None if self._scratch is None else self._scratch.data_ptr(),
            ctypes.byref(self._bytes),
            keep.data_ptr(),
            self.kept.data_ptr(),
            self._count.data_ptr(),
            len(keep),
            torch.cuda.current_stream().cuda_stream,
        )
        if failed:
            raise RuntimeError(f"DeviceSelect::Flagged: CUDA error {failed}")
