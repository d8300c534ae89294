"""The program that times a call's cost on the host."""

import json
import math

import pytest
import torch

from benchmarks.speed import host


def test_every_backend_that_runs_has_figures(tmp_path, capsys):
    file = tmp_path / "host.json"
    assert host.main(["--json", str(file), "--rounds", "1", "-n", "3"]) == 0
    row = json.loads(file.read_text())["rows"][0]
    assert set(row["us"]) | set(row["skipped"]) == set(host.drs.ops.dispatch.available("cpu"))
    for ways in row["us"].values():
        assert len(ways) == 5
        assert all(0.0 < us < math.inf for us in ways.values())
    assert "what appending returns" in capsys.readouterr().out


def test_a_wrong_result_gets_no_figure(monkeypatch):
    calls = host.calls

    def wrong(logit, z, rng):
        return calls(logit, z + 1.0, rng)

    monkeypatch.setattr(host, "calls", wrong)
    with pytest.raises(host.Differs, match="other rows"):
        host.measured(torch.device("cpu"), 3, 1)
