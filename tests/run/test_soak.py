"""Many workers that come and go as they like end in the bytes of one process."""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
from runs import QUICK, contents, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.store.format import read_records

if sys.platform == "win32":
    pytest.skip("POSIX signals", allow_module_level=True)


def soaked(*words):
    """In a process of its own, because it forks."""
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *words],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


@pytest.mark.parametrize(
    "kills", [8, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_killed_at_random_they_end_in_the_same_bytes(kills):
    assert f"{kills} kill" in soaked("--kills", str(kills), "--minutes", "20")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seconds", [20, pytest.param(600, marks=pytest.mark.slow)])
def test_whatever_happens_to_them_they_end_in_the_same_bytes(seconds):
    said = soaked("--minutes", str(seconds / 60), "--seed", "1")
    assert "every job ended in the bytes of one process" in said


@pytest.mark.slow
def test_the_soak_sees_a_lost_record(tmp_path):
    """A planted fault: the records of workers are thrown away before the last one reads them."""
    fault = (
        "import sys\n"
        "from benchmarks import soak\n"
        "from drs_fast.store import writer\n"
        "made = writer.Writer._go_on\n"
        "def forgetful(self, before):\n"
        "    self._folder.remove(writer.workers(self.path))\n"
        "    made(self, before)\n"
        "writer.Writer._go_on = forgetful\n"
        "sys.exit(soak.main(['--kills', '30', '--minutes', '1']))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", fault],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert made.returncode == 1
    assert "are no longer recorded" in made.stdout


def generate(out, worker=None):
    return drs.generate(
        toy(), QUICK, 8_000, out=out, batch_size=256, chunk_rows=1024, worker=worker
    )


@contextlib.contextmanager
def small_disk(place, *options):
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", ",".join(["size=4m", *options]), "none", str(place)]
    if os.getuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("one may not mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("place", ["full", "read-only"])
def test_a_disk_that_takes_nothing_for_a_while(tmp_path, place):
    """The worker names the file and leaves; when there is room again, nothing has been lost."""
    generate(tmp_path / "plain")
    disk = tmp_path / "disk"
    with small_disk(disk):
        out, ballast = disk / "run", disk / "ballast"
        generate(out, "1/3")
        before = set(read_records(out, 1024)[0])
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize
        if place == "full":
            ballast.write_bytes(b"\1" * (free - 8192))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(OSError) as error:
            generate(out, "2/3")
        assert error.value.errno == (errno.ENOSPC if place == "full" else errno.EROFS)
        assert str(out) in str(error.value)
        assert len(store.open_run(out)) > 0
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        ballast.unlink(missing_ok=True)
        assert before <= set(read_records(out, 1024)[0])
        for worker in ("2/3", "3/3", "1/3"):
            generate(out, worker)
        assert contents(out) == contents(tmp_path / "plain")
