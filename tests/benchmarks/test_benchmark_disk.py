"""The benchmark of shards on disk."""

import pytest

from benchmarks.speed import disk
from drs_fast.store import folder


def test_what_is_timed_is_what_safetensors_writes():
    disk.check(disk.shards(6, 3))


def test_other_bytes_get_no_figure(monkeypatch):
    put = folder.Folder.put

    def wrong(self, name, *data):
        return put(self, name, *data, *([b"more"] if name.startswith("chunk") else []))

    monkeypatch.setattr(folder.Folder, "put", wrong)
    with pytest.raises(RuntimeError, match="shard 0 differs from what safetensors writes"):
        disk.check(disk.shards(2, 3))
