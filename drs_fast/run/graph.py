"""Captures a CUDA graph, and leaves torch as it was if that fails.

What torch's `capture_end` does once CUDA has given up a capture, in 2.6 to 2.13: it raises before
it takes the generator's state out of capture mode (up to 2.11), and before it tells the allocator
that nothing is recorded any more. Every later random number on that GPU would raise, and so would
`torch.cuda.empty_cache()`.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_one_capture = threading.Lock()
# The allocator of pinned memory keeps a pointer to a graph whose capture failed.
_failed: list[torch.cuda.CUDAGraph] = []


def captured(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A function that replays a CUDA graph of the call, which must have run before."""
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    with _one_capture, torch.cuda.device(device), _own_random_state():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with torch.cuda.stream(_capture_stream(device)):
            try:
                # Only this thread's calls count: another thread writes files, from pinned memory.
                graph.capture_begin(pool=pool, capture_error_mode="thread_local")
                # A capture ends on its own stream, whichever the call leaves behind.
                with torch.cuda.stream(_capture_stream(device)):
                    call()
            finally:
                _end(graph, pool)
    return graph.replay


def _end(graph: torch.cuda.CUDAGraph, pool: Any) -> None:
    try:
        graph.capture_end()
    except RuntimeError:
        _failed.append(graph)
        private: Any = torch._C  # no public function ends a recording
        version = tuple(int(part) for part in torch.__version__.split(".")[:2])
        with suppress(RuntimeError):  # where capture_end came as far as this itself
            if version < (2, 8):
                private._cuda_endAllocateCurrentStreamToPool(torch.cuda.current_device(), pool)
            else:
                private._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            private._cuda_releasePool(torch.cuda.current_device(), pool)
        raise


@contextmanager
def _own_random_state() -> Iterator[None]:
    """The GPU's default generator has another state in the block, and then its own again."""
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    users, own = generator.graphsafe_get_state(), generator.clone_state()
    # Far from the user's numbers, so that a replay of what draws some differs from a call.
    own.set_offset(own.get_offset() + 2**40)
    generator.graphsafe_set_state(own)
    try:
        yield
    finally:
        generator.graphsafe_set_state(users)


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    # PyTorch's own capture stream belongs to the GPU that captured first.
    return torch.cuda.Stream(device)
