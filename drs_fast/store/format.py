"""The files of a run: what they are called, what they hold, and how they are read."""

import hashlib
import itertools
import json
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor

MANIFEST, STATE, RECORDS = "manifest.json", "state.safetensors", "shards.jsonl"
SHARD = re.compile(r"chunk-\d{8,}\.safetensors")
TEMPORARY = re.compile(
    rf"({re.escape(MANIFEST)}|{re.escape(STATE)}|{re.escape(RECORDS)}|{SHARD.pattern})\.tmp"
)


class Conflict(ValueError):
    """The directory belongs to another run, to a larger n, or to something else altogether."""


class Corrupt(RuntimeError):
    """A file of the run is damaged or missing."""


def shard_name(chunk: int) -> str:
    """The file that holds a chunk's samples."""
    return f"chunk-{chunk:08d}.safetensors"


def sealed(facts: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON with sorted keys, a newline at its end, and under crc32 the checksum of the rest."""
    checksum = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    return (json.dumps({**facts, "crc32": checksum}, sort_keys=True, indent=indent) + "\n").encode()


def unsealed(data: bytes, indent: int | None = None) -> dict[str, Any]:
    """What was sealed; Corrupt unless these are exactly the bytes that `sealed` wrote."""
    try:
        facts = json.loads(data)
        del facts["crc32"]
        intact = sealed(facts, indent) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise Corrupt("does not match its own crc32: it was damaged or edited")
    return cast(dict[str, Any], facts)


@dataclass(frozen=True)
class Record:
    """A finished shard: one line of shards.jsonl, with the counters among its other keys.

    size: bytes of the file. cut: it holds fewer rows than its chunk gave, for n was reached.
    """

    chunk: int
    count: int
    size: int
    sha256: str
    cut: bool
    counters: dict[str, int]

    def line(self) -> bytes:
        return sealed(
            dict(
                chunk=self.chunk,
                count=self.count,
                bytes=self.size,
                sha256=self.sha256,
                cut=self.cut,
                **self.counters,
            )
        )

    @classmethod
    def parse(cls, line: bytes) -> "Record":
        """The record of a line. Corrupt if it is none."""
        facts = unsealed(line)
        try:
            chunk, count, size, sha256, cut = (
                facts.pop(key) for key in ("chunk", "count", "bytes", "sha256", "cut")
            )
        except KeyError as error:
            raise Corrupt(f"has no key {error}") from None
        if not (all(map(_is_count, (chunk, count, size))) and isinstance(cut, bool)):
            raise Corrupt("must have integers from 0 as chunk, count and bytes, and cut as a bool")
        return cls(chunk, count, size, sha256, cut, facts)


def read_manifest(directory: Path) -> dict[str, Any]:
    """manifest.json. Conflict if the directory is no run's, Corrupt if the file is damaged."""
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Conflict(f"{directory} is not a run: it holds no {MANIFEST}") from None
    if b'"crc32"' not in data:
        raise Conflict(f"{path} was not written by drs_fast, or is damaged")
    try:
        manifest = unsealed(data, indent=2)
    except Corrupt as error:
        raise Corrupt(f"{path} {error}; bring back a copy, or start anew elsewhere") from None
    if not _is_count(manifest.get("n")) or not isinstance(manifest.get("complete"), bool):
        raise Corrupt(f"{path} must have an integer n from 0 and complete, true or false")
    return manifest


def read_records(directory: Path) -> tuple[dict[int, Record], list[str]]:
    """The records of shards.jsonl by chunk, and what is wrong with its other lines."""
    path = directory / RECORDS
    records: dict[int, Record] = {}
    problems = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = Record.parse(line)
        except Corrupt as error:
            problems.append(f"{path} line {number} {error}")
            continue
        if record.chunk in records:
            problems.append(f"{path} line {number} names chunk {record.chunk} a second time")
        records[record.chunk] = record
    return records, problems


def read_state(directory: Path, sha256: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The sampler's state, and the facts about it that the manifest repeats."""
    path = directory / STATE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Corrupt(f"{path} does not have the sha256 that the manifest names")
    with open_shard(path) as file:
        tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
        return tensors, json.loads(file.metadata()["facts"])


def open_shard(path: Path, count: int | None = None, *, or_more: bool = False) -> Any:
    """An open safetensors file; Corrupt unless all its tensors have count rows, where given.

    or_more: the same number of more rows will do too.
    """
    try:
        file: Any = safe_open(path, framework="pt")
        shapes = {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}
    except Exception as error:  # its errors share no base class, and a damaged file may raise any
        raise Corrupt(f"{path} cannot be read: {error}; `drs-fast verify` says more") from None
    rows = {shape[0] if shape else -1 for shape in shapes.values()}
    if count is not None and (
        "ids" not in shapes or (min(rows) < count or len(rows) > 1 if or_more else rows != {count})
    ):
        raise Corrupt(f"{path} must hold ids and {count} rows of each tensor, it has {shapes}")
    return file


def gaps(records: Mapping[int, Record], n: int | None) -> list[str]:
    problems = []
    missing = max(records, default=-1) + 1 - len(records)
    if missing:
        first = next(chunk for chunk in itertools.count() if chunk not in records)
        problems.append(f"{missing} chunks are missing, the first is chunk {first}")
    count = sum(record.count for record in records.values())
    if n is not None and count != n:
        problems.append(f"{n} samples should be there, the shards hold {count}")
    return problems


def temporaries(directory: Path) -> list[str]:
    """Files that an interrupted write left."""
    return sorted(name for name in os.listdir(directory) if TEMPORARY.fullmatch(name))


def unrecorded(directory: Path, records: Mapping[int, Record]) -> list[str]:
    """Shards that are not recorded: the interruption came between the two."""
    recorded = {shard_name(chunk) for chunk in records}
    names = sorted(name for name in os.listdir(directory) if SHARD.fullmatch(name))
    return [name for name in names if name not in recorded]


def has_size(directory: Path, record: Record) -> bool:
    path = directory / shard_name(record.chunk)
    return path.is_file() and path.stat().st_size == record.size


def lines(records: Mapping[int, Record]) -> bytes:
    return b"".join(records[chunk].line() for chunk in sorted(records))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
