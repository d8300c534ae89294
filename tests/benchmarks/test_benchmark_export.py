"""The benchmark of exports."""

import json

import pytest

from benchmarks.speed import export
from drs_fast.exporting.formats import FORMATS


def test_every_format_has_a_bare_loop():
    assert export.BARE.keys() == FORMATS.keys()


def test_a_quick_run(tmp_path):
    pytest.importorskip("webdataset")
    words = ["--quick", "--threads", "2", "--json", str(tmp_path / "a.json")]
    assert export.main(words) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["images"] == 64
    assert all(len(found["found"][name]["ours"]) == 1 for name in FORMATS)
