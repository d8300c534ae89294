"""Workers that are killed, stopped, told to leave and refused by the disk, while others read.

python -m benchmarks.soak [--minutes 10] [--kills K] [--workers 4] [--seed 0]

Each job is a run that several workers write, started again whenever they are gone, until it ends.
It must end in the bytes of one undisturbed process; and at every moment before, no shard may be
there in part, no recorded chunk may vanish, and what a reader sees must be the beginning of the
run. With --kills nothing happens but so many kill -9. POSIX only. Exit code 1 if anything is wrong.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

import drs_fast as drs
from drs_fast import samplers, store
from drs_fast.run.worker import Worker
from drs_fast.store.format import SECONDS, SHARD, read_records

CHUNK_ROWS = 512
SIZES = 40, 3_000, 8_000, 16_000  # samples; a chunk has about 150
BETWEEN = 0.12  # mean seconds from one disturbance to the next
DISTURBANCES = "kill", "kill", "term", "stop", "full", "agent"
TOLERATED = "left behind by an interruption", ".jsonl line"  # what a kill may leave


def gan() -> drs.GAN:
    return drs.GAN(lambda z: z, lambda x: x[:, 0] - 0.25 * x[:, 1].square(), 2)


def generate(out: Path, n: int, worker: Worker | None = None) -> None:
    sampler = samplers.DRS(burn_in=2048)
    drs.generate(gan(), sampler, n, out=out, batch_size=256, chunk_rows=CHUNK_ROWS, worker=worker)


def files(out: Path) -> dict[str, str]:
    """The sha256 of each file that is the same for the same command."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.iterdir()
        if path.name != SECONDS
    }


class Truth:
    """What undisturbed runs of all sizes hold."""

    def __init__(self, place: Path) -> None:
        self.files: dict[int, dict[str, str]] = {}
        self.shards = set[tuple[str, str]]()  # of whole chunks and of cut ones
        for n in (*SIZES, 2 * max(SIZES)):
            generate(place / str(n), n)
            self.files[n] = files(place / str(n))
            self.shards |= {item for item in self.files[n].items() if SHARD.fullmatch(item[0])}
        self.ids = store.open_run(place / str(2 * max(SIZES))).ids[:]


def claims(place: Path) -> Callable[[], int]:
    """A counter for all workers, in which a dead one cannot leave a lock: a file for each number.

    It is new after `place` has been removed, as the store of torch's agent is after a restart.
    """

    def count() -> int:
        number = 0
        place.mkdir(exist_ok=True)
        while True:
            try:
                os.close(os.open(place / str(number), os.O_CREAT | os.O_EXCL))
                return number
            except FileExistsError:
                number += 1
            except FileNotFoundError:
                place.mkdir(exist_ok=True)

    return count


def forked(work: Callable[[], None], log: Path, full: Path) -> int:
    """The id of a child that does the work on a slow disk, which is full while that file exists."""
    pid = os.fork()
    if pid:
        return pid
    code, write, told = 0, os.write, False

    def leave(*_: object) -> None:
        nonlocal told
        told = True
        raise SystemExit(143)

    def written(file: int, data: bytes) -> int:
        if full.exists():
            write(file, bytes(data)[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device (injected)")
        return write(file, data)

    try:
        signal.signal(signal.SIGTERM, leave)
        os.fsync = lambda file: time.sleep(0.003)
        os.write = written
        # Two threads that are the first to use PyTorch after a fork may find no thread pool.
        torch.set_num_threads(torch.get_num_threads())
        work()
    except SystemExit:
        code = 143
    except BaseException as error:
        # PyTorch's C++ turns what a handler raises within it into an error of its own.
        code = 143 if told else 5
        if code == 5 and (not isinstance(error, OSError) or error.errno != errno.ENOSPC):
            with log.open("a") as file:
                traceback.print_exc(file=file)
    finally:
        os._exit(code)


@dataclass
class Job:
    """One run, its workers, and what was seen of it."""

    out: Path
    n: int
    truth: Truth
    chance: random.Random
    counted: Counter[str]
    workers: int
    wrong: list[str] = field(default_factory=list)
    _alive: dict[int, int] = field(default_factory=dict)  # slots by process
    _stopped: dict[int, float] = field(default_factory=dict)  # when to go on, by process
    _recorded: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._log, self._full = self.out.with_suffix(".log"), self.out.with_suffix(".full")
        self._claims = self.out.with_suffix(".claims")
        self._counts = self.chance.random() < 0.5  # or the chunks are strided
        twice = self.chance.random() < 0.3  # two operators start the same job
        self._slots = list(range(1, self.workers + 1)) * (2 if twice else 1)
        needed = len([name for name in self.truth.files[self.n] if SHARD.fullmatch(name)])
        self._needed = set(range(needed - 1))  # chunks that hold as many samples in the end

    def run(self, disturbances: Iterator[str]) -> None:
        """Goes on until the run is complete and all workers have left."""
        due: set[int] = set(range(len(self._slots)))
        while (due or self._alive) and not self._log.exists():
            for slot in sorted(due):
                self._start(slot)
            due = self._left()
            time.sleep(min(self.chance.expovariate(1 / BETWEEN), 1.0))
            self._go_on()
            self._disturb(next(disturbances, ""))
            self._look()
            if not due and not self._alive and not self._complete():
                due = set(range(len(self._slots)))
        if self._log.exists():  # what no worker should say; the rest does not matter
            for pid in self._alive:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self._say([self._log.read_text()])
            return
        made = files(self.out)
        self._say(f"{name} differs" for name in sorted(
            name for name in {*made, *self.truth.files[self.n]}
            if made.get(name) != self.truth.files[self.n].get(name)
        ))  # fmt: skip
        self._say(store.verify(self.out))

    def _start(self, slot: int) -> None:
        count = claims(self._claims) if self._counts else None
        worker = Worker(self._slots[slot], self.workers, count)
        pid = forked(lambda: generate(self.out, self.n, worker), self._log, self._full)
        self._alive[pid] = slot
        self.counted["starts"] += 1

    def _left(self) -> set[int]:
        """Slots whose worker is gone and must come again."""
        due = set()
        for pid, slot in list(self._alive.items()):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone == 0:
                continue
            del self._alive[pid]
            if status:  # otherwise it has done its part
                due.add(slot)
        return due

    def _complete(self) -> bool:
        with contextlib.suppress(store.Conflict):
            manifest = store.open_run(self.out).manifest
            return manifest["complete"] and manifest["n"] == self.n
        return False

    def _go_on(self) -> None:
        for pid, end in list(self._stopped.items()):
            if pid not in self._alive:
                del self._stopped[pid]
            elif time.monotonic() > end:
                os.kill(pid, signal.SIGCONT)
                del self._stopped[pid]
        if self._full.exists() and self.chance.random() < 0.5:
            self._full.unlink()

    def _disturb(self, what: str) -> None:
        if not what or not self._alive:
            if not what:
                self._full.unlink(missing_ok=True)
            return
        pid = self.chance.choice(sorted(self._alive))
        self.counted[what] += 1
        match what:
            case "kill":
                os.kill(pid, signal.SIGKILL)
            case "term":
                os.kill(pid, signal.SIGTERM)
            case "stop":
                os.kill(pid, signal.SIGSTOP)
                self._stopped[pid] = time.monotonic() + self.chance.uniform(0.0, 0.5)
            case "full":
                self._full.touch()
            case "agent":
                shutil.rmtree(self._claims, ignore_errors=True)

    def _look(self) -> None:
        """What must hold at every moment."""
        if not (self.out / "manifest.json").exists():
            return
        self.counted["looks"] += 1
        for path in self.out.glob("chunk-*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                found = path.name, hashlib.sha256(path.read_bytes()).hexdigest()
                if found not in self.truth.shards:
                    self._say([f"{path.name} is no shard"])
        self._say(
            line for line in store.verify(self.out) if not any(word in line for word in TOLERATED)
        )
        records, _ = read_records(self.out, CHUNK_ROWS)
        if lost := self._recorded - records.keys():
            self._say([f"chunks {sorted(lost)} are no longer recorded"])
        whole = {chunk for chunk, record in records.items() if not record.cut}
        self._recorded |= whole & self._needed  # a cut one is made again if the run is extended
        samples = store.open_run(self.out)
        seen = samples.ids[:]
        if len(seen) > self.n or not torch.equal(seen, self.truth.ids[: len(seen)]):
            self._say([f"{len(seen)} samples of {self.n} are not those that were expected"])

    def _say(self, lines: Iterator[str] | list[str]) -> None:
        self.wrong += [f"{self.out.name}, {self.n} samples: {line}" for line in lines]


def disturbances(
    seconds: float, kills: int | None, chance: random.Random, counted: Counter[str]
) -> Iterator[str]:
    """One after the other, until the time is over or so many were killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (kills is None or counted["kill"] < kills):
        yield "kill" if kills is not None else chance.choice(DISTURBANCES)


def soak(place: Path, seconds: float, kills: int | None, workers: int, seed: int) -> list[str]:
    """What went wrong. Prints what was done."""
    torch.set_num_threads(1)  # a child of threads would wait for them in vain
    os.fsync = lambda file: None  # here; workers have a slow one
    truth, chance, counted = Truth(place), random.Random(seed), Counter[str]()
    disturb, wrong = disturbances(seconds, kills, chance, counted), list[str]()
    while next(disturb, None) and not wrong:
        sizes = sorted(chance.sample(SIZES[1:], chance.randint(1, 2)))
        if chance.random() < 0.1:
            sizes = [SIZES[0]]
        out = place / f"job {counted['jobs']}"
        for n in sizes:  # the second extends the first
            job = Job(out, n, truth, chance, counted, workers)
            counted["jobs"] += 1
            job.run(disturb)
            wrong += job.wrong
            if wrong:
                break
        shutil.rmtree(out, ignore_errors=True)  # where nobody began there is none
    print(", ".join(f"{number:,} {name}" for name, number in sorted(counted.items())))
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as place:
        wrong = soak(Path(place), 60 * given.minutes, given.kills, given.workers, given.seed)
    for line in wrong[:20]:
        print(line)
    print("wrong" if wrong else "every job ended in the bytes of one process")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
