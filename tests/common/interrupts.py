"""Runs that are interrupted twice while the disk is slow, each rerun at once.

python tests/common/interrupts.py [TRIALS] prints what went wrong and how many reruns were good.
One process imports PyTorch and forks the others, because the import takes seconds.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from runs import files

from drs_fast.cli import main as cli

SAMPLES = 1_200  # 6 chunks
SECONDS = 60.0  # until something must have happened
IN_USE = 7
AT_ONCE = 5  # trials, which mostly sleep


def forked(process, said=os.devnull):
    """The id of a child that ends as process() does, by way of Python's own end; what it said."""
    pid = os.fork()
    if pid == 0:
        # PyTorch makes its pool of threads anew in a child, and a second thread may find none.
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        file = os.open(said, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.exit(process())
    return pid


def words(out):
    return ["generate", "25gaussians", "-n", str(SAMPLES), "--out", str(out), "--chunk-rows",
            "1024", "--burn-in", "500", "--quiet"]  # fmt: skip


def interrupted(out, seconds):
    """The run on a disk that takes so long for every fsync."""
    os.fsync = lambda file: time.sleep(seconds)
    sys.argv[1:] = words(out)
    cli.command()


def rerun(out):
    """The same command, tried until the directory is free, on a disk that is a little slow."""
    os.fsync = lambda file: time.sleep(0.03)
    end, code = time.monotonic() + SECONDS, IN_USE
    while code == IN_USE and time.monotonic() < end:
        code = cli.main(words(out))
        time.sleep(0.01)
    return code


def reached(out, records):
    """Whether the run has begun and has recorded so many shards."""
    path = out / "shards.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") >= records


def trial(out, want, chance):
    """Two interrupts, and a rerun that cannot wait. The number of faults; {out}.txt names them."""
    records, seconds = chance.randint(0, 2), chance.uniform(0.05, 0.3)
    said, again = Path(f"{out}.said"), Path(f"{out}.again")
    first = forked(lambda: interrupted(out, seconds), said)
    end = time.monotonic() + SECONDS
    while not reached(out, records) and time.monotonic() < end:
        time.sleep(0.001)
    second = forked(lambda: rerun(out), again)
    time.sleep(chance.uniform(0.0, 3 * seconds))
    os.kill(first, signal.SIGINT)
    time.sleep(chance.uniform(0.005, 0.1))
    os.kill(first, signal.SIGINT)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in (first, second)]
    # A signal in the last moment, when Python has put back the handlers, ends the process as it is.
    wrong = []
    if codes not in ([130, 0], [-signal.SIGINT, 0]):
        wrong.append(
            f"the exit codes are {codes}, and the rerun said {again.read_text()[-2000:]!r}"
        )
    wrong += ["it said more than a line"] if said.read_text().count("\n") > 1 else []
    made = files(out)
    names = sorted({**made, **want})
    wrong += [f"{name} differs" for name in names if made.get(name) != want.get(name)]
    Path(f"{out}.txt").write_text("; ".join(wrong))
    return len(wrong)


def main():
    torch.set_num_threads(1)  # a child of threads would wait for them in vain
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    place = Path(tempfile.mkdtemp())  # no context manager: the children leave by this way too
    cli.main(words(place / "undisturbed"))  # here, so that the children find all imported
    want, good = files(place / "undisturbed"), 0
    for some in (range(k, min(k + AT_ONCE, trials)) for k in range(0, trials, AT_ONCE)):
        tried = [forked(lambda k=k: trial(place / str(k), want, random.Random(k))) for k in some]
        for k, pid in zip(some, tried, strict=True):
            failed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            good += not failed
            if failed:
                sys.stdout.write(f"trial {k}: {(place / f'{k}.txt').read_text()}\n")
    shutil.rmtree(place)
    sys.stdout.write(f"{good} of {trials} reruns are good\n")


if __name__ == "__main__":
    main()
