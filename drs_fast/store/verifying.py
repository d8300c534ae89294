"""Checks whether a run on disk is what was written, and finds what to compute again."""

import contextlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch

from drs_fast.core import last_row
from drs_fast.store.folder import Folder, being_written
from drs_fast.store.format import (
    MANIFEST,
    RECORDS,
    STATE,
    Altered,
    Corrupt,
    Record,
    gaps,
    irregular,
    lines,
    parts,
    read_records,
    shard_name,
    temporaries,
    unrecorded,
    workers,
)
from drs_fast.store.hashed import hashed
from drs_fast.store.manifest import (
    Found,
    Manifest,
    check_totals,
    read_manifest,
    unfinished,
    written,
)
from drs_fast.store.tensors import Layout, described, open_shard, read_state


def verify(path: str | PathLike[str]) -> list[str]:
    """What is wrong with a run, in words; an empty list if every byte is as it was written.

    OSError where a file cannot be read: that says nothing of what it holds.

    A run that was interrupted is sound, but for the files that the interruption left behind. Of
    one that is being written the recorded shards are checked, because all else is in motion.
    """
    directory = Path(path)
    while True:
        live, before = being_written(directory), _versions(directory)
        problems = _problems(directory, live)
        ended = before == _versions(directory) and not being_written(directory)
        if live or ended or not problems:  # otherwise a writer arrived during the check
            return problems


def _versions(directory: Path) -> list[tuple[str, int, int, int]]:
    """Versions of the files that every writer changes."""
    found = []
    names = [MANIFEST, RECORDS]
    with contextlib.suppress(OSError):  # no directory
        names += workers(directory)
    for name in names:
        with contextlib.suppress(OSError):
            file = (directory / name).stat()
            found.append((name, file.st_ino, file.st_size, file.st_mtime_ns))
    return found


def _problems(directory: Path, live: bool) -> list[str]:
    try:
        manifest, records, _, state, torn = _read(directory)
    except (ValueError, Corrupt) as error:
        return [] if live else [str(error)]
    damaged = _damaged_shards(directory, records, manifest)
    if live:  # a shard that is made again is not recorded meanwhile
        now = read_records(directory, manifest.get("chunk_rows"))[0]
        return [line for chunk, line in damaged.items() if now.get(chunk) == records[chunk]]
    return [
        *state,
        *torn,
        *damaged.values(),
        *(gaps(records, manifest["n"]) if manifest["complete"] else []),  # workers leave gaps
        *_left(directory, records, manifest),
    ]


def recorded(path: str | PathLike[str]) -> list[int]:
    """Sample counts of all recorded shards; also works while the run is being written."""
    directory = Path(path)
    if not (directory / MANIFEST).exists():
        return []
    chunk_rows = read_manifest(directory).get("chunk_rows")
    return [r.count for r in read_records(directory, chunk_rows)[0].values()]


def mendable(path: str | PathLike[str]) -> bool:
    """Whether `repair`, followed by the run's command, can fix what `verify` finds."""
    try:
        _read(Path(path))
    except (ValueError, Corrupt):
        return False
    return True


def repair(path: str | PathLike[str]) -> list[str]:
    """Deletes what is damaged, so that the command that made the run makes just that again.

    Returns what was dropped, in words. Corrupt where that cannot help: the manifest is damaged, the
    state has its sha256 and yet was never written so, or what should be a file is none. OSError,
    and nothing is dropped, where a file cannot be read.
    """
    folder = Folder(Path(path))
    with contextlib.closing(folder):
        manifest, records, facts, state, torn = _read(folder.path)
        damaged = _damaged_shards(folder.path, records, manifest)
        sound = {chunk: record for chunk, record in records.items() if chunk not in damaged}
        missing = gaps(sound, manifest["n"]) if manifest["complete"] else []
        left = _left(folder.path, records, manifest)
        folder.remove(temporaries(folder.path))
        if manifest["complete"]:
            folder.remove(parts(folder.path))
        if state or torn or damaged or missing:
            folder.put(MANIFEST, written(unfinished(manifest, facts)))
            folder.put(RECORDS, lines(sound))
            folder.remove(workers(folder.path))
        folder.remove([*unrecorded(folder.path, sound), *([STATE] if state else [])])
        return [*state, *torn, *damaged.values(), *left]


class _Run(NamedTuple):
    """What a run says of itself, and what is wrong with its state and its records."""

    manifest: Manifest
    records: dict[int, Record]
    facts: Found | None  # of its state, if that is sound
    state: list[str]
    torn: list[str]


def _read(directory: Path) -> _Run:
    """Reads the run; raises what no repair can fix."""
    blocked = irregular(directory) if directory.is_dir() else []
    if blocked:
        raise Corrupt("; ".join(blocked))
    manifest, facts, state = read_manifest(directory), None, []
    try:
        if "state_sha256" in manifest:
            _, facts = read_state(directory, manifest)
    except Altered:
        raise
    except Corrupt as error:
        state = [str(error)]
    records, torn = read_records(directory, manifest.get("chunk_rows"))
    if manifest["complete"] and not torn:
        check_totals(directory, manifest, records.values())
    return _Run(manifest, records, facts, state, torn)


def _damaged_shards(
    directory: Path, records: Mapping[int, Record], manifest: Manifest
) -> dict[int, str]:
    damaged: dict[int, str] = {}
    rows: dict[int, Layout] = {}
    last = -1
    with contextlib.closing(hashed(directory, records.values())) as found:
        for record, sha256 in found:
            try:
                rows[record.chunk], last = _check_shard(directory, record, sha256, last, manifest)
            except Corrupt as error:
                damaged[record.chunk] = str(error)
    if len(set(map(described, rows.values()))) > 1:  # nobody can tell which of them are right
        damaged |= {
            chunk: f"{directory / shard_name(chunk)} holds rows of {described(layout)}, "
            "while other shards hold rows of another kind"
            for chunk, layout in rows.items()
        }
    return dict(sorted(damaged.items()))


def _check_shard(
    directory: Path, record: Record, sha256: str | None, last: int, manifest: Manifest
) -> tuple[Layout, int]:
    """One row, and the shard's last group (or `last`, that of earlier shards, if it is empty).

    sha256: of the file; None if it is missing or has another size.
    """
    path, group = directory / shard_name(record.chunk), manifest.get("group", 1)
    if sha256 is None:
        raise Corrupt(f"{path} is missing or is not {record.size} bytes long")
    if sha256 != record.sha256:
        raise Corrupt(f"{path} does not match its recorded sha256")
    shard = open_shard(path, record.count)
    ids = shard.tensor("ids")
    rows = torch.maximum(ids, ~ids)
    groups = rows // group
    # If the rows of a group compete, they come in any order, and a row may come several times.
    least = 1 if group == 1 else 0
    if (torch.diff(groups, prepend=groups.new_tensor([last])) < least).any():
        first = group * (last + least)
        raise Corrupt(f"{path} must hold ids that increase, starting at {max(first, 0)} or later")
    if record.counters["last_row"] != last_row(ids):
        raise Corrupt(f"{path} must end with row {record.counters['last_row']}")
    labels = manifest.get("labels")
    if labels is not None and "y" in shard.layout:
        y = shard.tensor("y")
        if ((y < 0) | (y >= labels)).any():
            raise Corrupt(f"{path} must hold labels in [0, {labels})")
    return shard.rows, max(last, int(groups[-1])) if len(groups) else last


def _left(directory: Path, records: Mapping[int, Record], manifest: Manifest) -> list[str]:
    names = [*temporaries(directory), *unrecorded(directory, records)]
    if manifest["complete"]:  # otherwise the next call reads them
        names += parts(directory)
    return [f"{directory / name} was left behind by an interruption" for name in names]
