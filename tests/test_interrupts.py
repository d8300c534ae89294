"""Ctrl-C, signals, sys.exit, forked children, and looking at a run while it is written."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from runs import QUICK, files, toy

import drs_fast as drs
from drs_fast import cli, interrupts, store
from drs_fast.store import folder as folder_module

if sys.platform == "win32":
    pytest.skip("POSIX signals and locks", allow_module_level=True)

import fcntl

TESTS = Path(__file__).parent
SPEC = {"seed": 0, "group": 1}


def python(*words, **options):
    """A process whose Ctrl-C is that of a terminal, with what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


def run(out, n=2000, gan=None):
    return drs.generate(gan or toy(), QUICK, n, out=out, chunk_rows=256)


# --- the lock stays until the last write has ended


@pytest.mark.parametrize(
    "trials", [5, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_two_interrupts_and_a_rerun_at_once(trials):
    done = python(TESTS / "interrupts.py", trials, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.stdout, done.stderr) == (f"{trials} of {trials} reruns are good\n", "")


@pytest.fixture
def interrupts_of_a_write(monkeypatch):
    """The third shard's write interrupts the main thread several times, and notes who writes."""
    append, main, noted = store.Writer.append, threading.main_thread().ident, []

    def slow(writer, chunk, *rest, **named):
        if chunk == 2:
            for _ in range(4):
                signal.pthread_kill(main, signal.SIGINT)
                time.sleep(0.03)
            noted.append(store.being_written(writer.path))
        append(writer, chunk, *rest, **named)

    monkeypatch.setattr(store.Writer, "append", slow)
    return noted


def test_interrupts_do_not_free_a_directory_that_is_written(tmp_path, interrupts_of_a_write):
    run(tmp_path / "direct", 300)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupts_of_a_write == [True]
    assert 2 in store.format.read_records(tmp_path / "run")[0]  # what was begun is there
    assert not store.being_written(tmp_path / "run")


def test_an_interrupt_between_open_and_with_loses_no_lock(tmp_path, monkeypatch):
    def interrupted(writer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "__enter__", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            run(tmp_path / "run")
    assert not store.being_written(tmp_path / "run")


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_two_interrupts_within_a_write(tmp_path, monkeypatch, name):
    """The second one comes while the first is cleaning up."""
    run(tmp_path / "direct")
    for k in range(4):
        real, calls = getattr(os, name), []

        def interrupted(*given, real=real, calls=calls, k=k):
            made = real(*given)
            if threading.current_thread() is threading.main_thread():
                calls.append(given)
                if len(calls) == k + 1:
                    raise KeyboardInterrupt
            return made

        def unlink(*given):
            raise KeyboardInterrupt

        out = tmp_path / f"{name}{k}"
        with monkeypatch.context() as patch:
            patch.setattr(os, name, interrupted)
            patch.setattr(os, "unlink", unlink)
            with pytest.raises(KeyboardInterrupt):
                run(out)
        assert not store.being_written(out)
        run(out)
        assert files(out) == files(tmp_path / "direct")


def test_writes_are_refused_when_the_directory_is_closed(tmp_path):
    writer = store.Writer.open(tmp_path / "run", SPEC, 10)
    writer.close()
    writer.close()
    with pytest.raises(RuntimeError):
        writer.submit(print)


# --- forked children


FORKING = """
import os, signal, sys, time
from drs_fast import store

writer = store.Writer.open(sys.argv[1], {"seed": 0}, 10)
child = os.fork()
if child == 0:
    %s
    time.sleep(60)
print(child, flush=True)
%s
"""


@pytest.fixture
def fork(tmp_path):
    """Runs FORKING; its child is killed in the end."""
    children = []

    def forking(child, parent):
        source = FORKING % (child, parent)
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", source, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(int(process.stdout.readline()))
        return process

    yield forking
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("parent", ["writer.close()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_forked_child_keeps_no_lock(tmp_path, fork, parent):
    with fork("pass", parent) as process:
        process.wait()  # communicate would wait for the child, which has the pipe
        with store.Writer.open(tmp_path / "run", {"seed": 0}, 10):
            pass


@pytest.mark.parametrize("child", ["sys.exit()", "writer.close(); os._exit(0)", "del writer"])
def test_a_forked_child_frees_nothing(tmp_path, fork, child):
    with fork(child, "os.waitpid(child, 0) if 'exit' in sys.orig_argv[4] else 0\ntime.sleep(60)"):
        ...
