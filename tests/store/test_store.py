import errno
import hashlib
import itertools
import json
import os
import pickle
import random
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from runs import FACTS, contents, files, summary
from torch.utils.data import DataLoader

from benchmarks.common.by_hand import SPEC, tried
from drs_fast import store
from drs_fast.store import folder as folder_module
from drs_fast.store.format import sealed
from drs_fast.store.tensors import pieces

CHUNK_ROWS = FACTS["chunk_rows"]
STATE = {"logit": torch.arange(50.0), "log_m": torch.tensor(1.25, dtype=torch.float64)}


def chunk_of(chunk, columns=("ids", "logit", "x")):
    """About half of the chunk's rows, as a pure function of the row's number."""
    ids = torch.arange(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
    ids = ids[(ids * 2654435761) % 97 < 50]
    made = {
        "ids": ids,
        "logit": torch.sin(ids.float()),
        "x": torch.stack([ids.float(), -ids.float()], 1),
        "z": ids.float()[:, None].repeat(1, 3),
        "y": ids % 10,
    }
    return {name: made[name] for name in columns}


def write(path, n, *, columns=("ids", "logit", "x"), spec=SPEC, chunks=None):
    """Does what the engine does; chunks collects the chunks that were computed."""
    with store.Writer.open(path, spec, n, bytes_per_sample=lambda: 20) as writer:
        if writer.complete:
            return
        if writer.state is None:
            writer.save_state(STATE, FACTS)
        chunk = 0
        while writer.rows_before(chunk) < n:
            if chunk not in writer.records:
                rows = chunk_of(chunk, columns)
                room = n - writer.rows_before(chunk)
                cut = len(rows["ids"]) > room
                rows = {name: value[:room] for name, value in rows.items()}
                writer.append(chunk, rows, cut=cut, counters=tried(CHUNK_ROWS))
                if chunks is not None:
                    chunks.append(chunk)
            chunk += 1
        writer.finish(summary(writer))


def expected(n, name="ids"):
    rows, chunk = [], 0
    while sum(map(len, rows)) < n:
        rows.append(chunk_of(chunk, (name,))[name])
        chunk += 1
    return torch.cat(rows)[:n] if rows else torch.empty(0, dtype=torch.int64)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """Only the order of fsyncs can be tested, not their effect."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


WHOLE = sum(len(chunk_of(chunk)["ids"]) for chunk in range(3))


@pytest.fixture(scope="module")
def run250(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "deep" / "out"
    write(path, 250, columns=("ids", "logit", "x", "z", "y"))
    return path


@pytest.fixture
def damaged(run250, tmp_path):
    """A copy of the run, to break."""
    return Path(shutil.copytree(run250, tmp_path / "copy"))


# --- round trip -------------------------------------------------------------------------------


def test_what_is_written_is_read(run250):
    samples = store.open_run(run250)
    assert len(samples) == 250
    assert samples.columns == ("ids", "logit", "x", "z", "y")
    for name in samples.columns:
        column, want = getattr(samples, name), expected(250, name)
        assert torch.equal(column[:], want)
        assert (column.shape, column.dtype, len(column)) == (want.shape, want.dtype, 250)
    assert samples.manifest == {
        **SPEC,
        **FACTS,
        "n": 250,
        "complete": True,
        "state_sha256": hashlib.sha256((run250 / "state.safetensors").read_bytes()).hexdigest(),
        "proposals": samples.manifest["proposals"],
        "invalid": 0,
        "above": 0,
        "calls_per_sample": 8 * CHUNK_ROWS / 250,
        "calls_total": 8 * CHUNK_ROWS + 50,
    }
    for name, tensor in STATE.items():
        assert torch.equal(samples.state[name], tensor)
    assert store.verify(run250) == []


INDICES = [
    slice(None),
    slice(3, 200),
    slice(30, 31),
    slice(5, 5),
    slice(9, 3),
    slice(-20, None),
    slice(0, 10_000),
    slice(1, None, 37),
    slice(200, 10, -7),
    slice(None, None, -1),
    slice(9, 3, 2),
    0,
    -1,
    249,
    -250,
    torch.tensor(17),
    torch.tensor([249, 0, 0, -1, 101], dtype=torch.int32),
    [3, 1, 2],
    [],
    torch.arange(250) % 3 == 0,
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_columns_are_indexed_as_tensors_are(run250, index):
    samples = store.open_run(run250)
    for name in samples.columns:
        want = expected(250, name)
        if isinstance(index, slice):
            want = want[torch.tensor(range(250)[index], dtype=torch.int64)]
        else:
            want = want[torch.as_tensor(index).long() if index == [] else index]
        got = samples.column(name)[index]
        assert torch.equal(got, want)
        assert got.dtype == want.dtype
    assert torch.equal(samples[index]["x"], samples.x[index])


@pytest.mark.parametrize(
    ("index", "error"),
    [
        (250, IndexError),
        (-251, IndexError),
        ([0, 250], IndexError),
        (torch.tensor([-251]), IndexError),
        (1.5, TypeError),
        ((0, 1), TypeError),
        (None, TypeError),
        (torch.tensor([0.5]), TypeError),
        (torch.zeros(2, 2, dtype=torch.int64), TypeError),
        (torch.ones(3, dtype=torch.bool), TypeError),
    ],
    ids=str,
)
def test_wrong_indices_are_errors(run250, index, error):
    with pytest.raises(error):
        store.open_run(run250).x[index]


def test_what_was_not_saved_says_so(tmp_path):
    write(tmp_path / "out", 10)
    with pytest.raises(AttributeError, match=r"not z: generate again with --save logit,x,z"):
        _ = store.open_run(tmp_path / "out").z


def test_reading_a_slice_leaves_the_files_alone(damaged):
    before = contents(damaged)
    samples = store.open_run(damaged)
    samples.x[3:9].zero_()
    samples.x[[3, 4]].zero_()
    samples[5]["x"].zero_()
    assert torch.equal(samples.x[:], expected(250, "x"))
    assert contents(damaged) == before


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(run250, workers):
    samples = store.open_run(run250)
    samples.x[0]
    loader = DataLoader(samples, batch_size=32, num_workers=workers)
    assert torch.equal(torch.cat([batch["x"] for batch in loader]), expected(250, "x"))


def test_samples_are_pickled(run250):
    samples = store.open_run(run250)
    samples.x[0]
    assert torch.equal(pickle.loads(pickle.dumps(samples)).x[:], samples.x[:])


def test_many_shards_are_read_with_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(store.samples, "OPEN_SHARDS", 2)
    write(tmp_path / "out", 400)
    samples = store.open_run(tmp_path / "out")
    assert torch.equal(samples.ids[torch.arange(400).flip(0)], expected(400).flip(0))
    assert len(samples._files) == 2


def test_no_samples(tmp_path):
    write(tmp_path / "out", 0)
    samples = store.open_run(tmp_path / "out")
    assert len(samples) == 0
    assert samples.columns == ("ids", "logit", "x")
    assert samples.ids[:].dtype == torch.int64
    assert len(samples.x[:]) == len(samples.logit[[]]) == len(list(DataLoader(samples))) == 0
    assert store.verify(tmp_path / "out") == []
    write(tmp_path / "out", 100)
    write(tmp_path / "direct", 100)
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


def test_a_chunk_without_samples(tmp_path):
    with store.Writer.open(tmp_path / "out", SPEC, 2) as writer:
        writer.save_state(STATE, FACTS)
        for chunk, ids in enumerate(([], [70], [], [200, 201])):
            rows = {
                "ids": torch.tensor(ids[:1], dtype=torch.int64),
                "x": torch.zeros(len(ids[:1]), 2),
            }
            writer.append(chunk, rows, cut=len(ids) > 1, counters=tried(CHUNK_ROWS))
        writer.finish(summary(writer))
    assert store.open_run(tmp_path / "out").ids[:].tolist() == [70, 200]
    assert store.verify(tmp_path / "out") == []


@pytest.mark.parametrize(
    "z", [torch.arange(12.0).reshape(3, 4).T, torch.arange(12.0).reshape(4, 3)]
)
def test_tensors_that_share_memory_or_are_strided(tmp_path, z):
    with store.Writer.open(tmp_path / "out", SPEC, 4) as writer:
        writer.save_state(STATE, FACTS)
        writer.append(
            0, {"ids": torch.arange(4), "x": z, "z": z}, cut=False, counters=tried(CHUNK_ROWS)
        )
        writer.finish(summary(writer))
    assert torch.equal(store.open_run(tmp_path / "out").z[:], z)


DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e5m2,
)  # fmt: skip


def test_pieces_are_the_file_that_safetensors_writes():
    made = {str(dtype): torch.arange(6).reshape(3, 2).to(dtype) for dtype in DTYPES}
    made |= {'é "': torch.tensor(1.5), "none": torch.empty(0, 3), "ids": torch.arange(7)}
    for metadata in (None, {"facts": json.dumps({"name": "a \\ \n é"})}):
        assert b"".join(pieces(made, metadata)) == safetensors.torch.save(made, metadata)


def test_pieces_are_the_memory_of_the_tensors():
    x = torch.zeros(1000, 3)
    _, data = pieces({"x": x})
    x.fill_(1.0)
    assert bytes(data) == x.numpy().tobytes()


def test_a_shard_is_not_recorded_after_one_that_failed(tmp_path):
    with store.Writer.open(tmp_path / "out", SPEC, 250) as writer:
        begun = threading.Event()

        def fail():
            begun.wait()
            raise OSError(errno.ENOSPC, "full")

        def append(chunk, after):
            begun.set()
            writer.append(
                chunk, chunk_of(chunk), cut=False, counters=tried(CHUNK_ROWS), after=after
            )

        failed = writer.submit(fail)
        later = writer.submit(append, 1, failed)
        with pytest.raises(OSError, match="full"):
            writer.submit(append, 2, later).result()
        assert writer.records == {}
    assert set(contents(tmp_path / "out")) == {"manifest.json", "shards.jsonl"}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
def test_modes_follow_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write(tmp_path / "out", 40)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "out").iterdir()}
    assert modes == {0o666 & ~mask}


def test_manifest_is_plain_json(run250):
    text = (run250 / "manifest.json").read_text()
    manifest = json.loads(text)
    assert text == json.dumps(manifest, sort_keys=True, indent=2) + "\n"
    assert str(run250) not in text


# --- unfinished runs --------------------------------------------------------------------------


def start(path, chunks, n=250):
    with store.Writer.open(path, SPEC, n) as writer:
        writer.save_state(STATE, FACTS)
        for chunk in chunks:
            writer.append(chunk, chunk_of(chunk), cut=False, counters=tried(CHUNK_ROWS))


def test_an_unfinished_run_shows_its_first_chunks(tmp_path):
    start(tmp_path / "out", (0, 1, 3))
    samples = store.open_run(tmp_path / "out")
    assert torch.equal(samples.ids[:], expected(len(samples)))
    assert len(samples) == len(chunk_of(0)["ids"]) + len(chunk_of(1)["ids"])


def test_chunks_in_any_order_end_in_the_same_bytes(tmp_path):
    start(tmp_path / "out", (3, 0, 2))
    computed = []
    write(tmp_path / "out", 250, chunks=computed)
    write(tmp_path / "direct", 250)
    assert computed[:2] == [1, 4]
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


def test_state_comes_back(tmp_path):
    start(tmp_path / "out", (0,))
    with store.Writer.open(tmp_path / "out", SPEC, 250) as writer:
        assert writer.facts == FACTS
        assert writer.state.keys() == STATE.keys()
        assert torch.equal(writer.state["logit"], STATE["logit"])
        assert writer.state["log_m"].dtype == torch.float64


def test_another_state_for_the_same_shards_is_refused(tmp_path):
    start(tmp_path / "out", (0,))
    (tmp_path / "out" / "state.safetensors").unlink()
    with store.Writer.open(tmp_path / "out", SPEC, 250) as writer:
        assert writer.state is None
        with pytest.raises(store.Conflict, match="state differs"):
            writer.save_state({"logit": torch.zeros(3)}, {})


def test_finish_refuses_a_run_with_missing_rows(tmp_path):
    start(tmp_path / "out", (0, 2))
    message = "1 chunk is missing, the first is chunk 1; the shards must hold 250 samples"
    with (
        store.Writer.open(tmp_path / "out", SPEC, 250) as writer,
        pytest.raises(store.Corrupt, match=message),
    ):
        writer.finish(summary(writer))


@pytest.mark.parametrize(
    ("chunk", "tensors"),
    [
        (0, {"ids": torch.arange(3)}),
        (1, {"x": torch.zeros(3)}),
        (1, {"ids": torch.arange(3), "x": torch.zeros(2)}),
        (1, {}),
    ],
)
def test_append_refuses(tmp_path, chunk, tensors):
    start(tmp_path / "out", (0,))
    with (
        store.Writer.open(tmp_path / "out", SPEC, 250) as writer,
        pytest.raises(ValueError, match="expected a new chunk"),
    ):
        writer.append(chunk, tensors, cut=False, counters=tried(CHUNK_ROWS))


def test_a_counter_cannot_hide_a_field(tmp_path):
    with store.Writer.open(tmp_path / "out", SPEC, 250) as writer, pytest.raises(TypeError):
        writer.append(0, chunk_of(0), cut=False, counters={"count": 3})


def test_a_finished_run_is_not_written_again(tmp_path):
    write(tmp_path / "out", 100)
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    computed = []
    write(tmp_path / "out", 100, chunks=computed)
    assert computed == []
    after = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    assert after == times


@pytest.mark.parametrize(("first", "cut"), [(WHOLE, False), (WHOLE + 10, True)])
def test_extension_computes_only_what_is_missing(tmp_path, first, cut):
    write(tmp_path / "out", first)
    line = (tmp_path / "out" / "shards.jsonl").read_text().splitlines()[-1]
    assert json.loads(line)["cut"] == cut
    computed = []
    write(tmp_path / "out", 250, chunks=computed)
    write(tmp_path / "direct", 250)
    assert computed[0] == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "direct")


def test_an_extension_that_has_begun_shows_no_old_summary(tmp_path):
    write(tmp_path / "out", 100)
    store.Writer.open(tmp_path / "out", SPEC, 250).close()
    manifest = store.open_run(tmp_path / "out").manifest
    assert not manifest["complete"]
    assert (manifest["n"], manifest["log_m"]) == (250, 1.25)
    assert "proposals" not in manifest


# --- kills ------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


class Steps:
    """Counts the system calls that change the disk; from the k-th on the process is dead.

    A write that is the k-th writes half of its bytes. done: the calls, with the file's name.
    """

    CHANGING = ("mkdir", "open", "write", "fsync", "replace", "unlink", "ftruncate")

    def __init__(self, monkeypatch, kill_at=None):
        self.kill_at = kill_at
        self.done = []
        self._names = {}
        self._real = {name: getattr(os, name) for name in self.CHANGING}
        for name in self.CHANGING:
            monkeypatch.setattr(os, name, lambda *a, _name=name, **k: self._step(_name, *a, **k))

    def _step(self, name, first, *rest, **options):
        label = self._names.get(first) or Path(first).name
        self.done.append((name, label))
        if self.kill_at is not None and len(self.done) >= self.kill_at:
            if name == "write" and len(self.done) == self.kill_at:
                self._real[name](first, rest[0][: len(rest[0]) // 2])
            raise Killed
        if name == "fsync":
            return None
        result = self._real[name](first, *rest, **options)
        if name == "open":
            self._names[result] = label
        return result


def killed_at_every_step(tmp_path, before, n):
    """(step, directory after the kill) for every step of write(before's copy, n)."""
    for step in itertools.count():
        path = tmp_path / f"out{step}"
        if before is not None:
            shutil.copytree(before, path)
        with pytest.MonkeyPatch.context() as patch:
            steps = Steps(patch, kill_at=step + 1)
            with suppress(Killed):
                write(path, n)
            if len(steps.done) <= step:
                assert step > 20
                return
        yield step, path


@pytest.mark.parametrize("first", [None, WHOLE, WHOLE + 10])
def test_killed_at_every_step_it_ends_in_the_same_bytes(tmp_path, first):
    before = None
    if first is not None:
        before = tmp_path / "before"
        write(before, first)
    write(tmp_path / "direct", 250)
    want = contents(tmp_path / "direct")
    for step, path in killed_at_every_step(tmp_path, before, 250):
        if (path / "manifest.json").exists():
            samples = store.open_run(path)
            assert torch.equal(samples.x[:], expected(len(samples), "x")), step
            assert all(
                "left behind by an interruption" in p or "line" in p for p in store.verify(path)
            )
        write(path, 250)
        assert contents(path) == want, step
        assert store.verify(path) == []


def test_killed_twice_it_ends_in_the_same_bytes(tmp_path):
    write(tmp_path / "direct", 250)
    want = contents(tmp_path / "direct")
    chance = random.Random(0)
    for trial in range(60):
        path = tmp_path / f"out{trial}"
        for n in (110, 110, 250, 250, 250):
            with pytest.MonkeyPatch.context() as patch:
                Steps(patch, kill_at=chance.randrange(1, 90))
                with suppress(Killed):
                    write(path, n)
        write(path, 250)
        assert contents(path) == want, trial


def test_a_killed_extension_can_go_on_with_the_old_n(tmp_path):
    before = tmp_path / "before"
    write(before, WHOLE + 10)
    want = contents(before)
    went_on = 0
    for _, path in killed_at_every_step(tmp_path, before, 250):
        if json.loads((path / "manifest.json").read_text())["n"] == WHOLE + 10:
            write(path, WHOLE + 10)
            assert contents(path) == want
            went_on += 1
    assert went_on >= 5


def test_nothing_is_recorded_before_it_is_on_the_disk(tmp_path, monkeypatch):
    with store.Writer.open(tmp_path / "out", SPEC, 250) as writer:
        names = {writer._folder._directory: "directory"}
        steps = Steps(monkeypatch)
        steps._names.update(names)
        writer.append(0, chunk_of(0), cut=False, counters=tried(CHUNK_ROWS))
    temporary = "chunk-00000000.safetensors.tmp"
    once = [step for step, _ in itertools.groupby(steps.done)]  # a write for each tensor
    assert once == [
        ("open", temporary),
        ("write", temporary),
        ("fsync", temporary),
        ("replace", temporary),
        ("fsync", "directory"),
        ("open", "shards.jsonl"),
        ("write", "shards.jsonl"),
        ("fsync", "shards.jsonl"),
    ]


# --- whose directory it is --------------------------------------------------------------------


def test_two_writers(tmp_path):
    with store.Writer.open(tmp_path / "out", SPEC, 250):
        with pytest.raises(store.Conflict, match="another process is writing"):
            store.Writer.open(tmp_path / "out", SPEC, 250)
        with pytest.raises(store.Conflict, match="another process is writing"):
            store.repair(tmp_path / "out")
    write(tmp_path / "out", 250)


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be moved there")
def test_a_run_that_was_moved_writes_nothing_where_it_was(tmp_path):
    path, moved, whole = tmp_path / "run", tmp_path / "moved", tmp_path / "whole"
    write(whole, 100)
    with store.Writer.open(path, SPEC, 100) as writer:
        writer.save_state(STATE, FACTS)
        path.rename(moved)
        write(path, 100, spec={**SPEC, "seed": 8})
        other = files(path)
        with pytest.raises(store.Conflict, match="was moved while it was being written"):
            writer.append(0, chunk_of(0), cut=False, counters=tried(CHUNK_ROWS))
        with pytest.raises(store.Conflict, match="was moved"):
            writer.save_state(STATE, FACTS)
    assert files(path) == other
    write(moved, 100)
    assert files(moved) == files(whole)


def test_the_lock_ends_with_its_process(tmp_path):
    code = (
        "import sys, os; from drs_fast import store; "
        f"store.Writer.open({str(tmp_path / 'out')!r}, {SPEC!r}, 250); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    write(tmp_path / "out", 250)


def test_another_spec_names_each_difference(tmp_path):
    write(tmp_path / "out", 100)
    before = contents(tmp_path / "out")
    with pytest.raises(store.Conflict) as caught:
        write(
            tmp_path / "out",
            250,
            spec={**SPEC, "seed": 8, "sampler": {**SPEC["sampler"], "name": "MH"}, "new": 1},
        )
    text = str(caught.value)
    assert "seed: there 7, here 8" in text
    assert 'sampler.name: there "DRS", here "MH"' in text
    assert "new: there null, here 1" in text
    assert "version" not in text
    assert "choose another directory or repeat the settings" in text
    assert contents(tmp_path / "out") == before


def test_a_smaller_n(tmp_path):
    write(tmp_path / "out", 100)
    with pytest.raises(store.Conflict, match="100 samples, got a request for 99"):
        write(tmp_path / "out", 99)


@pytest.mark.parametrize("name", ["thesis.tex", "chunk-00000000.safetensors", "a.json.tmp"])
def test_a_strangers_directory(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(store.Conflict, match="holds other files"):
        write(tmp_path, 100)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_strangers_manifest(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "chunk-00000000.safetensors.tmp").write_text("mine")
    before = contents(tmp_path)
    for use in (store.open_run, store.repair, lambda path: write(path, 100)):
        with pytest.raises(store.Conflict, match="not written by drs_fast"):
            use(tmp_path)
    assert contents(tmp_path) == before
    assert len(store.verify(tmp_path)) == 1


def test_not_a_directory(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below"):
        with pytest.raises(store.Conflict, match="not a directory"):
            write(path, 100)
        for use in (store.open_run, store.repair):
            with pytest.raises(store.Conflict):
                use(path)
        assert len(store.verify(path)) == 1
    assert file.read_text() == "mine"


def test_names_that_are_not_ours_stay(tmp_path):
    start(tmp_path / "out", (0,))
    kept = ("notes.tmp", "chunk-1.safetensors", "chunk-00000001.safetensors.bak", "README")
    for name in (*kept, "shards.jsonl.tmp", "chunk-00000077.safetensors"):
        (tmp_path / "out" / name).write_text("mine")
    write(tmp_path / "out", 250)
    left = contents(tmp_path / "out")
    assert all(left[name] == b"mine" for name in kept)
    assert not {"shards.jsonl.tmp", "chunk-00000077.safetensors"} & left.keys()


# --- full disks -------------------------------------------------------------------------------


def test_space_is_checked_first(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20 + 1999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    write(tmp_path / "out", 99)
    with pytest.raises(
        OSError, match=r"100 samples need 1,050,576 bytes, but 1,050,575 are free"
    ) as e:
        store.Writer.open(tmp_path / "new", SPEC, 100, bytes_per_sample=lambda: 20)
    assert e.value.errno == errno.ENOSPC
    assert str(tmp_path / "new") in str(e.value)
    write(tmp_path / "out", 150)


def fail_at(patch, name, k):
    """From here on the k-th call of os.name finds the disk full; a write has put down 7 bytes."""
    real, calls = getattr(os, name), []

    def call(*args):
        calls.append(args)
        if len(calls) == k:
            if name == "write":
                real(args[0], args[1][:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    patch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, name):
    with monkeypatch.context() as patch:
        calls = fail_at(patch, name, 0)
        write(tmp_path / "direct", 250)
    assert len(calls) > 10
    for k in range(1, len(calls) + 1):
        path = tmp_path / f"out{k}"
        with monkeypatch.context() as patch:
            fail_at(patch, name, k)
            with pytest.raises(OSError, match=r"cannot write [\d,]+ bytes: No space") as caught:
                write(path, 250)
        assert caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value)
        assert not list(path.glob("*.tmp"))
        if (path / "manifest.json").exists():
            assert not [line for line in store.verify(path) if "interruption" not in line]
        write(path, 250)
        assert contents(path) == contents(tmp_path / "direct")


def test_short_writes_are_continued(run250, tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:100]))
    write(tmp_path / "out", 250, columns=("ids", "logit", "x", "z", "y"))
    assert contents(tmp_path / "out") == contents(run250)


def test_a_limit_on_file_sizes(tmp_path):
    code = (
        "import resource, torch; from drs_fast import store\n"
        f"w = store.Writer.open({str(tmp_path / 'out')!r}, {SPEC!r}, 10**6)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))\n"
        f"counters = {tried(10**6)!r}\n"
        "row = {'ids': torch.arange(10), 'x': torch.zeros(10)}\n"
        "w.append(0, row, cut=False, counters=counters)\n"
        "big = {'ids': torch.arange(10**5), 'x': torch.zeros(10**5)}\n"
        "try: w.append(1, big, cut=False, counters=counters)\n"
        "except OSError as error: print(error)\n"
        "w.append(2, row, cut=False, counters=counters)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "cannot write 1,200," in done.stdout
    assert "chunk-00000001.safetensors" in done.stdout
    names = {"manifest.json", "shards.jsonl"}
    names |= {"chunk-00000000.safetensors", "chunk-00000002.safetensors"}
    assert set(os.listdir(tmp_path / "out")) == names
    assert len((tmp_path / "out" / "shards.jsonl").read_text().splitlines()) == 2


# --- damage -----------------------------------------------------------------------------------


def damage(path, chance):
    """Flips a bit, cuts, lengthens, or overwrites some bytes, so that the file differs."""
    data = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "flip", "cut", "longer", "overwrite"))
    place = chance.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[place:]
    elif kind == "longer":
        data += chance.randbytes(chance.randrange(1, 20))
    else:
        data[place : place + 8] = bytes(255 - byte for byte in data[place : place + 8])
    path.write_bytes(data)
    return kind


def test_verify_finds_every_damage(damaged):
    chance = random.Random(1)
    names = sorted(os.listdir(damaged))
    for trial in range(400):
        file = damaged / (names[trial] if trial < len(names) else chance.choice(names))
        before = file.read_bytes()
        kind = damage(file, chance)
        assert store.verify(damaged), (trial, file.name, kind)
        file.write_bytes(before)
    assert store.verify(damaged) == []


@pytest.mark.parametrize(
    "name", ["manifest.json", "state.safetensors", "shards.jsonl", "chunk-00000003.safetensors"]
)
def test_a_missing_file_is_found(damaged, name):
    (damaged / name).unlink()
    assert store.verify(damaged)


def test_lost_records_are_found(damaged):
    lines = (damaged / "shards.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (lines[:-1], lines[1:], lines[:2] + lines[3:], [*lines, lines[0]], []):
        (damaged / "shards.jsonl").write_bytes(b"".join(kept))
        assert store.verify(damaged)
    with pytest.raises(store.Corrupt, match="must hold 250 samples, got 0"):
        store.open_run(damaged)


def test_what_is_left_over_is_found(damaged):
    for name in ("chunk-00000099.safetensors", "manifest.json.tmp"):
        (damaged / name).write_bytes(b"")
        assert store.verify(damaged) == [f"{damaged / name} was left behind by an interruption"]
        (damaged / name).unlink()


def test_wrong_contents_with_right_checksums_are_found(tmp_path):
    def problems(*ids, dtype=torch.int64, group=1):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        with store.Writer.open(path, SPEC, sum(map(len, ids))) as writer:
            writer.save_state(STATE, {**FACTS, "group": group})
            for chunk, values in enumerate(ids):
                rows = {"ids": torch.tensor(values, dtype=dtype)}
                writer.append(chunk, rows, cut=False, counters=tried(CHUNK_ROWS))
            writer.finish(summary(writer))
        return store.verify(path)

    assert problems([0, 1], [64]) == []
    assert "increase, starting at 2" in problems([0, 1], [1, 65])[0]
    assert "increase, starting at 0" in problems([1, 0], [65])[0]
    assert "int64" in problems([0, 1, 2], dtype=torch.int32)[0]
    assert problems([3, ~0], [64], group=4) == problems([0, 3], [67, 66], group=4) == []
    assert "increase, starting at 4" in problems([1, 5], [3, 65], group=4)[0]
    assert "increase, starting at 0" in problems([5, 0, 1], group=4)[0]


@pytest.mark.parametrize(("key", "value"), [("count", 3), ("count", -1), ("cut", "no")])
def test_wrong_records_with_right_checksums_are_found(damaged, key, value):
    file = damaged / "shards.jsonl"
    first, *others = file.read_bytes().splitlines(keepends=True)
    record = json.loads(first)
    del record["crc32"]
    file.write_bytes(b"".join([sealed({**record, key: value}), *others]))
    assert any("chunk-00000000" in line or "line 1" in line for line in store.verify(damaged))
    manifest = json.loads((damaged / "manifest.json").read_text())
    del manifest["crc32"]
    (damaged / "manifest.json").write_bytes(sealed({**manifest, "complete": False}, indent=2))
    if value == 3:
        with pytest.raises(store.Corrupt, match=r"3 rows of each tensor, got .*ids int64 \(\d+,\)"):
            store.open_run(damaged)
    else:
        assert len(store.open_run(damaged)) == 0


def test_deeply_nested_json_is_damage(damaged):
    (damaged / "manifest.json").write_bytes(b'{"crc32":' + b"[" * 10**6)
    assert "does not match its own crc32" in store.verify(damaged)[0]


def test_garbage_is_never_a_crash(damaged):
    chance = random.Random(2)
    values = (None, -1, 1.5, "3", [], {}, True, 10**30, "../../etc/passwd", float("nan"))
    names = sorted(os.listdir(damaged))
    before = contents(damaged)
    for trial in range(150):
        name = chance.choice(names)
        if trial % 3 == 0:
            data = chance.randbytes(chance.randrange(200))
        elif trial % 3 == 1 and name == "manifest.json":
            manifest = json.loads(before[name])
            del manifest["crc32"]
            manifest[chance.choice(sorted(manifest))] = chance.choice(values)
            data = sealed(manifest, indent=2)
        elif trial % 3 == 1:
            name = "shards.jsonl"
            record = json.loads(chance.choice(before[name].splitlines()))
            del record["crc32"]
            record[chance.choice(sorted(record))] = chance.choice(values)
            data = before[name] + sealed(record)
        else:
            data = bytearray(before[name])
            for _ in range(chance.randrange(1, 40)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        (damaged / name).write_bytes(data)
        assert isinstance(store.verify(damaged), list)
        with suppress(store.Conflict, store.Corrupt, AttributeError):
            samples = store.open_run(damaged)
            _ = samples.x[:], samples.state
        with suppress(store.Conflict, store.Corrupt):
            store.Writer.open(damaged, SPEC, 250).close()
        with suppress(store.Conflict, store.Corrupt):
            store.repair(damaged)
        for file, content in before.items():
            (damaged / file).write_bytes(content)
    assert set(os.listdir(damaged)) == set(names)


def test_damaged_shards_are_an_error_when_read(damaged):
    file = damaged / "chunk-00000001.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    samples = store.open_run(damaged)
    samples.x[:5]
    with pytest.raises(store.Corrupt, match=r"chunk-00000001.*drs-fast verify"):
        samples.x[:]


def test_repair_then_the_same_command_computes_just_the_damaged(damaged):
    want = contents(damaged)
    for name in ("chunk-00000001.safetensors", "chunk-00000005.safetensors"):
        data = bytearray((damaged / name).read_bytes())
        data[-1] ^= 1
        (damaged / name).write_bytes(data)
    (damaged / "manifest.json.tmp").write_bytes(b"")
    dropped = store.repair(damaged)
    assert len(dropped) == 3
    assert "chunk-00000001" in dropped[0]
    assert "chunk-00000005" in dropped[1]
    assert store.verify(damaged) == []  # it is a run that is not complete
    assert len(store.recorded(damaged)) == 6
    assert len(store.open_run(damaged)) == len(chunk_of(0)["ids"])
    computed = []
    write(damaged, 250, columns=("ids", "logit", "x", "z", "y"), chunks=computed)
    assert computed == [1, 5]
    assert contents(damaged) == want


def test_repair_of_any_damage_but_the_manifests_restores_the_run(damaged):
    want = contents(damaged)
    chance = random.Random(3)
    names = sorted(want.keys() - {"manifest.json"})
    for trial in range(60):
        for name in chance.sample(names, 2):
            damage(damaged / name, chance)
        assert store.repair(damaged), trial
        write(damaged, 250, columns=("ids", "logit", "x", "z", "y"))
        assert contents(damaged) == want, trial


def test_after_repair_what_is_there_can_be_read(damaged):
    lines = (damaged / "shards.jsonl").read_bytes().splitlines(keepends=True)
    (damaged / "shards.jsonl").write_bytes(b"".join(lines[:2]))
    (damaged / "state.safetensors").write_bytes(b"garbage")
    store.repair(damaged)
    assert torch.equal(
        store.open_run(damaged).ids[:], expected(250)[: len(store.open_run(damaged))]
    )
    names = {"manifest.json", "shards.jsonl"}
    assert set(os.listdir(damaged)) == names | {
        f"chunk-0000000{chunk}.safetensors" for chunk in (0, 1)
    }


def test_lost_last_records_are_repaired(damaged):
    lines = (damaged / "shards.jsonl").read_bytes().splitlines(keepends=True)
    (damaged / "shards.jsonl").write_bytes(b"".join(lines[:2]))
    store.repair(damaged)
    assert not store.open_run(damaged).manifest["complete"]
    assert store.verify(damaged) == []


def test_repair_of_a_sound_run_changes_nothing(damaged):
    before = contents(damaged)
    assert store.repair(damaged) == []
    assert contents(damaged) == before


def test_repair_cannot_help_a_damaged_manifest(damaged):
    file = damaged / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b'"seed": 7', b'"seed": 8'))
    for use in (store.repair, store.open_run, lambda path: write(path, 250)):
        with pytest.raises(store.Corrupt, match=r"manifest\.json does not match its own crc32"):
            use(damaged)


@pytest.mark.parametrize(
    ("name", "content", "again"),
    [
        ("chunk-00000002.safetensors", None, [2]),
        ("chunk-00000004.safetensors", b"short", [4]),
        ("state.safetensors", None, []),
        ("state.safetensors", b"garbage", []),
        ("shards.jsonl", None, list(range(8))),
        ("shards.jsonl", lambda data: data + b'{"chunk": 9, "cou', []),
        ("shards.jsonl", lambda data: data[:-9], [7]),
    ],
)
def test_the_same_command_alone_mends_what_it_sees(damaged, name, content, again):
    want = contents(damaged)
    if content is None:
        (damaged / name).unlink()
    else:
        (damaged / name).write_bytes(content(want[name]) if callable(content) else content)
    computed = []
    write(damaged, 250, columns=("ids", "logit", "x", "z", "y"), chunks=computed)
    assert computed == again
    assert contents(damaged) == want


def test_a_missing_shard_without_samples_is_made_again(tmp_path):
    nothing = {"ids": torch.arange(0)}
    for _ in range(2):
        with store.Writer.open(tmp_path / "out", SPEC, 0) as writer:
            writer.save_state(STATE, FACTS)
            assert not writer.records
            writer.append(0, nothing, cut=False, counters=tried(CHUNK_ROWS))
            writer.finish(summary(writer))
        (tmp_path / "out" / "chunk-00000000.safetensors").unlink()
    with store.Writer.open(tmp_path / "out", SPEC, 0) as writer:
        assert not writer.complete


def test_without_locks_a_second_writers_temporary_is_noticed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(folder_module.fcntl, "flock", refuse)
    with store.Writer.open(tmp_path / "out", SPEC, 250) as writer:
        (tmp_path / "out" / "chunk-00000000.safetensors.tmp").write_text("theirs")
        with pytest.raises(FileExistsError):
            writer.append(0, chunk_of(0), cut=False, counters=tried(CHUNK_ROWS))
    assert (tmp_path / "out" / "chunk-00000000.safetensors.tmp").read_text() == "theirs"


def test_an_open_reader_outlives_an_extension(tmp_path):
    write(tmp_path / "out", 80)
    reader = store.open_run(tmp_path / "out")
    write(tmp_path / "out", 250)
    assert torch.equal(reader.ids[:], expected(80))
    assert torch.equal(reader.ids[[79, 0]], expected(80)[[79, 0]])
    assert len(store.open_run(tmp_path / "out")) == 250


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_a_shard_is_made_without_more_openmp_threads():
    """Two teams of threads on the same cores put each other to sleep at every operation."""
    large = {"ids": torch.arange(2**20), "z": torch.zeros(2**20, 2)}

    def threads_after(work):
        thread.submit(work).result()
        return len(list(Path("/proc/self/task").iterdir()))

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as thread:
            alone = threads_after(lambda: None)
            assert threads_after(lambda: pieces(large)) == alone
            assert threads_after(lambda: large["z"].clone()) > alone  # what a team would look like
    finally:
        torch.set_num_threads(threads)


def test_a_folder_that_is_interrupted_as_it_goes_says_nothing(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def interrupted(directory):
        os.close(directory)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "_release", interrupted)
        folder = folder_module.Folder(tmp_path)
        folder._thread.shutdown()
        del folder  # as after a second Ctrl-C
    folder_module.Folder.__new__(folder_module.Folder)  # interrupted before it was complete
    assert said == []
    folder_module.Folder(tmp_path).close()  # the lock has gone
