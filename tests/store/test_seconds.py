"""The file of seconds, on which nothing depends: whatever it holds, there are none."""

import os
import sys

import pytest
from runs import QUICK, toy

import drs_fast as drs
from drs_fast.store import seconds
from drs_fast.store.format import SECONDS


def generate(out, n=40):
    return drs.generate(toy(), QUICK, n, out=out, chunk_rows=256)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10**5,
        b'{"a": 1' + b"0" * 400 + b"}",
        b"\xff",
        b'{"a": "b"}',
        b"[1]",
        b"",
        b"1" * 5000,
    ],
    ids=["deep", "large", "not text", "words", "list", "empty", "too many digits"],
)
def test_damage_counts_as_none(tmp_path, data):
    (tmp_path / SECONDS).write_bytes(data)
    assert seconds.read(tmp_path) == {}


@pytest.mark.parametrize("data", [b"[" * 10**5, b'{"disk": 1' + b"0" * 400 + b"}"])
def test_a_run_goes_on_with_damaged_ones(tmp_path, data):
    out = tmp_path / "run"
    generate(out)
    (out / SECONDS).write_bytes(data)
    assert len(generate(out, 80)) == 80
    assert drs.open(out).seconds


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / SECONDS)
    assert seconds.read(tmp_path) == {}


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no endless file")
def test_an_endless_file_is_not_read(tmp_path):
    (tmp_path / SECONDS).symlink_to("/dev/zero")
    assert seconds.read(tmp_path) == {}
