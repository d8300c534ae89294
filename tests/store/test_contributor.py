"""Processes that write one run beside each other, without a generator: the store alone."""

import os
import sys
import threading

import pytest
import torch
from runs import FACTS, contents, summary

from benchmarks.common.by_hand import SPEC, tried
from drs_fast import store
from drs_fast.store import appending, folder, format
from drs_fast.store.contributor import Contributor
from drs_fast.store.format import Busy, Conflict, Corrupt, read_records, shard_name

if sys.platform == "win32":
    pytest.skip("flock", allow_module_level=True)

ROWS = FACTS["chunk_rows"]
STATE = {"log_m": torch.tensor(1.25, dtype=torch.float64)}
N = 100  # samples, which chunk 0 to 3 hold: the last one is cut


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(folder, "PAUSE", 0.001)


def rows_of(chunk):
    ids = torch.arange(chunk * ROWS, (chunk + 1) * ROWS)
    ids = ids[ids % 2 == 0]
    return {"ids": ids, "logit": torch.sin(ids.float())}


def alone(path, n=N, spec=SPEC):
    return store.Writer.open(path, spec, n)


def beside(path, n=N, spec=SPEC):
    return Contributor.open(path, spec, n, lambda manifest, complete: {})


def add(writer, *chunks):
    for chunk in chunks:
        writer.append(chunk, rows_of(chunk), cut=False, counters=tried(ROWS))


def end(path, n=N):
    """What the last one does: all that is missing, in order."""
    with alone(path, n) as writer:
        add(writer, *writer.holes())
        writer.trim()
        chunk = len(writer.records)
        while writer.count < n:
            rows, room = rows_of(chunk), n - writer.count
            cut = len(rows["ids"]) > room
            rows = {name: row[:room] for name, row in rows.items()}
            writer.append(chunk, rows, cut=cut, counters=tried(ROWS))
            chunk += 1
        writer.finish(summary(writer))


def begun(path, n=N):
    with alone(path, n) as writer:
        writer.save_state(STATE, FACTS)
    return path


@pytest.fixture
def run(tmp_path):
    return begun(tmp_path / "run")


@pytest.fixture
def plain(tmp_path):
    end(begun(tmp_path / "plain"))
    return contents(tmp_path / "plain")


def test_two_write_at_once_and_the_end_is_that_of_one(run, plain):
    with beside(run) as first, beside(run) as second:
        add(first, 4, 0)
        add(second, 1)
        assert second.refresh() == 2 * ROWS // 2
        assert set(second.records) == {0, 1, 4}
        add(second, 0)  # somebody else has
        assert format.workers(run) == ["worker-0001.jsonl", "worker-0002.jsonl"]
        assert len((run / "worker-0002.jsonl").read_bytes().splitlines()) == 1
    end(run)
    assert contents(run) == plain
    assert store.verify(run) == []


def test_whoever_has_it_alone_keeps_others_out_and_the_other_way_round(run):
    with beside(run), pytest.raises(Busy, match="another process"):
        alone(run)
    with alone(run), pytest.raises(Busy, match="another process"):
        beside(run)
    with beside(run), pytest.raises(Busy):
        store.repair(run)


def test_no_one_joins_before_burn_in_or_after_the_end(tmp_path, run):
    assert beside(tmp_path / "nothing") is None
    (tmp_path / "empty").mkdir()
    assert beside(tmp_path / "empty") is None
    with alone(tmp_path / "new"):
        pass
    assert beside(tmp_path / "new") is None
    assert beside(run, N + 1) is None
    end(run)
    before = contents(run)
    assert beside(run) is None
    assert contents(run) == before


def test_a_damaged_state_is_found_again_by_one(run):
    (run / "state.safetensors").write_bytes(b"")
    assert beside(run) is None


def test_no_one_joins_a_run_whose_last_shard_is_cut(run):
    with alone(run) as writer:
        rows = {name: row[:5] for name, row in rows_of(0).items()}
        writer.append(0, rows, cut=True, counters=tried(ROWS))
    assert beside(run) is None


def test_another_run_and_a_smaller_n_are_refused(run):
    with pytest.raises(Conflict, match="seed"):
        beside(run, spec={**SPEC, "seed": 1})
    with pytest.raises(Conflict, match="a run of 100 samples"):
        beside(run, N - 1)
    with alone(run):  # what was refused holds no lock
        pass


def test_what_examine_refuses_holds_no_lock(run):
    def refuse(manifest, complete):
        raise Conflict("another model")

    with pytest.raises(Conflict, match="another model"):
        Contributor.open(run, SPEC, N, refuse)
    assert format.workers(run) == []
    with alone(run):
        pass


@pytest.mark.parametrize("kind", ["shared", "alone"])
def test_a_file_system_without_locks_is_refused(run, monkeypatch, kind):
    """Where not even one of the two locks is there, others could not be kept out."""

    def flock(file, operation):
        if kind == "shared" or not operation & folder.fcntl.LOCK_SH:
            raise OSError("no locks here")

    monkeypatch.setattr(folder.fcntl, "flock", flock)
    with pytest.raises(Conflict, match="no locks"):
        beside(run)
    assert format.workers(run) == []
    with pytest.raises(Conflict, match="no locks"):
        store.Writer.open(run, SPEC, N, locked=True)
    with alone(run):  # one process needs none
        pass


def test_a_shard_without_a_record_is_made_again(run, plain):
    with beside(run) as writer:
        add(writer, 0, 1)
        record = writer.records[1].line()
    file = run / "worker-0001.jsonl"
    file.write_bytes(file.read_bytes().removesuffix(record))
    (run / shard_name(1)).write_bytes(b"of an interrupted process")
    assert store.verify(run) == [
        f"{run / shard_name(1)} was left behind by an interruption",
    ]
    with beside(run) as other:
        assert set(other.records) == {0}
        add(other, 1)
    end(run)
    assert contents(run) == plain


def test_a_record_without_its_shard_does_not_count(run, plain):
    with beside(run) as writer:
        add(writer, 0, 1)
    (run / shard_name(0)).unlink()
    with beside(run) as other:
        assert set(other.records) == {1}
        add(other, 0)
    end(run)
    assert contents(run) == plain


def test_half_a_record_is_not_read_and_is_no_end_of_the_file(run):
    with beside(run) as first, beside(run) as second:
        add(first, 0, 1)
        file = run / "worker-0001.jsonl"
        data = file.read_bytes()
        file.write_bytes(data[:-9])
        second.refresh()
        assert set(second.records) == {0}
        file.write_bytes(data)
        second.refresh()
        assert set(second.records) == {0, 1}


def test_a_torn_record_of_a_killed_process_harms_no_other(run, plain):
    with beside(run) as writer:
        add(writer, 0, 1)
    file = run / "worker-0001.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    with beside(run) as other:
        add(other, 2)
    assert [line for line in store.verify(run) if "left behind" not in line] == [
        f"{file} line 2 does not match its own crc32: it was damaged or edited"
    ]
    end(run)
    assert contents(run) == plain


def test_what_a_killed_process_left_unfinished_is_cleared_by_the_last(run, plain):
    with beside(run) as writer:
        add(writer, 0)
    left = run / f"{shard_name(1)}.worker-0001.tmp"
    left.write_bytes(b"half")
    with beside(run) as other:
        add(other, 1)
    assert store.verify(run) == [f"{left} was left behind by an interruption"]
    end(run)
    assert contents(run) == plain


def test_two_that_disagree_about_a_chunk_have_made_nothing(run, plain):
    with beside(run) as first, beside(run) as second:
        add(first, 0)
        rows = {name: row[1:] for name, row in rows_of(0).items()}
        second.append(0, rows, cut=False, counters=tried(ROWS))
    records, problems = read_records(run, ROWS)
    assert records == {}
    assert [line for line in problems if "says else of chunk 0" in line] == problems != []
    end(run)
    assert contents(run) == plain


def test_repair_keeps_what_workers_made(run, plain):
    with beside(run) as writer:
        add(writer, 0, 1, 2)
    assert store.repair(run) == []
    shard = run / shard_name(1)
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (dropped,) = store.repair(run)
    assert str(shard) in dropped
    assert set(read_records(run, ROWS)[0]) == {0, 2}
    assert format.workers(run) == []
    with beside(run) as other:
        assert set(other.records) == {0, 2}
        add(other, 1)
    end(run)
    assert contents(run) == plain


def test_a_failed_write_leaves_the_shard_that_another_has_recorded(run):
    """Two processes made one chunk; the one whose earlier write failed may not remove it."""
    with beside(run) as first, beside(run) as second:
        failed = first.submit(lambda: (_ for _ in ()).throw(OSError("disk full")))
        assert failed.exception() is not None
        add(second, 1)
        first.append(1, rows_of(1), cut=False, counters=tried(ROWS), after=failed)
    with alone(run) as writer:
        assert set(writer.records) == {1}


def test_records_of_several_threads_do_not_mix(run, monkeypatch):
    """The half of a record that did not fit on the disk is taken back before the next begins."""
    write, half_written, other_tried = folder._write, threading.Event(), threading.Event()

    def full(file, *data):
        if len(data) == 1 and b'"chunk": 0,' in data[0]:
            os.write(file, data[0][:20])
            half_written.set()
            other_tried.wait(0.2)
            raise OSError(28, "disk full")
        return write(file, *data)

    monkeypatch.setattr(folder, "_write", full)
    with beside(run) as writer:
        failing = writer.submit(add, writer, 0)
        assert half_written.wait(5)
        add(writer, 1)
        other_tried.set()
        assert isinstance(failing.exception(), OSError)
        assert set(writer.records) == {1}
    assert read_records(run, ROWS)[0].keys() == {1}


def test_a_chunk_that_another_records_meanwhile_is_no_error(run, monkeypatch):
    """The main thread may read of it between the look and the write."""
    with beside(run) as first, beside(run) as second:
        pieces = appending.pieces

        def late(tensors):
            monkeypatch.setattr(appending, "pieces", pieces)
            add(second, 0)
            first.refresh()
            return pieces(tensors)

        monkeypatch.setattr(appending, "pieces", late)
        add(first, 0)
    assert set(read_records(run, ROWS)[0]) == {0}


def test_readers_see_no_more_than_n_and_nothing_vanish(run):
    """The chunks of workers hold more than n samples until the last one cuts them."""
    with beside(run) as first:
        add(first, 0, 1, 2, 3, 4)
        samples = store.open_run(run)
        assert len(samples) == N
        assert store.verify(run) == []
    before = samples.ids[:]
    again = store.open_run(run)
    assert len(again.records) == 4  # the fifth shard will be gone
    end(run)
    assert torch.equal(again.ids[:], before)  # opened before the last shard was cut
    assert torch.equal(store.open_run(run).ids[:], before)


def test_a_reader_loses_nothing_while_records_move_into_one_file(run, monkeypatch):
    """The last worker gathers the records between two looks of a reader."""
    with beside(run) as writer:
        add(writer, 0, 1)
    read_bytes, gathered = format.read_bytes, []

    def gather(path):
        data = read_bytes(path)
        if path.name.endswith(".jsonl") and not gathered:
            gathered.append(path)
            alone(run).close()
        return data

    monkeypatch.setattr(format, "read_bytes", gather)
    assert len(store.open_run(run)) == 64
    assert gathered


def test_verify_looks_again_if_a_worker_came_and_was_killed(run, monkeypatch):
    """Its shard, which was not recorded yet, was not left behind by an interruption."""
    verify = sys.modules["drs_fast.store.verifying"]

    problems, came = verify._problems, []

    def slow(directory, live):
        if came:
            return problems(directory, live)
        came.append(True)
        with beside(run) as writer:
            add(writer, 0)
        return ["seen while a worker wrote"]

    monkeypatch.setattr(verify, "_problems", slow)
    assert store.verify(run) == []


def test_a_directory_among_the_records_is_named(run):
    (run / "worker-0007.jsonl").mkdir()
    with pytest.raises(Corrupt, match=r"worker-0007.jsonl is not a file"):
        alone(run)


def test_ten_thousand_records_are_read_once(run, monkeypatch):
    """Each look reads only what has been added since the last."""
    with beside(run) as first, beside(run) as second:
        add(first, *range(20))
        second.refresh()
        parsed = []
        parse = format.Record.parse
        monkeypatch.setattr(format.Record, "parse", lambda line: parsed.append(line) or parse(line))
        second.refresh()
        assert parsed == []
        add(first, 20)
        second.refresh()
        assert len(parsed) == 1


def test_leftovers_of_a_name_that_is_free_again_do_no_harm(run):
    (run / "chunk-00000000.safetensors.worker-0001.tmp").write_bytes(b"half")
    with beside(run) as worker:
        add(worker, 0)
        assert worker.records.keys() == {0}
