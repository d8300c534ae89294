"""Memory that compacting on a GPU keeps between launches: counters, and a status word per tile."""

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
        stream = torch.cuda.current_stream(device).cuda_stream
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


def _new(device: torch.device, rows: int) -> Tensor:
    words = torch.empty(workspace_words(rows), dtype=torch.int64, device=device)
    words[: HEADER + status_words(rows)].zero_()
    return words
