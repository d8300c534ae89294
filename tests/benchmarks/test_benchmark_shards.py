"""The benchmark of many shards."""

import pytest

from benchmarks.speed import shards
from drs_fast import store


def test_what_is_verified_is_sound(tmp_path):
    shards.write(tmp_path / "run", 3, 2**16)
    assert store.verify(tmp_path / "run") == []


def test_a_damaged_run_gets_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "verify", lambda out: ["shard 0 is damaged"])
    with pytest.raises(RuntimeError, match="the run that was timed is damaged"):
        shards.verified(2, 2**12, 1)


def test_a_run_is_made_and_resumed():
    found = shards.resumed(20)
    assert found["shards"] > shards.MISSING
    assert found.keys() > {"resume, complete", "open", "verify", "resume, unfinished"}
