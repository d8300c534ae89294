"""Runs that are stopped at any moment and started again end in the bytes of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from agreement import threads
from runs import files

from drs_fast import store
from drs_fast.cli import main as cli

if sys.platform == "win32":
    pytest.skip("POSIX signals", allow_module_level=True)

# Sets what a shell would, then runs the command.
LAUNCH = """
import resource, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
if int(sys.argv[1]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from drs_fast.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
FEW, MANY = 20_000, 130_000  # samples: about 22 and 142 chunks
SECONDS = 120  # until something must have happened


def command(out, n, *more):
    words = ["generate", "25gaussians", "-n", n, "--out", out, "--chunk-rows", 4096, "--quiet"]
    return [str(word) for word in (*words, *more)]


def start(out, n, *more, largest_file=0):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(largest_file), *command(out, n, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(out, n, *more):
    """The command in this process, for a new one takes seconds to import PyTorch."""
    with threads(1):
        assert cli.main(command(out, n, *more)) == 0
    return files(out)


def recorded(out):
    path = out / "shards.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process, happened):
    """Whether it happened while the process was running."""
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end:
        if happened():
            return True
        time.sleep(0.001)
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    made = {}

    def run(n, *more):
        if (n, *more) not in made:
            made[n, *more] = finish(tmp_path_factory.mktemp("undisturbed") / "run", n, *more)
        return made[n, *more]

    return run


@pytest.mark.parametrize(
    ("kills", "n"),
    [(4, FEW), pytest.param(30, MANY, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_killed_at_random_it_ends_in_the_same_bytes(tmp_path, undisturbed, kills, n):
    out, chance = tmp_path / "run", random.Random(kills)
    reached = []
    for _ in range(kills):
        process = start(out, n)
        begin = recorded(out)
        further = chance.randint(0, 4)  # chunks; 0: somewhere before the first one of this start
        delay = chance.uniform(0.0, 0.03 if further else 2.0)
        wait_for(process, lambda begin=begin, more=further: recorded(out) >= begin + more)
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before the kill"
        reached.append(recorded(out))
    assert reached[-1] > 0
    assert reached == sorted(reached)  # what is recorded stays
    assert finish(out, n) == undisturbed(n)
    assert store.verify(out) == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)],
)
def test_a_signal_ends_with_its_exit_code(tmp_path, undisturbed, number, code):
    out = tmp_path / "run"
    process = start(out, FEW)
    assert wait_for(process, lambda: recorded(out) >= 2)
    process.send_signal(number)
    printed, said = process.communicate()
    assert process.returncode == code
    assert printed == ""
    assert said.startswith("drs-fast: ")
    assert "the same command resumes" in said
    assert "Traceback" not in said
    assert not [name for name in files(out) if name.endswith(".tmp")]
    assert 1 <= recorded(out) < 22  # the line that was just being synced is taken back
    assert finish(out, FEW) == undisturbed(FEW)


SMALL = ("--burn-in", "100", "--chunk-rows", "256")


@pytest.mark.parametrize(
    ("name", "largest_file", "n", "more"),
    [
        ("state.safetensors", 20_000, FEW, ()),
        ("chunk-00000000.safetensors", 10_000, FEW, ("--burn-in", "1000")),
        ("shards.jsonl", 3_000, 1_500, SMALL),
    ],
)
def test_a_full_disk_names_the_path_and_loses_nothing(
    tmp_path, undisturbed, name, largest_file, n, more
):
    out = tmp_path / "run"
    process = start(out, n, *more, largest_file=largest_file)
    printed, said = process.communicate()
    assert process.returncode == 5
    assert printed == ""
    assert str(out / name) in said
    assert "cannot write" in said
    assert "Traceback" not in said
    assert finish(out, n, *more) == undisturbed(n, *more)
