"""The benchmark of two workers."""

import pytest

from benchmarks.speed import workers

JOB = workers.Job("25gaussians", 3000, 4096)


def test_other_bytes_get_no_figure(monkeypatch):
    def run(job, out, count, manager):
        out.mkdir()
        (out / "manifest.json").write_text(f"made by {count}")
        return [workers.Seconds(1.0, 1.0)] * count

    monkeypatch.setattr(workers, "run", run)
    with pytest.raises(RuntimeError, match="the bytes differ"):
        workers.measured(JOB, 2, 1)


@pytest.mark.slow
def test_both_are_measured(capsys):
    found = workers.measured(JOB, 2, 1)
    assert found["workers"] == 2
    assert found["faster"] > 0
    assert found["cpu"] > 0
