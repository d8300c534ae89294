"""Ctrl-C, signals, sys.exit, forked children, and reading a run while it is written."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from runs import QUICK, files, toy

import drs_fast as drs
from benchmarks.common.by_hand import SPEC
from drs_fast import store
from drs_fast.cli import main as cli
from drs_fast.cli.exit_codes import BROKEN_PIPE
from drs_fast.store import folder as folder_module

if sys.platform == "win32":
    pytest.skip("POSIX signals and locks", allow_module_level=True)

import fcntl

TESTS = Path(__file__).parents[1]


def python(*words, **options):
    """A finished process, with its output; SIGINT acts in it as in a terminal."""
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
    "trials", [3, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_two_interrupts_and_a_rerun_at_once(trials):
    done = python(
        TESTS / "common" / "interrupts.py", trials, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert (done.stdout, done.stderr) == (f"{trials} of {trials} reruns are good\n", "")


@pytest.fixture
def interrupts_of_a_write(monkeypatch):
    """Writing the third shard interrupts the main thread, and notes whether the lock is held."""
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
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupts_of_a_write == [True]
    assert 2 in store.format.read_records(tmp_path / "run", None)[0]  # what was begun is there
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
    """The second interrupt comes while the first one is cleaned up."""
    run(tmp_path / "direct", 400)
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
                run(out, 400)
        assert not store.being_written(out)
        run(out, 400)
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

writer = store.Writer.open(sys.argv[1], SPEC, 10)
child = os.fork()
if child == 0:
    %s
    time.sleep(60)
print(child, flush=True)
%s
"""


@pytest.fixture
def fork(tmp_path):
    """Runs FORKING until the parent has done its part."""
    with contextlib.ExitStack() as stack:

        def forking(child, parent):
            source = f"SPEC = {SPEC!r}\n" + FORKING % (child, parent)
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", source, str(tmp_path / "run")],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            stack.callback(process.stdout.close)
            stack.callback(process.wait)
            stack.callback(process.kill)
            pid = int(process.stdout.readline())
            stack.callback(kill, pid)
            return process

        yield forking


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("parent", ["writer.close()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_forked_child_keeps_no_lock(tmp_path, fork, parent):
    fork("pass", parent).wait()
    with store.Writer.open(tmp_path / "run", SPEC, 10):
        pass


def test_a_forked_child_frees_nothing(tmp_path, fork):
    ends = ("sys.exit()", "writer.close()", "del writer", "1 / 0")
    more = "".join(f"if os.fork() == 0:\n    {end}; os._exit(0)\nos.wait()\n" for end in ends)
    parent = f"{more}print('waited', flush=True); time.sleep(60)"
    assert fork("os._exit(0)", parent).stdout.readline() == "waited\n"
    assert store.being_written(tmp_path / "run")


def test_a_generator_that_forks(tmp_path):
    """The child outlives the run, and the directory is free all the same."""
    calls, children = itertools.count(), []

    def forking(z):
        if next(calls) == 3:  # the directory is locked by then
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
                children.append(os.fork())
            if children == [0]:
                time.sleep(60)
                os._exit(0)
        return z

    try:
        run(tmp_path / "run", 300, drs.GAN(forking, lambda x: x[:, 0], 2))
        assert not store.being_written(tmp_path / "run")
    finally:
        kill(children[0])
        os.waitpid(children[0], 0)


# --- sys.exit in the user's code


CALLS = {
    "generator": "drs.GAN(leave, lambda x: x[:, 0], 2)",
    "discriminator": "drs.GAN(lambda z: z, leave, 2)",
    "link": "drs.GAN(lambda z: z, lambda x: x[:, 0], 2, link=leave)",
    "prior": "drs.GAN(lambda z: z, lambda x: x[:, 0], 2, prior=leave)",
    "real": "drs.GAN(lambda z: z, lambda x: x[:, 0], 2, real=leave)",
    "function": "leave()",
}
WAYS = ("sys.exit()", "sys.exit('no')", "exit(0)")


@pytest.mark.parametrize(
    ("role", "leave"),
    [*((role, "sys.exit(0)") for role in CALLS), *(("link", way) for way in WAYS)],
)
def test_sys_exit_in_a_model_is_no_success(tmp_path, capsys, role, leave):
    (tmp_path / "leaver.py").write_text(
        f"import sys\nimport drs_fast as drs\n\ndef leave(*given):\n    {leave}\n\n"
        f"def make():\n    return {CALLS[role]}\n"
    )
    command = ["generate", f"{tmp_path}/leaver.py:make", "-n", "9", "--out", str(tmp_path / "run")]
    command += ["--sampler", "mh"] if role == "real" else []
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("drs-fast: sys.exit(")
    assert f"({tmp_path}/leaver.py:5, in leave)" in err
    assert err.count("\n") == 1
    sys.modules.pop("leaver", None)


def test_sys_exit_while_a_model_file_loads(tmp_path, capsys):
    (tmp_path / "leaver.py").write_text("import sys\nsys.exit(0)\n")
    words = ["generate", f"{tmp_path}/leaver.py:make", "-n", "9", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 2
    assert "leaver.py:2, in <module>)" in capsys.readouterr().err


# --- signals and threads


def test_main_in_a_thread(tmp_path, capsys):
    codes = []
    words = ["generate", "25gaussians", "-n", "9", "--out", str(tmp_path / "run"), "--quiet"]
    thread = threading.Thread(target=lambda: codes.append(cli.main(words)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_handler_that_python_has_not_set_stays(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        patch.setattr(signal, "signal", None)
        assert cli.main(["doctor"]) == 0


def test_the_handler_is_set_back(capsys):
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert cli.main(["doctor"]) == 0
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_interrupt_while_arguments_are_parsed(monkeypatch, capsys):
    def interrupted(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parsed", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err.startswith("drs-fast: interrupted")


SCRIPT = "import sys\nfrom drs_fast.cli.main import command\nsys.exit(command())\n"  # as pip does
INTERRUPTED = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.fixture
def commands(tmp_path):
    """The ways to start the command, by name."""
    (tmp_path / "drs-fast").write_text(SCRIPT)
    return {
        "script": [tmp_path / "drs-fast"],
        "module": ["-m", "drs_fast"],
        "joined": ["-mdrs_fast"],
        "cli": ["-m", "drs_fast.cli.main"],
    }


def beside(path):
    """The environment in which modules there come first."""
    return {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{TESTS.parent}"}


@pytest.mark.parametrize("way", ["script", "module", "joined", "cli"])
def test_an_interrupt_while_the_command_is_imported(tmp_path, commands, way):
    (tmp_path / "torch.py").write_text(f"{INTERRUPTED}import time\ntime.sleep(60)\n")
    done = python(*commands[way], "doctor", env=beside(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "drs-fast: interrupted\n")


def test_a_warning_while_the_command_is_imported(tmp_path, commands):
    warned = INTERRUPTED.replace("SIGINT", "SIGUSR1")
    (tmp_path / "torch.py").write_text(f"{warned}import time\ntime.sleep(60)\n")
    done = python(*commands["module"], "generate", env=beside(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (75, "", "drs-fast: told to leave\n")


@pytest.mark.parametrize("words", [["-c", "import drs_fast"], ["-m", "other", "drs_fast"]])
def test_an_interrupt_of_another_program_is_its_own(tmp_path, words):
    (tmp_path / "torch.py").write_text(INTERRUPTED)
    (tmp_path / "other.py").write_text(
        "try:\n    import drs_fast\nexcept KeyboardInterrupt:\n    print('seen')\n"
    )
    done = python(*words, env=beside(tmp_path))
    assert "seen" in done.stdout or "KeyboardInterrupt" in done.stderr
    assert "drs-fast" not in done.stderr


def test_an_interrupt_while_the_command_ends(tmp_path, commands):
    (tmp_path / "model.py").write_text(
        "import atexit, os, signal\nimport drs_fast as drs\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "def make():\n    return drs.GAN(lambda z: z, lambda x: x[:, 0], 2)\n"
    )
    words = ["generate", "model.py:make", "-n", "9", "--out", "run", "--quiet"]
    done = python(*commands["module"], *words, env=beside(tmp_path), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nobody_reads_the_output():
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "drs_fast", "doctor"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert process.communicate() == (None, "")
    assert process.returncode == BROKEN_PIPE


# --- verify beside a writer


def damaged(path):
    """Puts the directory into every state in which a reader may find a live run."""
    lines = (path / "shards.jsonl").read_bytes().splitlines(keepends=True)
    shards = sorted(path.glob("chunk-*"))
    shutil.copy(shards[0], path / "chunk-00000099.safetensors")  # written, not yet recorded
    (path / "chunk-00000098.safetensors.tmp").write_bytes(b"half")
    (path / "state.safetensors").unlink()  # made again
    torn = [*lines[:1], *lines[2:-1], lines[-1][:40]]  # one made again, one being recorded
    (path / "shards.jsonl").write_bytes(b"".join(torn))


def test_verify_beside_a_writer_tells_damage_only(tmp_path, capsys):
    path = tmp_path / "run"
    run(path)
    folder = folder_module.Folder(path)
    with contextlib.closing(folder):
        damaged(path)
        assert store.verify(path) == []
        assert cli.main(["verify", str(path)]) == 0
        assert "is still being written" in capsys.readouterr().out
        first = path / "chunk-00000000.safetensors"
        whole = first.read_bytes()
        first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (problem,) = store.verify(path)
        assert "sha256" in problem
        first.write_bytes(whole)
    assert len(store.verify(path)) == 8  # when nobody writes, all of that


def test_verify_of_a_run_that_has_just_begun(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with contextlib.closing(folder_module.Folder(tmp_path / "run")):
        assert store.verify(tmp_path / "run") == []
        assert cli.main(["verify", str(tmp_path / "run")]) == 0
        assert "is still being written" in capsys.readouterr().out
    assert cli.main(["verify", str(tmp_path / "run")]) == 7


def test_a_shard_that_is_made_again_while_verify_looks(tmp_path, monkeypatch):
    """An extension drops the record of the last shard, then replaces it."""
    path = tmp_path / "run"
    run(path, 300)
    check, seen = store.verify.__globals__["_check_shard"], []

    def extended(directory, record, *rest):
        if record.cut and not seen:
            seen.append(record)
            run(path, 600)
        return check(directory, record, *rest)

    monkeypatch.setitem(store.verify.__globals__, "_check_shard", extended)
    assert store.verify(path) == []
    assert seen


def test_verify_all_the_time_beside_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: time.sleep(0.005))
    problems, looks = [], []

    def look():
        while thread.is_alive():
            looks.append(store.being_written(tmp_path / "run"))
            # Before the first lock it is a directory like any other.
            if looks[-1] or (tmp_path / "run" / "manifest.json").exists():
                problems.extend(store.verify(tmp_path / "run"))

    def runs():
        for n in (500, 1500, 2000):
            run(tmp_path / "run", n)

    thread = threading.Thread(target=runs)
    thread.start()
    look()
    thread.join()
    assert problems == []
    assert any(looks)
    assert len(drs.open(tmp_path / "run")) == 2000


def test_a_writer_waits_for_one_that_looks(tmp_path):
    """verify holds the lock for a moment."""
    (tmp_path / "run").mkdir()
    directory = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_SH)
    timer = threading.Timer(0.03, os.close, [directory])
    timer.start()
    store.Writer.open(tmp_path / "run", SPEC, 10).close()
    timer.join()
