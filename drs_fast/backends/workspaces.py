"""What launches on a GPU need: memory kept between them, the stream, and addresses.

The memory is what compacting keeps: counters, and a status word per tile.
"""

import torch
from torch import Tensor

from drs_fast.core.compacted import HEADER, status_words, workspace_words

_kept: dict[tuple[torch.device, int], tuple[Tensor, int]] = {}
_zero: dict[tuple[torch.device, int, int], Tensor] = {}


def of(device: torch.device, n: int) -> tuple[Tensor, int]:
    """Words for at least n rows, zero or as the stream's last launch left them; and their rows."""
    stream = 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return _new(device, n), n
        stream = current_stream(device.index)
    kept = _kept.get((device, stream))
    if kept is None or kept[1] < n:
        room = 1 << (n - 1).bit_length()
        kept = _new(device, room), room
        _kept[device, stream] = kept
    return kept


def zero(device: torch.device, words: int) -> Tensor:
    """This many words (int64), zero, for launches that leave them zero."""
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(words, dtype=torch.int64, device=device)
    where = device, torch.cuda.current_stream(device).cuda_stream, words
    if where not in _zero:
        _zero[where] = torch.zeros(words, dtype=torch.int64, device=device)
    return _zero[where]


def current_stream(index: int) -> int:
    """The address of the device's current stream; torch.cuda.current_stream makes an object."""
    return torch._C._cuda_getCurrentRawStream(index)


def address(tensor: Tensor) -> int:
    """Where a tensor that holds numbers has them; ValueError if it has no memory."""
    found = tensor.data_ptr()
    if found == 0 and tensor.numel():
        raise ValueError("a tensor must hold numbers, got one without memory; pass a plain tensor")
    return found


def _new(device: torch.device, rows: int) -> Tensor:
    words = torch.empty(workspace_words(rows), dtype=torch.int64, device=device)
    words[: HEADER + status_words(rows)].zero_()
    return words
