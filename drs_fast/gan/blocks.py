"""Calls G and D in blocks of one shape, and checks what the functions that are called return."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain


def called(
    function: Callable[..., Iterator[Tensor]],
    rows: tuple[Tensor, ...],
    block: int,
    room: Callable[[int], int],
    differentiate: bool,
) -> list[Tensor]:
    """What the function yields for all rows; it gets copies of at most one block at a time.

    function: takes the number of its first row, and the rows, zero-padded to room(size) rows.
    """
    n, whole = len(rows[0]), list[Tensor]()
    with torch.inference_mode(not differentiate), torch.set_grad_enabled(differentiate):
        for start in range(0, max(1, n), block):
            size = min(block, n - start)
            full = room(size)
            parts = function(start, *(_padded(tensor, start, size, full) for tensor in rows))
            for i, part in enumerate(parts):
                part = part.detach() if part.requires_grad else part
                own = part if size == full else part.narrow(0, 0, size)
                with torch.inference_mode(False):
                    if size == n:
                        whole.append(own.clone(memory_format=torch.contiguous_format))
                        continue
                    if start == 0:
                        whole.append(part.new_empty((n, *part.shape[1:])))
                whole[i].narrow(0, start, size).copy_(own)
    return whole


def _padded(rows: Tensor, start: int, size: int, full: int) -> Tensor:
    """A copy of `size` rows, zero-padded to `full` rows."""
    own = rows.narrow(0, start, size)
    if size == full:
        return own.clone()
    return torch.cat([own, rows.new_zeros((full - size, *rows.shape[1:]))])


def alike(rows: Tensor, others: Tensor) -> bool:
    """Whether rows of both (n, ...) can be put in one tensor unchanged."""
    return (
        rows.shape[1:] == others.shape[1:]
        and rows.dtype == others.dtype
        and rows.device == others.device
    )


def one_per_sample(role: str, score: Any, n: int, device: torch.device) -> Tensor:
    """The scores (n,) a critic or link returned; ValueError unless one number per sample."""
    if isinstance(score, (tuple, list)) and score:
        score = score[0]
    if isinstance(score, Tensor):
        score = plain(role, score, verb="return")
    if isinstance(score, dict):
        raise ValueError(
            f"{role} must return a tensor, got a dict of {sorted(map(str, score))}; wrap it: "
            'GAN(G, lambda x: D(x)["the key of its logit"], ...)'
        )
    fits = isinstance(score, Tensor) and score.shape[:1] == (n,) and score.numel() == n
    if isinstance(score, Tensor) and fits and score.is_floating_point():
        if score.device != device:
            raise ValueError(f"{role} must return its numbers on {device}, got {describe(score)}")
        return score if score.ndim == 1 else score.reshape(n)
    remedy = (
        "return real numbers before any rounding or comparison"
        if fits
        else "average over patches or classes in a wrapper, for example "
        "GAN(G, lambda x: D(x).mean(dim=(1, 2, 3)), ...)"
    )
    raise ValueError(
        f"{role} must return one floating-point number per sample, ({n},) or ({n}, 1), "
        f"got {describe(score)}; {remedy}"
    )
