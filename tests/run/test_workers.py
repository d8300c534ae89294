"""Several workers, one after the other or at once, write the bytes of one process."""

import itertools
import sys

import pytest
import torch
from every_sampler import NAMES, quick, smooth
from runs import QUICK, conditional, contents, toy

import drs_fast as drs
from drs_fast import samplers, store
from drs_fast.run import clock, workers
from drs_fast.run.saving import Saving
from drs_fast.run.worker import Worker
from drs_fast.store import folder
from drs_fast.store.contributor import Contributor
from drs_fast.store.format import Conflict, read_records, shard_name
from drs_fast.store.writer import Writer

if sys.platform == "win32":
    pytest.skip("flock", allow_module_level=True)

N, ROWS = 1000, 256  # about 14 chunks


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    monkeypatch.setattr(folder.os, "fsync", lambda file: None)
    monkeypatch.setattr(folder, "PAUSE", 0.001)
    monkeypatch.setattr(workers, "PAUSE", 0.001)


def generate(out, n=N, worker=None, gan=toy, sampler=QUICK, **settings):
    settings = {"batch_size": 256, "chunk_rows": ROWS, "worker": worker, **settings}
    return drs.generate(gan(), sampler, n, out=out, **settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    made = {}

    def run(n=N, **settings):
        key = n, *settings.items()
        if key not in made:
            out = tmp_path_factory.mktemp("plain") / "run"
            generate(out, n, **settings)
            made[key] = contents(out)
        return made[key]

    return run


def complete(out):
    return store.open_run(out).manifest["complete"]


FLEETS = [
    ("1/1",),
    ("1/2", "2/2"),
    ("2/2", "1/2"),
    ("3/3", "1/3", "2/3"),
    ("1/2", "2/3", None),
    ("2/2", None),
    ("1/2", "1/2", "2/2", "2/2"),
]


@pytest.mark.parametrize("fleet", FLEETS, ids=map(str, FLEETS))
def test_workers_one_after_the_other(tmp_path, plain, fleet):
    for worker in fleet:
        generate(tmp_path / "run", worker=worker)
    assert contents(tmp_path / "run") == plain()
    assert store.verify(tmp_path / "run") == []


def ends():
    """n where a chunk ends, and beside it, and less than a chunk."""
    counts = [0, 1, 7]
    return [*counts, "exact - 1", "exact", "exact + 1"]


@pytest.mark.parametrize("n", ends())
def test_n_at_the_end_of_a_chunk_and_less_than_one(tmp_path, plain, n):
    if isinstance(n, str):
        generate(tmp_path / "longer")
        records, _ = read_records(tmp_path / "longer", ROWS)
        n = sum(records[k].count for k in range(3)) + int("0" + n[5:].replace(" ", "")[1:]) * (
            -1 if "-" in n else 1
        )
    for worker in ("2/3", "1/3", "3/3"):
        generate(tmp_path / "run", n, worker=worker)
    assert contents(tmp_path / "run") == plain(n)


def images():
    return drs.GAN(
        lambda z: torch.tanh(z).view(-1, 1, 2, 2), lambda x: 3.0 * x.mean(dim=(1, 2, 3)), 4
    )


def hill():
    return drs.GAN(
        lambda z: z, lambda x: 2.0 * x[:, 0] + x[:, 1].sin() - 0.2 * x.square().sum(dim=1), 4
    )


KINDS = {
    "labels": {"gan": conditional},
    "images": {"gan": images, "images": "uint8"},
    "weights": {"sampler": samplers.SIR(pool=64, size=8), "save": ("logit", "weight")},
    "clipped": {"sampler": samplers.DRS(burn_in=64), "save": ("ids", "logit")},
    "half": {"gan": images, "images": "float16", "save": ("x", "z")},
    "squeezed": {
        "gan": hill,
        "n": 30,
        "chunk_rows": 1024,
        "sampler": drs.Squeeze(
            samplers.DRS(gamma=0.0, burn_in=1024), tolerance=0.5, use_bound=True
        ),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run(tmp_path, plain, kind, monkeypatch):
    if kind == "squeezed":
        from drs_fast.squeeze import search
        from drs_fast.squeeze.bounds import latent

        monkeypatch.setattr(search, "ROWS", (1024,))
        monkeypatch.setattr(latent, "EPOCHS", 1)
        monkeypatch.setattr(latent, "LEAST_STEPS", 20)
    for worker in ("2/2", "1/2"):
        generate(tmp_path / "run", worker=worker, **KINDS[kind])
    assert contents(tmp_path / "run") == plain(**KINDS[kind])


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler(tmp_path, name):
    gan, settings = smooth(), {"batch_size": 256, "chunk_rows": 512}
    sampler = quick(name)
    plain = drs.generate(gan, sampler, 150, out=tmp_path / "plain", **settings)
    if getattr(sampler, "sequential", False):
        with pytest.raises(ValueError, match="takes one worker"):
            drs.generate(gan, sampler, 150, out=tmp_path / "run", worker="1/2", **settings)
        return
    for worker in ("2/2", "1/2"):
        drs.generate(gan, sampler, 150, out=tmp_path / "run", worker=worker, **settings)
    assert contents(tmp_path / "run") == contents(plain.path)


def test_a_run_that_workers_made_is_extended_by_workers_or_by_one(tmp_path, plain):
    for second in (("1/2", "2/2"), (None,), ("3/4", "1/4", "2/4", "4/4")):
        out = tmp_path / f"run {len(second)}"
        for n, fleet in ((150, ("2/2", "1/2")), (151, ("1/2", "2/2")), (N, second)):
            for worker in fleet:
                generate(out, n, worker=worker)
        assert contents(out) == plain()


def test_a_smaller_n_is_refused_and_a_larger_one_extends(tmp_path, plain):
    generate(tmp_path / "run", 600, worker="1/2")
    with pytest.raises(Conflict, match="a run of 600 samples"):
        generate(tmp_path / "run", 599, worker="2/2")
    generate(tmp_path / "run", N, worker="2/2")
    with pytest.raises(Conflict, match=f"a run of {N:,} samples"):
        generate(tmp_path / "run", 600, worker="1/2")
    generate(tmp_path / "run", N, worker="1/2")
    assert contents(tmp_path / "run") == plain()


def test_another_run_is_refused_and_changes_nothing(tmp_path, plain):
    generate(tmp_path / "run", worker="1/2")
    before = contents(tmp_path / "run")
    with pytest.raises(Conflict, match="seed"):
        generate(tmp_path / "run", worker="2/2", seed=1)
    with pytest.raises(Conflict, match="holds another run"):
        generate(tmp_path / "run", worker="2/2", sampler=samplers.DRS(burn_in=512))
    assert contents(tmp_path / "run") == before


def test_a_cut_shard_without_the_end_is_ended_by_a_worker(tmp_path, plain, monkeypatch):
    """One process was killed between its last shard and the end: nothing is left for workers."""

    def killed(self, summary):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "run")
    assert not complete(tmp_path / "run")
    generate(tmp_path / "run", worker="1/2")
    assert contents(tmp_path / "run") == plain()


@pytest.mark.parametrize("lost", [0, 3, "the last"])
@pytest.mark.parametrize("before_the_end", [True, False])
def test_a_lost_shard_is_made_again(tmp_path, plain, lost, before_the_end):
    generate(tmp_path / "run", worker="1/2")
    if not before_the_end:
        generate(tmp_path / "run", worker="2/2")
    chunk = max(read_records(tmp_path / "run", ROWS)[0]) if lost == "the last" else lost
    (tmp_path / "run" / shard_name(chunk)).unlink(missing_ok=True)
    for worker in ("2/2", "1/2"):
        generate(tmp_path / "run", worker=worker)
    assert contents(tmp_path / "run") == plain()


def counter():
    return itertools.count().__next__


def test_chunks_of_a_counter_are_made_once(tmp_path, plain, monkeypatch):
    """The second worker is started by the first one's third draw, so both write at once."""
    made, count, joined = [], counter(), []
    add = Contributor.append

    def spied(self, chunk, *given, **named):
        made.append(chunk)
        add(self, chunk, *given, **named)

    def draw():
        chunk = count()
        if chunk == 2:
            joined.append(count())
            generate(tmp_path / "run", worker="2/2")  # strides, and leaves because we are at work
            assert not complete(tmp_path / "run")
            assert store.verify(tmp_path / "run") == []
            assert len(store.open_run(tmp_path / "run")) <= N
        return chunk

    monkeypatch.setattr(Contributor, "append", spied)
    generate(tmp_path / "run", worker=Worker(1, 2, draw))
    assert joined
    assert len(made) == len(set(made))
    assert contents(tmp_path / "run") == plain()


def test_numbers_that_a_dead_worker_drew_are_filled_by_the_last(tmp_path, plain):
    count = counter()
    for _ in range(3):
        count()
    generate(tmp_path / "run", worker=Worker(2, 2, count))
    assert contents(tmp_path / "run") == plain()


def test_a_counter_that_begins_again_makes_nothing_twice(tmp_path, plain, monkeypatch):
    generate(tmp_path / "run", worker="1/2")
    made, add = [], Contributor.append

    def spied(self, chunk, *given, **named):
        made.append(chunk)
        add(self, chunk, *given, **named)

    monkeypatch.setattr(Contributor, "append", spied)
    generate(tmp_path / "run", worker=Worker(1, 3, counter()))
    assert made
    assert all(chunk % 2 for chunk in made)
    assert contents(tmp_path / "run") == plain()


def test_a_worker_joins_while_the_last_one_waits(tmp_path, plain, monkeypatch):
    """The one that waits for the lock ends the run when the others have gone."""
    out, waits = tmp_path / "run", []
    generate(out, worker="2/2")
    other = Contributor.open(out, _spec(out), N, lambda manifest, complete: {})

    def wait(self, seconds):
        waits.append(seconds)
        if len(waits) == 2:
            generate(out, worker="3/3")
            assert not complete(out)
        if len(waits) == 3:
            other.close()

    monkeypatch.setattr("drs_fast.run.schedule.Run.wait", wait)
    generate(out, worker=Worker(1, 2, counter()))
    assert len(waits) == 3
    assert contents(out) == plain()


def _spec(out):
    manifest = store.open_run(out).manifest
    return {key: manifest[key] for key in ("seed", "sampler", "save", "chunk_rows")}


def test_a_worker_that_has_no_more_time_says_so(tmp_path, plain, monkeypatch):
    """Also if others are still at work, so that nobody takes its part for done."""
    out, ticks = tmp_path / "run", itertools.count()
    generate(out, worker="3/3")
    with Contributor.open(out, _spec(out), N, lambda manifest, complete: {}):
        monkeypatch.setattr(clock, "now", lambda: float(next(ticks)))
        with pytest.raises(drs.OutOfTime, match=f"of {N:,} samples after max_seconds=2"):
            generate(out, worker="1/3", max_seconds=2)
        monkeypatch.undo()
    assert not complete(tmp_path / "run")
    for worker in ("1/3", "2/3"):
        generate(tmp_path / "run", worker=worker)
    assert contents(tmp_path / "run") == plain()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"sampler": samplers.DRS(burn_in=512, adapt="batch")}, "adapt='batch'"),
        ({"sampler": samplers.DRS(burn_in=512, classes="within"), "gan": conditional}, "quota"),
        ({"max_proposals": 10**6}, "max_proposals"),
    ],
)
def test_runs_whose_chunks_depend_on_each_other_take_one_worker(tmp_path, plain, settings, why):
    with pytest.raises(ValueError, match=why):
        generate(tmp_path / "many", 300, worker="1/2", **settings)
    generate(tmp_path / "one", 300, worker="1/1", **settings)
    assert contents(tmp_path / "one") == plain(300, **settings)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "", 3])
def test_what_is_no_worker(tmp_path, text):
    with pytest.raises(ValueError, match=r"worker|number|of"):
        generate(tmp_path / "run", worker=text)


def test_a_worker_needs_a_directory():
    with pytest.raises(ValueError, match="worker needs out"):
        drs.generate(toy(), QUICK, 10, worker="1/2")


def test_a_new_counter_gives_no_chunk_that_is_still_being_written():
    class Beside:
        n, records = 8 * 100, {}  # nothing is recorded yet

        def refresh(self):
            return 0

    numbers = itertools.chain(range(3), range(8))
    worker = Worker(1, 1, count=lambda: next(numbers, None), stays=True)
    assert list(workers.claimed(Beside(), worker, 100.0, lambda n: None)) == list(range(8))


def test_thousands_of_chunks_are_skipped_without_a_look_at_the_disk(tmp_path, monkeypatch):
    """The directory is looked at before a chunk is made, not before one is skipped."""
    out = tmp_path / "run"
    generate(out, worker="1/2")
    looks, refresh = [], Contributor.refresh

    def looked(self):
        looks.append(1)
        return refresh(self)

    monkeypatch.setattr(Contributor, "refresh", looked)
    generate(out, worker="1/2")
    assert len(looks) <= 3


def test_a_worker_that_left_early_is_helped_but_not_one_that_never_came(
    tmp_path, plain, monkeypatch
):
    """It had seen few records, and expected fewer chunks to be enough."""
    monkeypatch.setattr(workers, "enough", lambda records, n, expected: 9)
    generate(tmp_path / "run", worker="1/2")
    assert not complete(tmp_path / "run")  # 0, 2, 4, 6, 8 are there
    monkeypatch.undo()
    assert workers.few(Worker(1, 2), 5) == 2
    generate(tmp_path / "run", worker="2/2")
    assert contents(tmp_path / "run") == plain()
    assert [workers.few(Worker(1, 8), chunks) for chunks in (0, 100, 1600)] == [8, 8, 100]


def test_workers_leave_surplus_chunks_and_the_last_drops_them(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(workers, "enough", lambda records, n, expected: 20)
    generate(tmp_path / "run", worker="1/2")
    assert max(read_records(tmp_path / "run", ROWS)[0]) == 18
    generate(tmp_path / "run", worker="2/2")
    assert contents(tmp_path / "run") == plain()


def test_the_last_fills_only_what_is_missing(tmp_path, plain, monkeypatch):
    generate(tmp_path / "run", worker="1/2")
    chunks, make_whole = [], Saving.make_whole

    def spied(self, writer, missing, bar):
        missing = list(missing)
        chunks.extend(missing)
        make_whole(self, writer, missing, bar)

    monkeypatch.setattr(Saving, "make_whole", spied)
    generate(tmp_path / "run")
    assert chunks
    assert all(chunk % 2 for chunk in chunks)
    assert contents(tmp_path / "run") == plain()
