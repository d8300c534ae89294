"""Captures a CUDA graph."""

import functools
import threading
from collections.abc import Callable

import torch

_one_capture = threading.Lock()


def captured(call: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A function that replays a CUDA graph of the call, which must have run before."""
    graph = torch.cuda.CUDAGraph()
    with (
        _one_capture,
        torch.cuda.device(device),
        # Restores the stream if a capture fails, which torch.cuda.graph does not do.
        torch.cuda.stream(torch.cuda.current_stream(device)),
        # Only this thread's calls count: another thread writes files, from pinned memory.
        torch.cuda.graph(graph, stream=_capture_stream(device), capture_error_mode="thread_local"),
    ):
        call()
    return graph.replay


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    # PyTorch's own capture stream belongs to the GPU that captured first.
    return torch.cuda.Stream(device)
