"""The program that times how long the command takes to answer."""

import json

import pytest

from benchmarks.speed import start


def test_every_way_has_a_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(start, "seconds", lambda words, run: float(len(words)))
    file = tmp_path / "start.json"
    assert start.main(["--json", str(file), "--rounds", "1"]) == 0
    assert json.loads(file.read_text())["seconds"] == {
        name: len(words) for name, words in start.WAYS.items()
    }
    assert "drs-fast status DIR" in capsys.readouterr().out


def test_a_command_that_fails_gets_no_figure():
    with pytest.raises(RuntimeError, match=r"ended with 7: .*no run yet"):
        start.seconds((*start.COMMAND, "status", "DIR"), "nowhere")
