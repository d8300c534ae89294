"""Where a run's time goes."""

import json
import math
from contextlib import suppress

import pytest
import torch
from runs import QUICK, contents, toy

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.run import stopwatch
from drs_fast.run.stopwatch import PARTS, DeviceParts, Stopwatch
from drs_fast.samplers.ddls import DDLS


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def test_a_span_counts_for_itself_alone():
    clock = Clock()
    watch = Stopwatch(clock)
    clock.time = 1.0
    with watch.on("accept"):
        clock.time = 3.0
        with watch.on("generator"):
            clock.time = 10.0
        clock.time = 10.5
        with suppress(KeyError), watch.on("generator"):
            clock.time = 11.5
            raise KeyError
    clock.time = 12.0
    assert watch.seconds() == {"other": 1.5, "accept": 2.5, "generator": 8.0, "total": 12.0}


class Event:
    """An event on a device whose clock goes on by a second at every event."""

    now = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        Event.now += 1
        self.time = Event.now

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1e3 * (later.time - self.time)


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return DeviceParts(torch.device("cuda"))


def step(parts, rows, calls=1):
    with parts.batch(rows):
        with parts.on("draw"):
            pass
        with parts.on("accept"):
            for _ in range(calls):
                for role in ("generator", "discriminator"):
                    with parts.on(role):
                        pass


def test_parts_of_a_gpu_are_those_of_the_second_batch(device):
    assert device.seconds() == {}
    step(device, 100, calls=7)  # cold
    step(device, 100)
    with device.on("generator"):  # within a capture, say
        pass
    for _ in range(8):
        device.replayed(100)
    step(device, 100, calls=5)
    # Ten batches and the third called one; "accept" has the time between and after its parts.
    assert device.seconds() == {"draw": 11, "generator": 11, "discriminator": 11, "accept": 33}


@pytest.mark.parametrize("sampler", [QUICK, DDLS(steps=3)])
def test_all_seconds_have_a_name(sampler, capsys):
    batch = drs.generate(toy(), sampler, 300, batch_size=256, progress=True)
    seconds = dict(batch.seconds)
    total = seconds.pop("total")
    assert {*PARTS, "burn-in", "drain"} <= set(seconds)
    assert min(seconds.values()) >= 0.0
    assert math.isclose(sum(seconds.values()), total)
    assert f"{total:.3g} s: " in capsys.readouterr().err


def test_runs_on_disk_add_their_seconds(tmp_path, capsys):
    settings = {"batch_size": 256, "chunk_rows": 256}
    first = drs.generate(toy(), QUICK, 100, out=tmp_path / "run", **settings).seconds
    run = drs.generate(toy(), QUICK, 500, out=tmp_path / "run", progress=True, **settings)
    assert f"{run.seconds['total'] - first['total']:.3g} s: " in capsys.readouterr().err
    assert "disk" in run.seconds
    assert all(run.seconds[name] >= first[name] for name in first)
    parts = {name: value for name, value in run.seconds.items() if name != "total"}
    assert sum(parts.values()) == pytest.approx(run.seconds["total"], abs=1e-4)
    before, there = run.seconds, contents(tmp_path / "run")
    drs.generate(toy(), QUICK, 500, out=tmp_path / "run", **settings)  # complete
    assert run.seconds == before
    drs.generate(toy(), QUICK, 500, out=tmp_path / "once", **settings)
    assert contents(tmp_path / "once") == there


def test_an_interrupted_run_has_seconds(tmp_path, monkeypatch):
    with pytest.raises(drs.OutOfTime):
        drs.generate(
            toy(), QUICK, 10**6, out=tmp_path / "run", batch_size=256, chunk_rows=256,
            max_seconds=0.05,
        )  # fmt: skip
    assert drs.open(tmp_path / "run").seconds["total"] >= 0.05


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"total": "long"}', b"\xff", None])
def test_a_damaged_file_of_seconds_harms_nothing(tmp_path, damage):
    path = tmp_path / "run"
    drs.generate(toy(), QUICK, 100, out=path, batch_size=256, chunk_rows=256)
    (path / "seconds.json").unlink()
    if damage is not None:
        (path / "seconds.json").write_bytes(damage)
    assert drs.store.verify(path) == []
    assert drs.open(path).seconds == {}
    assert cli.main(["report", str(path)]) == 0
    run = drs.generate(toy(), QUICK, 300, out=path, batch_size=256, chunk_rows=256)
    assert run.seconds["total"] > 0.0


def test_a_full_disk_loses_only_the_seconds(tmp_path, monkeypatch):
    from drs_fast.store.folder import Folder

    put = Folder.put

    def full(self, name, *data):
        if name == "seconds.json":
            raise OSError(28, "No space left on device")
        return put(self, name, *data)

    monkeypatch.setattr(Folder, "put", full)
    run = drs.generate(toy(), QUICK, 100, out=tmp_path / "run", batch_size=256, chunk_rows=256)
    assert run.manifest["complete"]
    assert run.seconds == {}


def test_a_report_says_where_the_time_went(tmp_path, capsys):
    drs.generate(toy(), QUICK, 100, out=tmp_path / "run", batch_size=256, chunk_rows=256)
    seconds = {
        "total": 20.0,
        "generator": 12.0,
        "discriminator": 7.5,
        "burn-in": 0.45,
        "disk": 0.05,
    }
    (tmp_path / "run" / "seconds.json").write_text(json.dumps(seconds))
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    line = "20 s: generator 12, discriminator 7.5, burn-in 0.45"
    assert f"time                    {line}\n" in capsys.readouterr().out


def test_words_of_a_gpu():
    seconds = {"total": 10.0, "waiting": 8.0, "launch": 2.0, "draw": 0.001, "generator": 6.0,
               "discriminator": 2.0, "accept": 0.5}  # fmt: skip
    assert stopwatch.words(seconds) == (
        "10 s: waiting 8, launch 2; meanwhile on the GPU: generator 6, discriminator 2, accept 0.5"
    )
