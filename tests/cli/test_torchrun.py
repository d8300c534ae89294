"""Real torchrun: workers that are killed, stopped, started again and more or fewer."""

import os
import signal
import subprocess
import sys
import time

import pytest
from runs import contents

from drs_fast.cli import main as cli

if sys.platform == "win32":
    pytest.skip("POSIX signals", allow_module_level=True)

# The second worker kills itself in its third chunk, unless it is told not to or was started again.
MODEL = """
import itertools, os, signal, time
import drs_fast as drs

gan, calls = drs.load("25gaussians"), itertools.count()

def generator(z):
    dies = os.environ.get("RANK") == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if dies and "SOUND" not in os.environ and next(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return gan.generator(z)

def make():
    return drs.GAN(generator, gan.discriminator, gan.latent_dim)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "mortal.py"
    file.write_text(MODEL)
    yield f"{file}:make"
    sys.modules.pop("mortal", None)


@pytest.fixture(scope="module")
def command(model):
    return ["generate", model, "-n", "20000", "--chunk-rows", "4096", "--out"]


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    assert cli.main([*command, str(out), "--quiet"]) == 0
    return contents(out)


def start(workers, words, *flags, **environment):
    flags = ["--nnodes", "1", "--nproc-per-node", str(workers), *flags]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *flags, "-m", "drs_fast", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def status(out):
    return cli.main(["status", str(out)])


def test_a_killed_worker_is_started_again(tmp_path, command, alone):
    flags = ("--max-restarts", "1", "--monitor-interval=0.1")
    process = start(2, [*command, str(tmp_path)], *flags, PAUSE="0.03")  # so that both have work
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "exitcode: -9" in said
    assert contents(tmp_path) == alone
    lines = [line for line in said.splitlines() if line.startswith("worker ")]
    assert sorted(line[:10] for line in lines) == ["worker 1/2", "worker 2/2"]
    assert said.count("20,000 samples in ") == 1


@pytest.mark.slow
def test_another_number_of_workers_goes_on(tmp_path, command, alone):
    process = start(2, [*command, str(tmp_path)], "--monitor-interval=0.1")
    process.communicate()
    assert (process.returncode, status(tmp_path)) == (1, 75)
    process = start(4, [*command, str(tmp_path)], SOUND="1")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert contents(tmp_path) == alone


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_for_the_agent(tmp_path, command, alone, number):
    """Workers leave when it tells them; without it they go on, by strides."""
    flags = ("--signals-to-handle", "SIGTERM,SIGUSR1")
    process = start(3, [*command, str(tmp_path)], *flags, SOUND="1", PAUSE="0.1")
    wait_for(lambda: (tmp_path / "worker-0003.jsonl").exists())
    process.send_signal(number)
    sent = time.monotonic()
    said, _ = process.communicate()  # until all workers have ended
    if number == signal.SIGKILL:
        assert status(tmp_path) == 0
    else:
        assert time.monotonic() - sent < 25, "it would have been killed"
        assert (process.returncode, status(tmp_path)) == (1, 75)
        assert said.count("the same command resumes") == 3
        assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
        assert cli.main([*command, str(tmp_path), "--quiet"]) == 0
    assert contents(tmp_path) == alone


def wait_for(happened):
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
