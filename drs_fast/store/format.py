"""The files of a run: their names, their contents, and how they are read.

Every file has a checksum: crc32 in the manifest and in each record, sha256 for all others but
seconds.json, which no sample depends on. They
show whether an accident changed a file, and which one. They do not protect against intent: whoever
changes a file and recomputes its checksums has made another run.
"""

import contextlib
import itertools
import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from drs_fast.core.words import counted
from drs_fast.store import kinds
from drs_fast.store.kinds import Count, Flag, LastRow, Sha256

MANIFEST, STATE, RECORDS = "manifest.json", "state.safetensors", "shards.jsonl"
SECONDS = "seconds.json"
SHARD = re.compile(r"chunk-\d{8,}\.safetensors")
PART = re.compile(r"chunk-\d{8,}\.part")  # of a shard that is being made
# The records of a worker that writes beside others; the last one puts them into shards.jsonl.
WORKER = re.compile(r"worker-\d{4,}\.jsonl")
TEMPORARY = re.compile(
    rf"({'|'.join(map(re.escape, (MANIFEST, STATE, RECORDS, SECONDS)))}|{SHARD.pattern}"
    rf"|{PART.pattern})"
    r"(\.worker-\d{4,})?\.tmp"
)


class Conflict(ValueError):
    """The directory belongs to another run, to a larger n, or is not a run at all."""


class Busy(Conflict):
    """Another process is writing to the directory."""


class Corrupt(RuntimeError):
    """A file of the run is damaged or missing."""


class Altered(Corrupt):
    """A file matches its checksum, yet cannot be what was written."""


def shard_name(chunk: int) -> str:
    """The file that holds a chunk's samples."""
    return f"chunk-{chunk:08d}.safetensors"


def part_name(chunk: int) -> str:
    """The file that holds what there is of a chunk's samples, until its shard is there."""
    return f"chunk-{chunk:08d}.part"


def sealed(facts: Mapping[str, Any], indent: int | None = None) -> bytes:
    """JSON with sorted keys, a final newline, and the checksum of the rest under crc32."""
    checksum = zlib.crc32(json.dumps(facts, sort_keys=True).encode())
    return (json.dumps({**facts, "crc32": checksum}, sort_keys=True, indent=indent) + "\n").encode()


def unsealed(data: bytes, indent: int | None = None) -> dict[str, Any]:
    """What was sealed; Corrupt unless the bytes are exactly those that `sealed` wrote."""
    try:
        facts = json.loads(data)
        del facts["crc32"]
        intact = sealed(facts, indent) == data
    except (ValueError, KeyError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise Corrupt("does not match its own crc32: it was damaged or edited")
    return cast(dict[str, Any], facts)


class Line(TypedDict):
    """A line of shards.jsonl. It also holds the sampler's tallies, integers in [0, 2^127)."""

    chunk: Count  # its number
    count: Count  # samples
    bytes: Count  # of the file
    sha256: Sha256  # of the file
    cut: Flag  # it holds fewer samples than its chunk gave, because n was reached
    rows: Count  # rows tried
    calls: Count  # calls of G and D, in rows
    invalid: Count  # logits that were NaN or +inf
    above: Count  # logits above log_m
    last_row: LastRow  # the largest row of a sample; -1 if there is none


@dataclass(frozen=True)
class Record:
    """A finished shard: one line of shards.jsonl; `Line` explains its keys.

    size: bytes of the file. counters: all but the first five keys, with the sampler's tallies. A
    missing one is 0, because a bound that is not used counts nothing.
    """

    chunk: int
    count: int
    size: int
    sha256: str
    cut: bool
    counters: dict[str, int]

    def line(self) -> bytes:
        """Its line. ValueError if a key is missing or of the wrong kind."""
        facts = dict(
            chunk=self.chunk,
            count=self.count,
            bytes=self.size,
            sha256=self.sha256,
            cut=self.cut,
            **self.counters,
        )
        problems = _wrong(facts)
        if problems:
            raise ValueError(f"a record cannot be written: {'; '.join(problems)}")
        return sealed(facts)

    @classmethod
    def parse(cls, line: bytes) -> "Record":
        """The record in a line. Corrupt if the line is not a record."""
        facts = unsealed(line)
        problems = _wrong(facts)
        if problems:
            raise Corrupt(f"is not a record: {'; '.join(problems)}")
        chunk, count, size, sha256, cut = (
            facts.pop(key) for key in ("chunk", "count", "bytes", "sha256", "cut")
        )
        return cls(chunk, count, size, sha256, cut, facts)

    def check(self, chunk_rows: int | None) -> None:
        """Corrupt unless its numbers are possible for this chunk of so many rows, if known."""
        rows, last = self.counters["rows"], self.counters["last_row"]
        if self.count > rows:
            raise Corrupt(f"has {counted(self.count, 'sample')} from {counted(rows, 'row')}")
        if chunk_rows is None:
            return
        if rows > chunk_rows or (rows < chunk_rows and not self.cut):
            raise Corrupt(f"has {counted(rows, 'row')} in a chunk of {chunk_rows:,}")
        first = self.chunk * chunk_rows
        if (last != -1) if self.count == 0 else not first <= last < first + rows:
            raise Corrupt(
                f"names {last} as the last row of {counted(self.count, 'sample')}, but its "
                f"{counted(rows, 'row')} start{'s' if rows == 1 else ''} at {first}"
            )


def _wrong(facts: Mapping[str, Any]) -> list[str]:
    tallies = sorted(facts.keys() - Line.__required_keys__)
    return [*kinds.wrong(Line, facts), *kinds.unlike(tallies, kinds.AMOUNT, facts)]


def read_bytes(path: Path) -> bytes:
    """The content of a file. Corrupt if it is not a file, but for example a directory.

    FileNotFoundError too if it is removed meanwhile.
    """
    if os.path.lexists(path) and not path.is_file() and os.path.lexists(path):
        raise Corrupt(f"{path} is not a file; move it away")
    return path.read_bytes()


def read_records(directory: Path, chunk_rows: int | None) -> tuple[dict[int, Record], list[str]]:
    """The records in the order of their chunks, and what is wrong with other lines.

    chunk_rows: as the manifest has it; None before burn-in has found it.
    The lines may come in any order. Two for one chunk are a problem, unless two workers made it; it
    counts as recorded only if they say the same.
    """
    records: dict[int, Record] = {}
    disputed: set[int] = set()
    problems = []
    # shards.jsonl last, because the records of workers move there, perhaps in this moment.
    for name in (*workers(directory), RECORDS):
        path, here, data = directory / name, set[int](), b""
        with contextlib.suppress(FileNotFoundError):
            data = read_bytes(path)
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            try:
                record = Record.parse(line)
                record.check(chunk_rows)
            except Corrupt as error:
                problems.append(f"{path} line {number} {error}")
                continue
            differs = records.setdefault(record.chunk, record) != record
            if record.chunk in here:
                problems.append(f"{path} line {number} names chunk {record.chunk} a second time")
            elif differs:
                problems.append(f"{path} line {number} says else of chunk {record.chunk}")
            here.add(record.chunk)
            if differs:
                disputed.add(record.chunk)
    return {chunk: records[chunk] for chunk in sorted(records.keys() - disputed)}, problems


def workers(directory: Path) -> list[str]:
    """The files of workers whose records are not in shards.jsonl yet."""
    return sorted(name for name in os.listdir(directory) if WORKER.fullmatch(name))


def within(records: Mapping[int, Record], n: int) -> dict[int, Record]:
    """The records of whole chunks that a run of n samples has before its last one.

    Of chunks beyond a missing one nobody knows whether they are needed; they are kept.
    """
    count, kept = 0, dict[int, Record]()
    for chunk, record in sorted(records.items()):
        count += record.count
        known = chunk == len(kept)
        if known and count >= n:
            break
        kept[chunk] = record
    return kept


def gaps(records: Mapping[int, Record], n: int | None) -> list[str]:
    problems = []
    missing = max(records, default=-1) + 1 - len(records)
    if missing:
        first = next(chunk for chunk in itertools.count() if chunk not in records)
        problems.append(
            f"{counted(missing, 'chunk')} {'is' if missing == 1 else 'are'} missing, the first is "
            f"chunk {first}"
        )
    count = sum(record.count for record in records.values())
    if n is not None and count != n:
        problems.append(f"the shards must hold {counted(n, 'sample')}, they hold {count:,}")
    return problems


def irregular(directory: Path) -> list[str]:
    """Names of the run's files that are not files, such as directories."""
    own = (MANIFEST, STATE, RECORDS)
    with os.scandir(directory) as entries:
        return sorted(
            f"{entry.path} is not a file; move it away"
            for entry in entries
            if (
                entry.name in own
                or any(kind.fullmatch(entry.name) for kind in (SHARD, PART, WORKER, TEMPORARY))
            )
            and not _is_file(entry.path)
            and os.path.lexists(entry.path)  # otherwise a writer has just removed it
        )


def _is_file(path: str) -> bool:
    """PermissionError where one may not know."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        raise
    except OSError:  # such as a loop of links
        return False


def temporaries(directory: Path) -> list[str]:
    """Files left behind by an interrupted write."""
    return sorted(name for name in os.listdir(directory) if TEMPORARY.fullmatch(name))


def parts(directory: Path) -> list[str]:
    """Files that hold what there is of shards."""
    return sorted(name for name in os.listdir(directory) if PART.fullmatch(name))


def unrecorded(directory: Path, records: Mapping[int, Record]) -> list[str]:
    """Shards without a record, left when a run stopped between writing and recording one."""
    recorded = {shard_name(chunk) for chunk in records}
    names = sorted(name for name in os.listdir(directory) if SHARD.fullmatch(name))
    return [name for name in names if name not in recorded]


def has_size(directory: Path, record: Record) -> bool:
    path = directory / shard_name(record.chunk)
    return path.is_file() and path.stat().st_size == record.size


def lines(records: Mapping[int, Record]) -> bytes:
    return b"".join(records[chunk].line() for chunk in sorted(records))
