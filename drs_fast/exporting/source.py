"""What is exported of a run: columns as NumPy arrays, in pieces, from shards that are checked."""

import copy
import hashlib
import math
import threading
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drs_fast.gan.images import OUTSIDE, Images
from drs_fast.store import Column, Corrupt, Samples
from drs_fast.store.format import shard_name

PIECE_BYTES, PIECE_ROWS = 2**22, 2**16
LABEL = "label"  # what other programs call y
KEPT = "uint8 as the generator makes it"
Array = np.ndarray[Any, Any]
Piece = dict[str, Array]


@dataclass(frozen=True)
class Row:
    """One row of a column: its dtype as NumPy has it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Source:
    """The first n samples of a run. columns: of ids, logit, y, weight, x and z.

    images: how x becomes uint8; None leaves x as it is. checked: compare each shard's sha256.
    """

    def __init__(
        self,
        samples: Samples,
        columns: tuple[str, ...],
        n: int,
        images: Images | None,
        *,
        checked: bool = True,
    ) -> None:
        self.samples, self.n, self.images = samples, n, images
        self._reading = threading.local()
        self._checked, self._sound = checked, set[int]()
        self._locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._counting = threading.Lock()
        self.outside = 0  # samples that did not fit into uint8
        self.columns = {LABEL if name == "y" else name: name for name in columns}
        self.rows = {
            name: Row(str(array.dtype), array.shape[1:]) for name, array in self._example().items()
        }

    def read(self, start: int, stop: int, columns: tuple[str, ...]) -> Piece:
        """The columns of these rows, of one shard. Corrupt if it is not what was written."""
        self._check(start)
        return {name: self._rows(name, start, stop) for name in columns}

    def ranges(self, start: int, stop: int, columns: tuple[str, ...]) -> list[tuple[int, int]]:
        """The rows in pieces of at most PIECE_BYTES and PIECE_ROWS, each of one shard."""
        stored = [self._column(name) for name in columns]
        width = sum(math.prod(c.shape[1:]) * c.dtype.itemsize for c in stored)
        step = max(1, min(PIECE_ROWS, PIECE_BYTES // max(1, width)))
        ends = [end for end in self.samples.ends if start < end < stop]
        return [
            (row, min(last, row + step))
            for first, last in zip([start, *ends], [*ends, stop], strict=True)
            for row in range(first, last, step)
        ]

    @property
    def facts(self) -> dict[str, Any]:
        """Shapes and dtypes, and the rule by which x became uint8."""
        shapes = {name: {"dtype": r.dtype, "shape": list(r.shape)} for name, r in self.rows.items()}
        manifest = dict(self.samples.manifest)
        rule: dict[str, Any] = {key: manifest.get(key) for key in ("image_rule", "value_range")}
        if self.images is not None:
            rule = {key: self.images.facts[key] for key in rule}
        elif rule["image_rule"] is None and "x" in self.rows and self.rows["x"].dtype == "uint8":
            rule["image_rule"] = KEPT
        return {"rows": self.n, "columns": shapes, **rule}

    def _example(self) -> Piece:
        return {name: self._converted(name, self._column(name)[:0]) for name in self.columns}

    def _rows(self, name: str, start: int, stop: int) -> Array:
        if name == "weight":
            return self._converted(name, self._column(name)[start:stop])
        chunk = bisect_right(self.samples.ends, start)
        first = self.samples.ends[chunk] - self.samples.counts[chunk]
        rows = self._reader().shard(chunk).tensor(self.columns[name])  # no copy
        return self._converted(name, rows[start - first : stop - first])

    def _converted(self, name: str, rows: Tensor) -> Array:
        if name == "x" and self.images is not None:
            stored = self.images.stored(rows) if len(rows) else {"x": rows.to(torch.uint8)}
            if OUTSIDE in stored:
                with self._counting:
                    self.outside += int(stored[OUTSIDE].sum())
            return stored["x"].numpy()
        if rows.dtype == torch.bfloat16:  # which NumPy does not have
            rows = rows.float()
        return rows.numpy()

    def _column(self, name: str) -> Column:
        """A column of this thread's own reader, which keeps files open."""
        held: dict[str, Any] = self._reading.__dict__
        if name not in held:
            stored, reader = self.columns[name], self._reader()
            held[name] = reader.weight if stored == "weight" else reader.column(stored)
        column: Column = held[name]
        return column

    def _reader(self) -> Samples:
        held: dict[str, Any] = self._reading.__dict__
        reader: Samples = held.setdefault("reader", copy.copy(self.samples))
        return reader

    def _check(self, start: int) -> None:
        """Checks the shard of this row, once."""
        chunk = bisect_right(self.samples.ends, start)
        if self._checked:
            with self._locks[chunk]:
                if chunk not in self._sound:
                    self._check_shard(chunk)
                    self._sound.add(chunk)

    def _check_shard(self, chunk: int) -> None:
        path = self.samples.path / shard_name(chunk)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            found = ""
        if found != self.samples.records[chunk].sha256:
            raise Corrupt(
                f"{path} is missing or does not match its recorded sha256; run `drs-fast verify`, "
                "which says how to make it again"
            )
