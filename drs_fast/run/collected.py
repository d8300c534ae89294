"""Collects samples, step by step, in tensors that seldom have to grow."""

import functools

import torch
from torch import Tensor

Rows = dict[str, Tensor]


class Collected:
    """Space for `capacity` rows shaped like the example; `first` of them are allocated at once.

    Keeping many small tensors while large ones come and go would fragment the memory.
    """

    def __init__(
        self, example: Rows, capacity: int, *, first: int | None = None, on_host: bool = False
    ) -> None:
        self.count = 0
        self._capacity = capacity
        self._tensors = {
            name: row[:0].cpu() if on_host else row[:0] for name, row in example.items()
        }
        # Marks the end of the last copy from a GPU to pinned memory.
        self._copied = torch.cuda.Event() if on_host and example["ids"].is_cuda else None
        self._grow(capacity if first is None else min(first, capacity))

    def add(self, pieces: list[Rows]) -> None:
        """Appends rows. They are copied, so later work on the device may overwrite them."""
        for piece in pieces:
            end = self.count + len(piece["ids"])
            if end > len(self._tensors["ids"]):
                self._grow(min(max(2 * self.count, end), self._capacity))
            targets = [
                (rows[self.count : end], piece[name]) for name, rows in self._tensors.items()
            ]
            if self._copied is None:
                for target, source in targets:
                    target.copy_(source)
            else:
                _copy_aside(targets, self._copied)
            self.count = end

    def tensors(self) -> Rows:
        """All rows so far, as views of the tensors that `add` writes to."""
        self._settle()
        return {name: rows[: self.count] for name, rows in self._tensors.items()}

    def clear(self) -> None:
        """Drops the rows and keeps the space."""
        self.count = 0

    def _grow(self, room: int) -> None:
        self._settle()
        for name, rows in self._tensors.items():
            pinned = self._copied is not None
            made = rows.new_empty((room, *rows.shape[1:]), pin_memory=pinned)
            made[: self.count] = rows[: self.count]
            self._tensors[name] = made

    def _settle(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()


def first_of(pieces: list[Rows], count: int) -> list[Rows]:
    """The first `count` rows of the pieces, as views."""
    kept = []
    for piece in pieces:
        here = min(count, len(piece["ids"]))
        if here:
            kept.append({name: rows[:here] for name, rows in piece.items()})
        count -= here
    return kept


def _copy_aside(targets: list[tuple[Tensor, Tensor]], copied: torch.cuda.Event) -> None:
    """Copies from a GPU to pinned memory, alongside steps in flight but before later steps."""
    device = targets[0][1].device
    side = _side_stream(device)
    with torch.cuda.stream(side):
        for target, source in targets:
            target.copy_(source, non_blocking=True)
        copied.record(side)
    torch.cuda.current_stream(device).wait_event(copied)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
