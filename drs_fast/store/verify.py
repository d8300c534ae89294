"""Is a run on disk what was written, and if not, what to compute again."""

import contextlib
import hashlib
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from drs_fast.store.folder import Folder, being_written
from drs_fast.store.format import (
    MANIFEST,
    RECORDS,
    STATE,
    Corrupt,
    Record,
    gaps,
    has_size,
    lines,
    open_shard,
    read_manifest,
    read_records,
    read_state,
    sealed,
    shard_name,
    temporaries,
    unrecorded,
)


def verify(path: str | PathLike[str]) -> list[str]:
    """What is wrong with a run, in words; nothing if every byte is as it was written.

    A run that was interrupted is sound, but for the files that the interruption left behind. Of
    one that is being written the recorded shards are checked, because all else is in motion.
    """
    directory = Path(path)
    while True:
        live, before = being_written(directory), _versions(directory)
        problems = _problems(directory, live)
        ended = before == _versions(directory) and not being_written(directory)
        if live or ended or not problems:  # else a writer came while this looked
            return problems


def _versions(directory: Path) -> list[tuple[str, int, int, int]]:
    """Of the files that every writer changes."""
    found = []
    for name in (MANIFEST, RECORDS):
        with contextlib.suppress(OSError):
            file = (directory / name).stat()
            found.append((name, file.st_ino, file.st_size, file.st_mtime_ns))
    return found


def _problems(directory: Path, live: bool) -> list[str]:
    if live and not (directory / MANIFEST).exists():
        return []
    try:
        manifest = read_manifest(directory)
    except (OSError, ValueError, Corrupt) as error:
        return [str(error)]
    try:
        records, problems = read_records(directory)
    except OSError as error:
        records, problems = {}, [str(error)]
    damaged = _damaged_shards(directory, records, manifest)
    if live:  # a shard that is made again is not recorded meanwhile
        now = read_records(directory)[0]
        return [line for chunk, line in damaged.items() if now.get(chunk) == records[chunk]]
    return [
        *_damaged_state(directory, manifest),
        *problems,
        *damaged.values(),
        *gaps(records, manifest["n"] if manifest["complete"] else None),
        *_left(directory, records),
    ]


def repair(path: str | PathLike[str]) -> list[str]:
    """Drops what is damaged, so that the command that made the run makes just that again.

    Returns what was dropped, in words. Corrupt if the manifest is damaged: that cannot be helped.
    """
    folder = Folder(Path(path))
    with contextlib.closing(folder):
        manifest = read_manifest(folder.path)
        records, torn = read_records(folder.path)
        damaged = _damaged_shards(folder.path, records, manifest)
        state = _damaged_state(folder.path, manifest)
        sound = {chunk: record for chunk, record in records.items() if chunk not in damaged}
        left = _left(folder.path, records)
        folder.remove(temporaries(folder.path))
        if torn or damaged or state or (manifest["complete"] and gaps(sound, manifest["n"])):
            folder.put(MANIFEST, sealed({**manifest, "complete": False}, indent=2))
            folder.put(RECORDS, lines(sound))
        folder.remove([*unrecorded(folder.path, sound), *([STATE] if state else [])])
        return [*state, *torn, *damaged.values(), *left]


def _damaged_shards(
    directory: Path, records: Mapping[int, Record], manifest: Mapping[str, Any]
) -> dict[int, str]:
    damaged = {}
    last, group = -1, manifest.get("group", 1)
    if type(group) is not int or not 0 < group < 2**63:
        group = 1
    for chunk in sorted(records):
        try:
            last = _check_shard(directory, records[chunk], last, group)
        except (OSError, Corrupt) as error:
            damaged[chunk] = str(error)
    return damaged


def _check_shard(directory: Path, record: Record, last: int, group: int) -> int:
    """The last group in it, or in those before, whose last one is `last`."""
    path = directory / shard_name(record.chunk)
    if not has_size(directory, record):
        raise Corrupt(f"{path} is missing or does not have its {record.size} bytes")
    if hashlib.sha256(path.read_bytes()).hexdigest() != record.sha256:
        raise Corrupt(f"{path} does not have the sha256 that was recorded")
    ids = open_shard(path, record.count).get_tensor("ids")
    numbered = ids.dtype == torch.int64 and ids.ndim == 1
    groups = torch.maximum(ids, ~ids) // group if numbered else ids
    # Where the rows of a group compete, they come in any order, and one may come several times.
    least = 1 if group == 1 else 0
    if not numbered or (torch.diff(groups, prepend=groups.new_tensor([last])) < least).any():
        first = group * (last + least)
        raise Corrupt(f"{path} must hold int64 ids that increase from {max(first, 0)} on")
    return max(last, int(groups[-1])) if len(groups) else last


def _damaged_state(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    try:
        if "state_sha256" in manifest:
            read_state(directory, manifest["state_sha256"])
    except Corrupt as error:
        return [str(error)]
    return []


def _left(directory: Path, records: Mapping[int, Record]) -> list[str]:
    names = [*temporaries(directory), *unrecorded(directory, records)]
    return [f"{directory / name} is left of an interruption" for name in names]
