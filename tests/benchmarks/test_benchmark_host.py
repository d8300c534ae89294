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


def test_backends_of_a_gpu_are_measured_and_compared(monkeypatch):
    """With the CPU backend in place of theirs: what they do is compared with the reference."""
    module = host.drs.ops.dispatch._module
    monkeypatch.setattr(
        host.drs.ops.dispatch,
        "_module",
        lambda name: module("cpu" if name in ("cuda", "triton") else name),
    )
    host.drs.ops.dispatch._dispatch.cache_clear()
    row = host.measured(torch.device("cpu"), 3, 1)
    assert set(row["us"]) == set(host.drs.backends.NAMES)
    assert {len(ways) for ways in row["us"].values()} == {5}
    host.drs.ops.dispatch._dispatch.cache_clear()


def test_a_gpu_gets_a_row(monkeypatch):
    devices = []

    def measured(device, n, rounds):
        devices.append(str(device))
        return {"device": str(device), "n": n, "d": host.D, "us": {}, "skipped": {}}

    monkeypatch.setattr(host, "measured", measured)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(host, "environment", lambda: {})
    monkeypatch.setattr(host, "describe", lambda report: "a machine")
    assert host.main(["--rounds", "1"]) == 0
    assert devices == ["cpu", "cuda"]


def test_a_wrong_result_gets_no_figure(monkeypatch):
    calls = host.calls

    def wrong(logit, z, rng):
        return calls(logit, z + 1.0, rng)

    monkeypatch.setattr(host, "calls", wrong)
    with pytest.raises(host.Differs, match="other rows"):
        host.measured(torch.device("cpu"), 3, 1)
