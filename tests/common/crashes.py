"""What a run changes on a disk, one change after another, and what a crash leaves of it.

A kill leaves all changes so far, the last write perhaps in part. A power cut leaves what was
fsynced; of all else POSIX promises only that an entry of a directory changes as a whole.
"""

import functools
import itertools
import os
import random
import threading
from collections import namedtuple
from pathlib import Path

from drs_fast.store.format import SECONDS

# The changes. A file has a number, which it keeps when it is renamed; directories have None.
Make = namedtuple("Make", "path file")
Rename = namedtuple("Rename", "old path file")
Remove = namedtuple("Remove", "path")
Write = namedtuple("Write", "file at data")
Truncate = namedtuple("Truncate", "file size")
Sync = namedtuple("Sync", "file")
SyncDirectory = namedtuple("SyncDirectory", "path")


class Disk:
    """A tree, path -> bytes or None for a directory, and what of it outlives a power cut."""

    def __init__(self, tree):
        numbered = enumerate(tree.items())
        self.entries = {path: None if data is None else i for i, (path, data) in numbered}
        self.contents = {i: data for i, data in enumerate(tree.values()) if data is not None}
        self._sure_entries, self._sure_contents = dict(self.entries), dict(self.contents)
        self._unsure = []  # changes of entries

    def apply(self, change):
        match change:
            case Write(file, at, data):
                now = self.contents[file]
                self.contents[file] = now[:at] + data + now[at + len(data) :]
            case Truncate(file, size):
                self.contents[file] = self.contents[file][:size]
            case Sync(file):
                self._sure_contents[file] = self.contents[file]
            case SyncDirectory(path):
                for entry in self._unsure:
                    if str(Path(entry.path).parent) == path:
                        _enter(self._sure_entries, entry)
                self._unsure = [e for e in self._unsure if str(Path(e.path).parent) != path]
            case entry:
                _enter(self.entries, entry)
                self._unsure.append(entry)
                if isinstance(entry, Make) and entry.file is not None:
                    self.contents[entry.file] = self._sure_contents[entry.file] = b""

    def tree(self):
        return _tree(self.entries, self.contents)

    def words(self, change):
        """What the change is, with the path of its file."""
        number = getattr(change, "file", None)
        paths = [path for path, file in self.entries.items() if file == number is not None]
        return f"{type(change).__name__} {getattr(change, 'path', *paths)}"

    def after_power_cut(self, survives, content):
        """survives: asked for each entry's change that was not fsynced. content: what a file holds,
        given the bytes that were fsynced and those that are there now."""
        entries = dict(self._sure_entries)
        for entry in self._unsure:
            if survives():
                _enter(entries, entry)
        contents = {
            file: now
            if now == self._sure_contents[file]
            else content(self._sure_contents[file], now)
            for file, now in self.contents.items()
        }
        return _tree(entries, contents)


def _enter(entries, change):
    if isinstance(change, Make):
        entries[change.path] = change.file
    else:
        entries.pop(change[0], None)
        if isinstance(change, Rename):
            entries[change.path] = change.file


def _tree(entries, contents):
    """Without what is in a directory that is not there."""
    found = {".": None}
    for path in sorted(entries, key=lambda path: len(Path(path).parts)):
        if str(Path(path).parent) in found:
            found[path] = None if entries[path] is None else contents[entries[path]]
    del found["."]
    return found


def read(root):
    paths = sorted(root.rglob("*"))
    return {str(p.relative_to(root)): None if p.is_dir() else p.read_bytes() for p in paths}


def write(root, tree):
    for path, data in tree.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


def differing(found, expected):
    """The files that differ, but for the seconds that a run took."""
    return sorted(
        path
        for path in {*found, *expected}
        if found.get(path, "") != expected.get(path, "") and Path(path).name != SECONDS
    )


def old(sure, now):
    return sure


def new(sure, now):
    return now


def half(sure, now):
    return now[: (len(sure) + len(now)) // 2]


def zeros(sure, now):
    """The file has its new length, but not its new bytes."""
    return sure[: len(now)].ljust(len(now), b"\0")


def left(disk, change, seeds=3):
    """What a crash may leave, each with its name, if it comes before this change."""
    yield "killed", disk.tree()
    if isinstance(change, Write):
        torn = Disk({})
        torn.entries, torn.contents = disk.entries, dict(disk.contents)
        torn.apply(change._replace(data=change.data[: len(change.data) // 2]))
        yield "killed in a write", torn.tree()
    yield "nothing unsynced survives", disk.after_power_cut(lambda: False, old)
    for content in (old, half, zeros):
        yield (
            f"entries survive, data {content.__name__}",
            disk.after_power_cut(lambda: True, content),
        )
    for seed in range(seeds):
        chance = random.Random(seed)
        yield (
            f"some survive, seed {seed}",
            disk.after_power_cut(
                lambda chance=chance: chance.random() < 0.5,
                lambda sure, now, chance=chance: chance.choice((old, new, half, zeros))(sure, now),
            ),
        )


class Watch:
    """Sees every change below a root that goes through `os`, from any thread.

    disturb is called before a change with how many there were; it may raise. Of a write that fails
    with an OSError half is made. What fsync does cannot be tested, and is slow: it does nothing.
    """

    CALLS = ("open", "close", "write", "fsync", "ftruncate", "replace", "unlink", "mkdir", "rmdir")

    def __init__(self, root, disturb=lambda number: None):
        self.root, self.changes, self.disk = root, [], Disk(read(root))
        self._disturb, self._lock = disturb, threading.RLock()
        self._numbers = itertools.count(len(self.disk.entries))
        self._files, self._directories = {}, {}  # by descriptor
        self._os = {name: getattr(os, name) for name in self.CALLS}

    def __enter__(self):
        for name in self.CALLS:
            setattr(os, name, self._alone(getattr(self, f"_{name}")))
        return self

    def __exit__(self, kind, error, trace):
        for name, call in self._os.items():
            setattr(os, name, call)
        assert self.disk.tree() == read(self.root), "something changed by another way"

    def _alone(self, call):
        def run(*given, **named):
            with self._lock:
                return call(*given, **named)

        return run

    def _do(self, change, call):
        self._disturb(len(self.changes))
        result = call()
        self._done(change)
        return result

    def _done(self, change):
        self.changes.append(change)
        self.disk.apply(change)

    def _below(self, path):
        path = Path(path)
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else None

    def _open(self, path, flags, *given, **named):
        name, entries = self._below(path), self.disk.entries
        call = functools.partial(self._os["open"], path, flags, *given, **named)
        if name is None:
            return call()
        new = flags & os.O_CREAT and name not in entries
        file = self._do(Make(name, next(self._numbers)), call) if new else call()
        if entries.get(name) is None:
            self._directories[file] = name
        else:
            self._files[file] = entries[name], flags & os.O_APPEND
        return file

    def _close(self, file):
        self._files.pop(file, None)
        self._directories.pop(file, None)
        self._os["close"](file)

    def _write(self, file, data):
        call = self._os["write"]
        if file not in self._files:
            return call(file, data)
        number, appends = self._files[file]
        at = len(self.disk.contents[number]) if appends else os.lseek(file, 0, os.SEEK_CUR)
        data = bytes(data)
        try:
            return self._do(Write(number, at, data), lambda: call(file, data))
        except OSError:
            part = data[: len(data) // 2]
            call(file, part)
            self._done(Write(number, at, part))
            raise

    def _fsync(self, file):
        if file in self._files:
            self._do(Sync(self._files[file][0]), lambda: None)
        elif file in self._directories:
            self._do(SyncDirectory(self._directories[file]), lambda: None)
        else:
            self._os["fsync"](file)

    def _ftruncate(self, file, size):
        call = functools.partial(self._os["ftruncate"], file, size)
        return (
            self._do(Truncate(self._files[file][0], size), call) if file in self._files else call()
        )

    def _replace(self, old, path):
        call = functools.partial(self._os["replace"], old, path)
        old, path = self._below(old), self._below(path)
        if old is None:
            return call()
        return self._do(Rename(old, path, self.disk.entries[old]), call)

    def _unlink(self, path, **named):
        name, call = self._below(path), functools.partial(self._os["unlink"], path, **named)
        return call() if name is None else self._do(Remove(name), call)

    def _rmdir(self, path, **named):
        name, call = self._below(path), functools.partial(self._os["rmdir"], path, **named)
        return call() if name is None else self._do(Remove(name), call)

    def _mkdir(self, path, *given, **named):
        name, call = self._below(path), functools.partial(self._os["mkdir"], path, *given, **named)
        return call() if name is None else self._do(Make(name, None), call)
