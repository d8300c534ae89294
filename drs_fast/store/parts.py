"""What there is of a shard that is being made, so that an interruption loses little of it.

A part is a file of its own beside the shard: a line of JSON with a crc32, then the samples so far.
It is replaced as a whole, read once by whoever makes the shard again, and deleted when the shard is
recorded. When it is written depends on the clock, and nothing else does: it holds whole steps,
whose rows and counts are those of a shard that was never interrupted.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from torch import Tensor

from drs_fast.store.format import Corrupt, part_name, sealed, unsealed
from drs_fast.store.tensors import pieces


class Part(NamedTuple):
    """The first rows of a chunk, and what they gave.

    n: samples that the run was on its way to, because the next steps depend on it. whole: every
    accepted row is there. counters: those of the shard's record, so far.
    """

    chunk: int
    n: int
    whole: bool
    counters: Mapping[str, int]
    tensors: Mapping[str, Tensor]

    def written(self) -> list[bytes | memoryview]:
        """The bytes of its file, in pieces."""
        data = pieces(self.tensors)
        sha256 = hashlib.sha256()
        for piece in data:
            sha256.update(piece)
        facts = {"chunk": self.chunk, "n": self.n, "whole": self.whole}
        said = {"counters": dict(self.counters), "sha256": sha256.hexdigest()}
        return [sealed(facts | said), *data]

    @classmethod
    def read(cls, directory: Path, chunk: int) -> "Part | None":
        """The part of this chunk; None if there is none, or if it is damaged."""
        try:
            data = (directory / part_name(chunk)).read_bytes()
        except OSError:
            return None
        line, end, rest = data.partition(b"\n")
        try:
            facts = unsealed(line + end)
            if hashlib.sha256(rest).hexdigest() != facts["sha256"] or facts["chunk"] != chunk:
                return None
            tensors = safetensors.torch.load(rest)
            return cls(chunk, facts["n"], facts["whole"], facts["counters"], tensors)
        except (Corrupt, KeyError, TypeError, json.JSONDecodeError, safetensors.SafetensorError):
            return None
