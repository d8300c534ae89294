"""A run that crashes at any of its file-system calls, and is started again, ends in the same bytes.

A run is recorded once. What a kill or a power cut before each call leaves is made from the record
in a fresh directory; there the same command runs, and those that came after it.
"""

import collections
import contextlib
import errno
import functools
import inspect
import itertools
import json
import os
import random
import re
import shutil
import sys
import textwrap
import threading
from collections import namedtuple

import crashes
import pytest
import torch
from runs import conditional, toy
from torch import nn

import drs_fast as drs
from drs_fast import samplers, store
from drs_fast.run import keeping
from drs_fast.run.worker import Worker
from drs_fast.squeeze import search
from drs_fast.squeeze.bounds import latent
from drs_fast.store import appending, folder, writer
from drs_fast.store.format import SHARD

if sys.platform == "win32":
    pytest.skip("POSIX file systems", allow_module_level=True)

BURN_IN = 1024


def hill():
    return drs.GAN(
        lambda z: z, lambda x: 2.0 * x[:, 0] + x[:, 1].sin() - 0.2 * x.square().sum(dim=1), 4
    )


def real():
    gan = toy()
    return drs.GAN(
        gan.generator, gan.discriminator, 2, real=torch.linspace(-1, 1, 4096).view(-1, 2)
    )


def images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = nn.Sequential(
            nn.Linear(2, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 3, 2, stride=2)
        )
        discriminator = nn.Sequential(
            nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)
        )
    return drs.GAN(generator, discriminator, 2)


def command(gan, sampler, n, rows=256, **settings):
    """What writes n samples to a directory."""
    settings = dict(batch_size=256, chunk_rows=rows, **settings)
    return lambda out: drs.generate(gan(), sampler, n, out=out, **settings)


PLAIN, WITHIN = samplers.DRS(burn_in=BURN_IN), samplers.DRS(burn_in=BURN_IN, classes="within")
SQUEEZED = drs.Squeeze(samplers.DRS(gamma=0.0, burn_in=BURN_IN), tolerance=0.5, use_bound=True)


def damage(out):
    """A shard lost a bit, so it has its size still; and the state lost its end."""
    shard, state = out / "chunk-00000001.safetensors", out / "state.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.truncate(state, 100)


def kept(command):
    """The command, which keeps what there is of a shard after every step within it."""

    def run(out):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keeping, "SECONDS", 0.0)
            command(out)

    return run


TWO = "1/2", "2/2"


def worker(which, n=300, rows=256):
    return command(toy, PLAIN, n, rows, worker=which)


def both(out):
    """The second worker begins while the first one is at work, and leaves before it."""
    numbers = itertools.count()

    def draw():
        number = next(numbers)
        if number == 1:
            worker("2/2")(out)
        return number

    worker(Worker(1, 2, draw))(out)


# before: what is there when the commands begin, each of which may crash.
Kind = namedtuple("Kind", "before commands")
WHOLE = command(toy, PLAIN, 300)
KINDS = {
    "plain": Kind([], [WHOLE]),
    "extended twice": Kind([], [command(toy, PLAIN, 120), command(toy, PLAIN, 121), WHOLE]),
    "labels": Kind([], [command(conditional, WITHIN, 300)]),
    "MH": Kind([], [command(real, samplers.MH(chain_length=8, burn_in=BURN_IN), 100)]),
    "squeezed": Kind([], [command(hill, SQUEEZED, 30, rows=1024)]),
    "tuned": Kind([], [command(images, PLAIN, 300, tune=("channels_last",))]),
    "repaired": Kind([WHOLE, damage], [store.repair, WHOLE]),
    "workers": Kind([], [worker("1/2"), worker("2/2"), WHOLE]),
    "workers at once": Kind([], [both, WHOLE]),
    "kept": Kind([], [kept(command(toy, PLAIN, 300, rows=1024))]),
    "kept with labels": Kind([], [kept(command(conditional, WITHIN, 300, rows=1024))]),
    "kept by workers": Kind([], [kept(worker(which, rows=512)) for which in (*TWO, None)]),
    "workers extended": Kind([], [worker("2/2", 150), worker("1/2", 150), *map(worker, TWO)]),
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Bounds are fitted in a hurry."""
    monkeypatch.setattr(search, "ROWS", (1024,))
    monkeypatch.setattr(latent, "EPOCHS", 1)
    monkeypatch.setattr(latent, "LEAST_STEPS", 20)


# ends: how many changes there were when each command ended. before, after: what the disk holds.
Record = namedtuple("Record", "before changes ends after")
Crash = namedtuple("Crash", "name command tree")


def start(kind, root):
    """What the disk holds before the commands."""
    root.mkdir()
    for prepare in kind.before:
        prepare(root / "run")
    return crashes.read(root)


def recorded(kind, root):
    before, ends = start(kind, root), []
    with crashes.Watch(root) as watch:
        for run in kind.commands:
            run(root / "run")
            ends.append(len(watch.changes))
    return Record(before, watch.changes, ends, crashes.read(root))


def states(record):
    """Before each change and at the end: (how many there were, the change or None, the disk)."""
    disk = crashes.Disk(record.before)
    for number, change in enumerate(record.changes):
        yield number, change, disk
        disk.apply(change)
    yield len(record.changes), None, disk


def possible(record, seeds):
    """Every tree that a crash may leave, once, and the number of the command that crashed."""
    seen = set()
    for number, change, disk in states(record):
        command = next(i for i, end in enumerate(record.ends) if number <= end)
        for name, tree in crashes.left(disk, change, seeds):
            if (key := (command, tuple(tree.items()))) not in seen:
                seen.add(key)
                what = "the end" if change is None else disk.words(change)
                yield Crash(f"{name} before change {number}, {what}", command, tree)


def chosen(found, count):
    """The first crash, the last, those within the first write of each file, and some others."""
    torn = {}
    for crash in found:
        if crash.name.startswith("killed in a write"):
            torn.setdefault(re.sub(r".*/|\d+", "", crash.name), crash)
    needed = [found[0], found[-1], *torn.values()]
    others = [crash for crash in found if crash not in needed]
    return [*needed, *random.Random(0).sample(others, count - len(needed))]


def unsound(out):
    """What a reader finds wrong beside that which an interruption leaves behind."""
    known = "left behind by an interruption", ".jsonl line"
    if not (out / "manifest.json").exists():
        return []
    store.open_run(out)
    return [line for line in store.verify(out) if not any(words in line for words in known)]


def problem(kind, crash, expected, root):
    """What is wrong after the crash, or once the command and those after it have run again."""
    root.mkdir()
    crashes.write(root, crash.tree)
    try:
        if not kind.before and (found := unsound(root / "run")):
            return found
        for run in kind.commands[crash.command :]:
            run(root / "run")
        return store.verify(root / "run") or crashes.differing(crashes.read(root), expected)
    except Exception as error:
        return [repr(error)]
    finally:
        shutil.rmtree(root)


def problems(kind, crashed, expected, root):
    found = ((crash.name, problem(kind, crash, expected, root)) for crash in crashed)
    return ((name, what) for name, what in found if what)


def lost(record):
    """What a power cut after a command undoes of what it did."""
    return [
        name
        for number, _, disk in states(record)
        if number in record.ends
        for name in crashes.differing(disk.after_power_cut(lambda: False, crashes.old), disk.tree())
    ]


@pytest.mark.parametrize("name", KINDS)
def test_after_a_crash_the_same_command_gives_the_same_bytes(tmp_path, name):
    kind, record = KINDS[name], recorded(KINDS[name], tmp_path / "whole")
    crashed = chosen(list(possible(record, seeds=3)), count=12)
    assert list(problems(kind, crashed, record.after, tmp_path / "again")) == []
    assert lost(record) == []


def overtaken(monkeypatch, root):
    """The plain run, in which every second shard is durable before the one it comes after."""
    there = collections.defaultdict(threading.Event)
    put = folder.Folder.put

    def late(self, name, *data):
        chunk = int(name[6:14]) if SHARD.fullmatch(name) else None
        if chunk in (0, 2):
            assert there[chunk + 1].wait(20)
        sha256 = put(self, name, *data)
        there[chunk].set()
        return sha256

    with monkeypatch.context() as patch:
        patch.setattr(folder.Folder, "put", late)
        return recorded(KINDS["plain"], root)


def recorded_chunks(disk):
    """The chunks in shards.jsonl, in the order of its lines."""
    data = disk.tree().get("run/shards.jsonl", b"")
    return [json.loads(line)["chunk"] for line in data.splitlines()]


def test_shards_that_overtake_each_other_are_recorded_in_order(tmp_path, monkeypatch):
    record = overtaken(monkeypatch, tmp_path / "whole")
    shards = [change.path for change in record.changes if isinstance(change, crashes.Rename)]
    made = [int(path[-20:-12]) for path in shards if SHARD.fullmatch(os.path.basename(path))]
    assert made.index(1) < made.index(0)
    assert made.index(3) < made.index(2)
    assert all(
        (chunks := recorded_chunks(disk)) == list(range(len(chunks)))
        for _, _, disk in states(record)
    )
    crashed = chosen(list(possible(record, seeds=3)), count=24)
    kind, expected = KINDS["plain"], recorded(KINDS["plain"], tmp_path / "plain").after
    assert list(problems(kind, crashed, expected, tmp_path / "again")) == []


def test_shards_that_do_not_wait_are_recorded_in_another_order(tmp_path, monkeypatch):
    append = writer.Writer.append

    def at_once(self, *given, after=None, **named):
        append(self, *given, **named)

    monkeypatch.setattr(writer.Writer, "append", at_once)
    record = overtaken(monkeypatch, tmp_path / "whole")
    found = [recorded_chunks(disk) for _, _, disk in states(record)]
    assert any(chunks != sorted(chunks) for chunks in found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KINDS)
def test_after_any_crash_or_two_the_same_command_gives_the_same_bytes(tmp_path, name):
    kind, record = KINDS[name], recorded(KINDS[name], tmp_path / "whole")
    crashed = list(possible(record, seeds=30))
    assert list(problems(kind, crashed, record.after, tmp_path / "again")) == []
    for number, crash in enumerate(crashed[:: len(crashed) // 6]):
        left = functools.partial(crashes.write, tree=crash.tree)
        rest = Kind([lambda out, left=left: left(out.parent)], kind.commands[crash.command :])
        again = recorded(rest, tmp_path / f"second {number}")
        found = problems(rest, possible(again, seeds=3), record.after, tmp_path / "again")
        assert list(found) == [], crash.name


def recorded_anywhere(tree):
    """The chunks that any file of records names."""
    lines = [
        line
        for path, data in tree.items()
        if path.endswith(".jsonl")
        for line in data.splitlines(keepends=True)
        if line.endswith(b"\n")
    ]
    return {json.loads(line)["chunk"] for line in lines}


def shards(tree):
    return {data for path, data in tree.items() if SHARD.fullmatch(os.path.basename(path))}


def lost_or_partial(root, name):
    """What is recorded and vanishes, or has a shard's name and is none, at any change."""
    record = recorded(KINDS[name], root / "watched")
    command(toy, PLAIN, 600)(root / "longer")
    whole = shards(record.after) | shards(crashes.read(root / "longer"))
    needed = recorded_anywhere(record.after)
    needed -= {max(needed)}  # the last is cut
    found, sure = set(), set()
    for number, _, disk in states(record):
        now, after = disk.tree(), disk.after_power_cut(lambda: False, crashes.old)
        if not shards(now) <= whole:
            yield f"part of a shard before change {number}"
        for kept, tree in ((found, now), (sure, after)):
            chunks = recorded_anywhere(tree) & needed
            if not kept <= chunks:
                yield f"chunks {kept - chunks} are no longer recorded before change {number}"
            kept |= chunks


@pytest.mark.parametrize("name", ["plain", "workers", "workers at once"])
def test_what_is_recorded_stays_and_no_part_has_a_final_name(tmp_path, name):
    assert list(lost_or_partial(tmp_path, name)) == []


def test_records_that_are_gathered_too_late_are_lost(tmp_path, monkeypatch):
    """A planted fault: the files of workers are removed before their records are elsewhere."""
    put = writer.Writer._put_records

    def late(self):
        self._folder.remove(writer.workers(self.path))
        put(self)

    monkeypatch.setattr(writer.Writer, "_put_records", late)
    assert any("no longer recorded" in what for what in lost_or_partial(tmp_path, "workers"))


def test_extended_or_repaired_it_is_the_run_made_at_once(tmp_path):
    names = "plain", "extended twice", "repaired", "workers", "workers at once", "workers extended"
    made = [recorded(KINDS[name], tmp_path / name).after for name in names]
    assert [crashes.differing(made[0], other) for other in made[1:]] == [[]] * (len(names) - 1)


class Died(BaseException):
    """From then on nothing the process does has an effect."""


def disturbed(kind, root, error, number, *, for_good=False):
    """The command that failed at a change, and what is left. for_good: all that follow fail too."""
    failed = []

    def disturb(changes):
        if changes == number and (for_good or not failed):
            failed.append(changes)
            raise error

    start(kind, root)
    with crashes.Watch(root, disturb), contextlib.suppress(type(error)):
        for command, run in enumerate(kind.commands):  # noqa: B007
            run(root / "run")
    tree = crashes.read(root)
    shutil.rmtree(root)
    return Crash(f"{error!r} at change {number}", command, tree)


@pytest.mark.parametrize("name", ["plain", "repaired", "workers"])
def test_the_record_tells_what_a_process_that_dies_leaves(tmp_path, monkeypatch, name):
    """At any change, whichever thread makes it. One writer, because several differ in order."""
    monkeypatch.setattr(folder, "THREADS", 1)
    kind, record = KINDS[name], recorded(KINDS[name], tmp_path / "whole")
    trees = [disk.tree() for _, _, disk in states(record)]
    for number in random.Random(0).sample(range(len(record.changes)), 10):
        died = disturbed(kind, tmp_path / "run", Died(), number, for_good=True)
        assert crashes.differing(died.tree, trees[number]) == [], died.name


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((name, 6) for name in ("plain", "extended twice", "repaired", "workers")),
        *(pytest.param(name, None, marks=pytest.mark.slow) for name in KINDS),
    ],
)
def test_after_an_error_the_same_command_gives_the_same_bytes(tmp_path, name, count):
    """What failed cleans up after itself, and that may go wrong in ways that a kill does not."""
    kind, record = KINDS[name], recorded(KINDS[name], tmp_path / "whole")
    numbers = range(len(record.changes))
    for number in numbers if count is None else random.Random(0).sample(numbers, count):
        left = disturbed(kind, tmp_path / "run", OSError(errno.EIO, "broken"), number)
        assert problem(kind, left, record.after, tmp_path / "again") == []


# A function of the store, what a careless change would make of a line of it, and what shows that.
FAULTS = {
    "a file is not fsynced": (folder, "_write", "os.fsync(file)", "pass", "plain"),
    "a directory is not fsynced": (
        folder.Folder, "_sync", "os.fsync(self._directory)", "pass", "plain",
    ),
    "recorded before it is there": (
        appending.Appending, "append", "sha256 = self._folder.put(shard_name(chunk), *data)",
        "import hashlib; sha256 = hashlib.sha256(b''.join(data)).hexdigest(); "
        "self.records[chunk] = Record(chunk, count, size, sha256, cut, {**counters, **last}); "
        "self._folder.append(RECORDS, self.records[chunk].line()); "
        "self._folder.put(shard_name(chunk), *data); return",
        "plain",
    ),
    "a cut shard is kept": (
        writer.Writer, "_go_on", ' and not (record.cut and self.n > before["n"])', "",
        "extended twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(tmp_path, monkeypatch, fault):
    owner, name, right, wrong, shown_by = FAULTS[fault]
    kind, expected = KINDS[shown_by], recorded(KINDS["plain"], tmp_path / "right").after
    function = getattr(owner, name)
    source, made = textwrap.dedent(inspect.getsource(function)), {}
    assert right in source
    exec(source.replace(right, wrong), function.__globals__, made)
    monkeypatch.setattr(owner, name, made[name])
    crashed = possible(recorded(kind, tmp_path / "wrong"), seeds=3)
    assert next(problems(kind, crashed, expected, tmp_path / "again"), None)
