"""Shards are hashed by several threads: what is found, in which order, and in how much memory."""

import hashlib
import os
import threading
import tracemalloc

import pytest
from runs import QUICK, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.store import hashed as module
from drs_fast.store.format import Record, shard_name
from drs_fast.store.hashed import hashed

ROOM = 16 * 2**20  # bytes, for the pieces that are being hashed


def record(chunk, size):
    return Record(chunk, 1, size, "0" * 64, False, {})


def shards(directory, *sizes):
    """Shards of these sizes, with bytes of their own, and their records."""
    for chunk, size in enumerate(sizes):
        (directory / shard_name(chunk)).write_bytes(bytes([chunk + 1]) * size)
    return [record(chunk, size) for chunk, size in enumerate(sizes)]


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("drs_fast hash")]


def test_every_shard_in_the_order_of_the_records(tmp_path):
    sizes = [3 * 2**20 + 1, 0, 5, 2**20, 2**16, 2**16 - 1] * 4
    records = shards(tmp_path, *sizes)
    wanted = [hashlib.sha256(bytes([k + 1]) * size).hexdigest() for k, size in enumerate(sizes)]
    assert list(hashed(tmp_path, records)) == list(zip(records, wanted, strict=True))
    assert not threads()


@pytest.mark.parametrize("size", [100, 2**20])
def test_what_is_missing_or_of_another_size_has_none(tmp_path, size):
    records = shards(tmp_path, size, size, size)
    (tmp_path / shard_name(0)).unlink()
    with open(tmp_path / shard_name(1), "ab") as file:
        file.write(b"more")
    assert [sha256 is None for _, sha256 in hashed(tmp_path, records)] == [True, True, False]


def test_no_shard_is_held_in_memory(tmp_path):
    name, size = tmp_path / shard_name(0), 64 * 2**20
    name.touch()
    os.truncate(name, size)
    tracemalloc.start()
    try:
        list(hashed(tmp_path, [record(0, size)]))
        assert tracemalloc.get_traced_memory()[1] < ROOM
    finally:
        tracemalloc.stop()


def test_whoever_stops_asking_does_not_wait_for_the_rest(tmp_path):
    records = shards(tmp_path, 2**16)
    for chunk in range(1, 9):
        (tmp_path / shard_name(chunk)).touch()
        os.truncate(tmp_path / shard_name(chunk), 2**40)  # an hour of work
        records.append(record(chunk, 2**40))
    found = hashed(tmp_path, records)
    assert next(found)[0] == records[0]
    found.close()
    assert not threads()


@pytest.mark.parametrize("small", [0, 2**30])
def test_verify_says_the_same_with_and_without_threads(tmp_path, monkeypatch, small):
    monkeypatch.setattr(module, "SMALL", small)
    out = tmp_path / "run"
    drs.generate(toy(), QUICK, 900, out=out, save=("x",), chunk_rows=256)
    assert store.verify(out) == []
    for chunk, data in ((1, b""), (4, None), (5, b"\0" * (out / shard_name(5)).stat().st_size)):
        path = out / shard_name(chunk)
        path.unlink() if data is None else path.write_bytes(data)
    first, second, third = store.verify(out)
    assert f"{shard_name(1)} is missing or is not" in first
    assert f"{shard_name(4)} is missing or is not" in second
    assert f"{shard_name(5)} does not match" in third
    assert not threads()
