"""Which worker a process is, and what several of them make of one run, started one by one."""

import itertools
import random
import socket
from datetime import timedelta

import pytest
import torch
from runs import contents
from torch import distributed

import drs_fast as drs
from drs_fast import store
from drs_fast.cli import launcher
from drs_fast.cli import main as cli
from drs_fast.run import workers
from drs_fast.run.progress import Progress
from drs_fast.run.worker import Worker
from drs_fast.run.workers import claimed, spare

AGENT = {"MASTER_ADDR": "localhost", "MASTER_PORT": "7", "TORCHELASTIC_USE_AGENT_STORE": "True"}
RANK = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
TASK = {"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}
ARRAY = {f"SLURM_ARRAY_TASK_{k}": v for k, v in [("ID", "7"), ("MIN", "3"), ("COUNT", "8")]}


@pytest.mark.parametrize(
    ("environment", "number", "of"),
    [
        (RANK, 3, 4),
        (TASK, 2, 3),
        (TASK | RANK, 3, 4),  # srun torchrun
        (ARRAY, 5, 8),
        (ARRAY | {"SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_MAX": "17"}, 3, 8),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MAX": "9"}, 5, 7),  # 3,7,9
        (ARRAY | TASK, 4 * 3 + 2, 8 * 3),
    ],
)
def test_the_worker_that_was_launched(environment, number, of):
    assert launcher.worker(None, environment) == Worker(number, of, stays=True)
    assert launcher.worker("1/2", environment) == Worker(1, 2)


@pytest.mark.parametrize(
    "environment",
    [{}, {"RANK": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}, {"SLURM_PROCID": "0"}, {"RANK": "a"},
     {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}],
)  # fmt: skip
def test_a_process_alone(environment):
    assert launcher.worker(None, environment) is None


def test_an_impossible_rank():
    with pytest.raises(ValueError, match="worker must be from 1/2 to 2/2, got 4/2"):
        launcher.worker(None, {"RANK": "3", "WORLD_SIZE": "2"})


def test_one_gpu_a_worker(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    local = {**RANK, "LOCAL_RANK": "6"}
    assert [launcher.device(given, local) for given in (None, "cuda")] == ["cuda:2", "cuda:2"]
    assert launcher.device(None, TASK) == "cuda:0"
    assert chosen == [2, 2, 0]
    assert [launcher.device(given, local) for given in ("cpu", "cuda:3")] == ["cpu", "cuda:3"]
    assert launcher.device(None, {}) is None
    assert launcher.device(None, TASK | {"SLURM_NTASKS": "1"}) is None  # a job of one process
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [launcher.device(given, local) for given in (None, "cuda")] == [None, "cuda"]
    assert chosen == [2, 2, 0]


def test_a_counter_in_the_store_of_an_agent(monkeypatch):
    store = distributed.TCPStore("localhost", 0, None, True, timedelta(seconds=20))
    agent = {**RANK, **AGENT, "MASTER_PORT": str(store.port), "TORCHELASTIC_RUN_ID": "job"}
    mine, other = (launcher.worker(None, agent).count for _ in range(2))
    again = launcher.worker(None, {**agent, "TORCHELASTIC_RESTART_COUNT": "1"}).count
    assert [count() for count in (mine, mine, other, again, mine)] == [0, 1, 2, 0, 3]
    mine.store = Gone()
    assert [mine(), mine()] == [None, None]
    assert other() == 4
    with socket.socket() as taken:  # no store listens here
        taken.bind(("localhost", 0))
        monkeypatch.setattr(launcher, "CONNECTING", timedelta(seconds=0.1))
        lost = {**agent, "MASTER_PORT": str(taken.getsockname()[1])}
        assert launcher.worker(None, lost).count() is None
    assert launcher.worker(None, RANK).count is None


class Gone:
    """A store whose host is gone."""

    def add(self, key, amount):
        raise distributed.DistNetworkError


class Beside:
    """A run of 135 samples in chunks of 10, as others have recorded them."""

    n = 135

    def __init__(self, records=()):
        self.records = dict.fromkeys(records, Ten())

    def refresh(self):
        return 0


class Ten:
    count = 10


def test_who_stays_makes_what_others_owe():
    """But not the next chunk of each, which it may be at."""
    beside, chunks = Beside([0, 3, 6, 4]), []
    for chunk in claimed(beside, Worker(1, 3, stays=True), 10.0, lambda count: None):
        chunks.append(chunk)
        beside.records[chunk] = Ten()
    assert chunks[:2] == [9, 12]
    assert sorted(chunks[2:]) == [5, 7, 8, 10, 11]  # of 13; 1 and 2 may be being made
    left = Beside([0, 3, 6, 4])
    assert list(claimed(left, Worker(1, 3), 10.0, lambda count: None)) == [9, 12]
    assert spare(range(13), 3, 13) == []


def test_a_lost_counter_leaves_every_third_chunk():
    counter = iter([0, 2, None])
    worker = Worker(2, 3, lambda: next(counter, None))
    beside = Beside([0])
    assert list(claimed(beside, worker, 10.0, lambda count: None)) == [2, 1, 4, 7, 10]


def command(out, *more):
    words = ["generate", "25gaussians", "-n", 9000, "--out", out, "--chunk-rows", 4096, *more]
    return [str(word) for word in words]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert cli.main(command(out, "--quiet")) == 0
    return contents(out)


@pytest.mark.parametrize("of", [1, 2, 5])
def test_strides_in_any_order_end_in_the_same_bytes(tmp_path, alone, of):
    numbers = list(range(1, of + 1))
    random.Random(of).shuffle(numbers)
    for number in numbers:
        left = cli.main(["status", str(tmp_path)])
        assert left == 7 if number == numbers[0] else left in (0, 75)
        assert cli.main(command(tmp_path, "--worker", f"{number}/{of}", "--quiet")) == 0
    assert cli.main(["status", str(tmp_path)]) == 0
    assert contents(tmp_path) == alone
    assert cli.main(command(tmp_path, "--worker", "1/3", "--quiet")) == 0
    assert contents(tmp_path) == alone


def test_a_stride_that_nobody_makes(tmp_path, alone, monkeypatch, capsys):
    monkeypatch.setattr(workers, "few", lambda worker, chunks: 0)  # so small a run is ended else
    for number in (1, 3):
        assert cli.main(command(tmp_path, "--worker", f"{number}/3")) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "worker 3/3: " in err
    assert "chunks of workers 2 of 3 are missing; the same command without a worker" in err
    assert cli.main(command(tmp_path, "--quiet")) == 0
    assert contents(tmp_path) == alone


def test_a_task_of_an_array_makes_up_for_all_others(tmp_path, alone, monkeypatch, capsys):
    for name, value in ARRAY.items():
        monkeypatch.setenv(name, value)
    assert cli.main(command(tmp_path)) == 0
    assert contents(tmp_path) == alone
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)  # one line of a worker that is not the first
    assert err.startswith("worker 5/8: ")
    assert err.endswith("/s; the run is complete\n")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--max-proposals", "90000"), "max_proposals counts"),
        (("--adapt", "batch"), "each row depends on all rows before"),
    ],
)
def test_runs_that_take_one_worker(tmp_path, capsys, more, why):
    assert cli.main(command(tmp_path, *more, "--worker", "1/2")) == 2
    assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_wrong_worker(tmp_path, capsys):
    assert cli.main(command(tmp_path, "--worker", "3/2")) == 2
    assert "worker must be from 1/2 to 2/2, got 3/2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="worker needs out"):
        drs.generate(drs.load("25gaussians"), drs.samplers.DRS(), 9, worker="1/2")


def test_progress_shows_no_more_than_there_will_be(capsys, monkeypatch):
    clock = itertools.count(0.0, 20.0)
    monkeypatch.setattr("drs_fast.run.progress.time.monotonic", lambda: next(clock))
    with Progress(100, enabled=True) as bar:
        bar.skip(10)
        bar.advance(40, 80)
        bar.others(70)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("100 of 100 samples, ")
    assert last.endswith(" 50.00% accepted, 0 s left")


def test_a_run_that_lacks_only_its_end(tmp_path, alone, monkeypatch):
    """It was killed after the record of its last shard."""

    def killed(writer, summary):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "finish", killed)
        assert cli.main(command(tmp_path, "--quiet")) == 130
    assert cli.main(command(tmp_path, "--worker", "2/3", "--quiet")) == 0
    assert contents(tmp_path) == alone


def test_status_of_a_run_that_lacks_a_shard_and_of_one_that_has_hardly_begun(tmp_path):
    assert cli.main(command(tmp_path / "run", "--quiet")) == 0
    (tmp_path / "run" / "chunk-00000001.safetensors").unlink()
    assert cli.main(["status", str(tmp_path / "run")]) == 75
    (tmp_path / "begun").mkdir()
    assert cli.main(["status", str(tmp_path / "begun")]) == 7
    (tmp_path / "begun" / "manifest.json.tmp").touch()
    assert cli.main(["status", str(tmp_path / "begun")]) == 75


@pytest.mark.parametrize("given", ["-1/2", "0/2", "3/2"])
def test_a_worker_that_is_none_of_them(given):
    with pytest.raises(ValueError, match=f"worker must be from 1/2 to 2/2, got {given}"):
        Worker.parsed(given)


def test_a_worker_of_no_workers():
    with pytest.raises(ValueError, match="the number of workers, after the slash, must be an"):
        Worker.parsed("1/0")


def test_a_task_below_the_first_of_its_array():
    environment = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_MIN": "3"}
    message = "SLURM_ARRAY_TASK_ID=1 is below SLURM_ARRAY_TASK_MIN=3, so it is not known which"
    with pytest.raises(ValueError, match=message):
        launcher.worker(None, environment)
