"""The GPU benchmark's program, on tiny sizes in Triton's interpreter."""

import importlib.util
import json
import sys

import pytest
import torch

import drs_fast as drs
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks as gpu_checks
from benchmarks.gpu import ops as gpu_figures
from benchmarks.gpu import problems as gpu_ops
from benchmarks.gpu import profile, stages
from benchmarks.gpu import table as gpu_table
from benchmarks.gpu.clock import HostClock
from benchmarks.speed import loop
from drs_fast.backends import triton as backend

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off with a GPU"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton"),
]
OWN = [
    case.name
    for case in gpu_ops.CASES
    if case.name.startswith("accept") and not case.name.endswith("CUDA C++")
]


@pytest.fixture
def only_rows(monkeypatch):
    """Leaves out the other ops."""
    monkeypatch.setattr(stages.other, "measured", lambda *rest: gpu_figures.blank(n=0))


def report_of(tmp_path, *options, status=0):
    file = tmp_path / "results" / "gpu.json"
    assert gpu.main(["--device", "cpu", "--output", str(file), *options]) == status
    return json.loads(file.read_text())


def test_all_of_it(tmp_path, monkeypatch, capsys):
    # In this process: test_benchmark_loop.py starts the processes that the loops have of their own.
    monkeypatch.setattr(loop, "elsewhere", loop.seconds_of)
    report = report_of(tmp_path, "--quick")
    assert {"device", "versions", "commit", "targets", "steps", "rows", "other"} <= set(report)
    assert {"torch", "triton", "cuda"} <= set(report["versions"])
    assert report["steps"] == report["failed"] == {}
    assert list(report["seconds"]) == gpu.USUAL == list(stages.STAGES)[:-1]
    assert [row["dtype"] for row in report["rows"]] == ["float32", "bfloat16"]
    wide, narrow = report["rows"]
    assert set(OWN) <= set(wide["ms"])
    assert {"torch eager", "torch nonzero_static", "limit: index_select"} <= set(narrow["ms"])
    for row in (*report["rows"], report["other"]):
        assert row["wrong"] == {}
        for name, kinds in row["ms"].items():
            assert kinds
            timings = [timing for kind, timing in kinds.items() if kind != "bytes"]
            assert all(set(timing) == {"median", "p10", "p90"} for timing in timings), name
    assert set(wide["ratios"]) >= set(report["targets"]) - {"CUDA C++ / Triton"}
    (run,) = report["loop"]
    assert run["ratios"]["drs_fast / plain"] > 0
    (row,) = report["host"]
    assert row["us"]["cpu"]["accept_compact"] > 0
    assert report["disk"]["shards / bare"]["ratio"] > 0
    (step,) = report["profile"]
    assert "aten::addmm" in [each["name"] for each in step["top"]]
    (squeezed,) = report["cascade"]
    assert squeezed["cascades"]["cascade, bf16"]["unused"] == ""
    assert step["busy_us"] > 0
    assert "float32 only" not in narrow["skipped"]
    assert set(narrow["skipped"]) >= {"accept_latents", "torch.compile", "CUB DeviceSelect"}
    assert "needs CUDA tensors" in wide["skipped"]["accept_compact, CUDA C++"]
    assert "0 failed or wrong" in capsys.readouterr().out


def test_other_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_figures, "CHUNKS", (1024,))
    monkeypatch.setattr(gpu_figures, "WARPS", (4,))
    monkeypatch.setattr(gpu_figures, "DRAWS", (2,))
    before = (backend.CHUNK, backend.DRAWS, backend.OPTIONS)
    report = report_of(tmp_path, "--stage", "tune")
    assert list(report["tune"]["ms"]) == [
        "accept_compact, CHUNK 1024, 4 warps",
        "accept_latents, DRAWS 2",
    ]
    assert before == (backend.CHUNK, backend.DRAWS, backend.OPTIONS)


def wrong_kernel(alter):
    compact = backend._compact

    def mutant(logit, rows, rng, ids, threshold, out, z=None, single_pass=None):
        compact(logit, rows, rng, ids, threshold, out, z, single_pass)
        alter(out, z if z is not None else out.rows[0])

    return mutant


MUTANTS = {
    "a row": lambda out, rows: rows[3].add_(1.0),
    "an id": lambda out, rows: out.ids[3].add_(1),
    "a logit": lambda out, rows: out.logit[3].add_(1.0),
    "the count": lambda out, rows: out.count.add_(1),
    "above": lambda out, rows: out.above.add_(1),
    "past the count": lambda out, rows: out.ids[-1].add_(1),
}


@pytest.fixture(scope="module")
def problem():
    return gpu_ops.problem(torch.device("cpu"), 300, 8, 0.2, torch.float32)


@pytest.mark.parametrize("name", MUTANTS)
@pytest.mark.parametrize("case", [gpu_ops.OURS, gpu_ops.LATENTS], ids=lambda case: case.name)
def test_a_wrong_kernel_gets_no_figure(problem, case, name, monkeypatch):
    row = gpu_figures.blank()

    def fill(found):
        with drs.backend("triton"):
            gpu_figures.measure(HostClock(), problem, case, found)

    gpu_figures.attempt(row, HostClock(), "right", fill)
    monkeypatch.setattr(backend, "_compact", wrong_kernel(MUTANTS[name]))
    gpu_figures.attempt(row, HostClock(), "wrong", fill)
    assert list(row["ms"]) == ["right"]
    assert list(row["wrong"]) == ["wrong"]


def test_a_wrong_graph_gets_no_figure(problem):
    class Stale(HostClock):
        def capture(self, call, calls=1):
            return lambda: problem.out  # what the first call left there, and was poisoned since

    row = gpu_figures.blank()

    def fill(found):
        with drs.backend("triton"):
            gpu_figures.measure(Stale(), problem, gpu_ops.OURS, found)

    gpu_figures.attempt(row, Stale(), "stale", fill)
    assert row["ms"] == {}
    assert "count" in row["wrong"]["stale"]


@pytest.mark.parametrize("peer", [case for case in gpu_ops.CASES if case.name not in OWN])
def test_a_wrong_peer_gets_no_figure(problem, peer):
    try:
        call = peer.prepare(problem)
    except gpu_figures.Missing as missing:
        pytest.skip(str(missing))
    keep, rows = call()
    gpu_ops.check(peer, problem, (keep, rows))
    with pytest.raises(gpu_ops.Differs, match="rows"):
        gpu_ops.check(peer, problem, (keep, rows + 1.0))
    with pytest.raises(gpu_ops.Differs, match="accepted"):
        gpu_ops.check(peer, problem, (~keep, rows))


def test_another_reference_leaves_no_figure_of_ours(tmp_path, monkeypatch, only_rows):
    accepted = gpu_ops.accepted

    def other(logit, **arguments):
        keep = accepted(logit, **arguments)
        keep[17] ^= True
        return keep

    monkeypatch.setattr(gpu_ops, "accepted", other)
    report = report_of(tmp_path, "--quick", "--stage", "ops", status=1)
    for row in report["rows"]:
        assert not set(OWN) & set(row["ms"])
        assert set(OWN) <= set(row["wrong"]) | set(row["skipped"])


def test_a_failure_loses_nothing_else(tmp_path, monkeypatch, only_rows):
    def fails(p):
        raise torch.OutOfMemoryError("no more\nof it")

    cases = (gpu_ops.Case("breaks", fails), gpu_ops.EAGER)
    monkeypatch.setattr(gpu_figures, "CASES", cases)
    monkeypatch.setattr(
        gpu_figures, "TINY", (*gpu_figures.TINY[:1], (10**9, 512, 0.2, torch.float32))
    )
    small, large = report_of(tmp_path, "--stage", "ops")["rows"]
    assert small["skipped"] == {"breaks": "OutOfMemoryError: no more"}
    assert list(small["ms"]) == ["torch eager"]
    assert "GB free" in large["skipped"]["all"]


def row_of(n, d, share=0.2, dtype="float32", **ratios):
    return {"n": n, "d": d, "share": share, "dtype": dtype, "ratios": ratios}


def test_targets():
    compact, latents, eager, launch, cuda = gpu_table.TARGETS
    large = gpu_table.judged(row_of(10**6, 128, **{compact: 1.10, latents: 0.75}))
    assert large == {compact: True, latents: False, cuda: None}
    assert gpu_table.judged(row_of(10**7, 512, **{compact: 1.11})) == {
        compact: False,
        latents: None,
        cuda: None,
    }
    assert gpu_table.judged(row_of(65_536, 512, **{cuda: 1.01})) == {cuda: False}
    small = gpu_table.judged(row_of(65_536, 128, **{eager: 10.0, launch: 12.0, cuda: 1.0}))
    assert small == {eager: True, launch: False, cuda: True}
    assert gpu_table.judged(row_of(10**6, 128, share=0.8)) == {}
    assert gpu_table.judged(row_of(10**6, 128, dtype="bfloat16")) == {}
    assert gpu_table.judged(row_of(10**6, 32)) == {}


def test_a_step_ends_at_its_limit_with_all_that_it_started():
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    step = gpu_checks.run([sys.executable, "-c", program], 1.0, {})
    assert step["result"] == "stopped after 1 s"
    assert gpu_checks.run([sys.executable, "-c", "exit(3)"], 60.0, {})["result"] == "exit status 3"
    shown = gpu_checks.run(
        [sys.executable, "-c", "import os; print(os.environ['A'])"], 60, {"A": "b"}
    )
    assert (shown["result"], shown["tail"]) == ("passed", ["b"])


def test_the_sanitized_program():
    gpu_checks.every_kernel(torch.device("cpu"), n=100, d=4)


def test_the_tests_run_without_plugins(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_checks, "TESTS", ("tests/ops/test_gpu.py",))
    command = [*gpu_checks.pytest_command(), "-p", "no:timeout", "--collect-only"]
    step = gpu_checks.run(command, 60, {})
    assert step["result"] == "passed", step["tail"]
    assert "collected" in step["tail"][-1]


@pytest.mark.parametrize("installed", [True, False])
def test_benchmarks_are_disabled_beside_xdist(monkeypatch, installed):
    """pytest-benchmark up to 5.1 warns where xdist is used, and a warning is an error."""
    there = {"pytest_benchmark": installed, "xdist": True}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there.get(name) or None)
    command = gpu_checks.pytest_command()
    assert ("--benchmark-disable" in command) == installed


def test_a_stage_that_fails_loses_no_other(tmp_path, monkeypatch, capsys):
    def fails(*arguments, **options):
        raise OSError("no space")

    monkeypatch.setattr(stages.disk, "measured", fails)
    report = report_of(tmp_path, "--stage", "profile,disk", status=1)
    assert report["failed"] == {"disk": "OSError: no space"}
    assert report["profile"]
    assert "disk failed: OSError: no space" in capsys.readouterr().out


def test_stages_by_name(capsys):
    assert gpu.stages("profile,build") == ["build", "profile"]
    with pytest.raises(SystemExit):
        gpu.main(["--stage", "loops,ops"])
    assert "build, tests, host, ops" in capsys.readouterr().err


def test_the_time_is_shared_out_among_the_stages():
    every, two = stages.deadlines(gpu.USUAL, 450.0), stages.deadlines(["loop", "disk"], 450.0)
    assert list(every.values()) == sorted(every.values())
    assert every["profile"] == two["disk"] == pytest.approx(450.0)
    assert every["loop"] - every["ops"] < two["loop"] < two["disk"]


def test_nothing_begins_after_its_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SECONDS", 0.0)
    report = report_of(tmp_path, "--stage", "ops,loop,cascade,profile,tune")
    assert {row["skipped"]["all"] for row in report["rows"]} == {"out of time"}
    assert [row["skipped"] for row in report["loop"]] == ["out of time"]
    assert [row["skipped"] for row in report["cascade"]] == ["out of time"]
    assert report["profile"] == []
    assert set(report["tune"]["skipped"].values()) == {"out of time"}


def test_a_profile_by_itself(capsys):
    assert profile.main(["MLP, width 16", "--device", "cpu", "--steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "MLP, width 16, batch 256, fp32, called" in shown
    assert "aten::addmm" in shown


def test_without_a_gpu_it_says_what_is_needed(capsys):
    assert gpu.main([]) == 1
    assert "CUDA" in capsys.readouterr().err
