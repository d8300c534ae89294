"""A run that is out of time leaves what an interruption leaves, and goes on from there."""

import itertools
from collections import namedtuple

import pytest
import torch
from hills import EXACT, hill
from late import gpu
from runs import conditional, files, toy

import drs_fast as drs
from drs_fast import samplers, store
from drs_fast.run import clock
from drs_fast.squeeze import search
from drs_fast.squeeze.bounds import latent

PLAIN = samplers.DRS(burn_in=1024)
RARE = samplers.DRS(target_acceptance=2e-3, burn_in=1024)
NEVER = 10**9


class Clock:
    """Each time it is asked, a second has passed: once before a chunk or, in memory, a step."""

    def __init__(self):
        self.time, self.interrupts_at = 0, NEVER

    def now(self):
        self.time += 1
        if self.time == self.interrupts_at:
            raise KeyboardInterrupt
        return self.time


@pytest.fixture(autouse=True)
def ticks(monkeypatch):
    made = Clock()
    monkeypatch.setattr(clock, "now", made.now)
    return made


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Bounds are fitted in a hurry."""
    monkeypatch.setattr(search, "ROWS", (1024,))
    monkeypatch.setattr(latent, "EPOCHS", 1)
    monkeypatch.setattr(latent, "LEAST_STEPS", 20)


def real():
    gan = toy()
    rows = torch.linspace(-1, 1, 4096).view(-1, 2)
    return drs.GAN(gan.generator, gan.discriminator, 2, real=rows)


Kind = namedtuple("Kind", "gan sampler n rows")
KINDS = {
    "plain": Kind(toy, PLAIN, 400, 256),
    "labels": Kind(conditional, samplers.DRS(burn_in=1024, classes="within"), 300, 256),
    "MH": Kind(
        real, samplers.MH(chain_length=8, burn_in=1024), 600, 1024
    ),  # several steps in a chunk
    "squeezed": Kind(hill, drs.Squeeze(EXACT, tolerance=0.5, use_bound=True), 60, 1024),
}


def save(kind, out, **settings):
    return drs.generate(
        kind.gan(), kind.sampler, kind.n, seed=3, batch_size=256, chunk_rows=kind.rows, out=out,
        **settings,
    )  # fmt: skip


def stopped(kind, out, seconds):
    """The error of a call that has so many seconds, or None if it came to the end."""
    try:
        save(kind, out, max_seconds=seconds)
    except drs.OutOfTime as stop:
        return stop
    return None


# --- on disk


@pytest.mark.parametrize("seconds", [(1,), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_pieces_end_in_the_bytes_of_one_run(tmp_path, kind, seconds):
    whole, out = save(kind, tmp_path / "whole"), tmp_path / "run"
    chunks, there = len(whole.counts), 0
    for new, given in zip(
        itertools.chain([True], itertools.repeat(False)), itertools.cycle(seconds)
    ):
        stop = stopped(kind, out, given)
        there += given - new  # the first question of a new run comes after burn-in
        if there >= chunks:
            break
        samples = drs.open(out)
        assert str(stop) == (
            f"{len(samples)} of {kind.n} samples after max_seconds={given}; run the same again to "
            f"go on in {out}"
        )
        assert samples.manifest["complete"] is False
        assert samples.counts == whole.counts[:there]
        assert store.verify(out) == []
    assert stop is None
    assert chunks > 4
    assert files(out) == files(tmp_path / "whole")
    assert len(save(kind, out, max_seconds=1)) == kind.n  # complete, whatever the time


@pytest.mark.parametrize("seconds", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_there_is_what_an_interruption_leaves(tmp_path, ticks, kind, seconds):
    assert stopped(kind, tmp_path / "stopped", seconds)
    ticks.time, ticks.interrupts_at = 0, seconds + 1
    with pytest.raises(KeyboardInterrupt):
        save(kind, tmp_path / "interrupted", max_seconds=NEVER)
    assert files(tmp_path / "stopped") == files(tmp_path / "interrupted")


def test_burn_in_is_kept_even_if_the_time_is_over_by_then(tmp_path, monkeypatch):
    kind, out = KINDS["plain"], tmp_path / "run"
    assert "0 of 400 samples" in str(stopped(kind, out, 1))
    assert len(drs.open(out)) == 0
    monkeypatch.setattr(samplers.DRS, "init", lambda *given: pytest.fail("burn-in again"))
    assert len(save(kind, out)) == kind.n


def test_no_time_is_no_limit_of_what_is_made_in_a_call(tmp_path, ticks):
    kind, out = KINDS["plain"], tmp_path / "run"
    for there in range(4):
        ticks.time = 0
        assert stopped(kind, out, 1e-9)
        assert len(drs.open(out).counts) == there


def test_with_steps_in_flight(tmp_path):
    """It ends after the last chunk that was begun, and well if that has the last sample."""
    kind = KINDS["plain"]
    chunks = len(save(kind, tmp_path / "whole").counts)
    ended = []
    for seconds in range(1, chunks + 3):
        out = tmp_path / str(seconds)
        with gpu():
            stop = stopped(kind, out, seconds)
            ended.append(stop is None)
            if stop:
                assert len(drs.open(out).counts) == seconds - 1
                assert len(drs.open(out)) < kind.n
                save(kind, out)
        assert files(out) == files(tmp_path / "whole")
    assert ended == [False] * chunks + [True, True]


def test_holes_are_filled_piece_by_piece(tmp_path):
    """The time is over before an empty chunk, when all n samples are there already."""
    kind, out = Kind(toy, RARE, 20, 256), tmp_path / "run"
    counts = save(kind, out).counts
    whole = files(out)
    full = next(i for i, count in enumerate(counts) if count)
    empty = next(i for i in range(full, len(counts)) if not counts[i])
    for i in (full, empty):
        (out / f"chunk-{i:08}.safetensors").unlink()
    store.repair(out)
    assert "20 of 20 samples" in str(stopped(kind, out, 1))
    assert not drs.open(out).manifest["complete"]
    assert stopped(kind, out, 1) is None
    assert files(out) == whole


def test_a_run_that_cannot_go_on_is_refused_at_once(tmp_path):
    sampler = samplers.DRS(adapt="batch", burn_in=1024)
    with pytest.raises(ValueError, match="max_seconds needs a run that can be resumed"):
        drs.generate(toy(), sampler, 100, out=tmp_path / "run", max_seconds=60)
    assert not (tmp_path / "run").exists()
    assert drs.generate(toy(), sampler, 100, max_seconds=60).count == 100


def test_a_disk_that_is_full_is_told_before_the_time(tmp_path, monkeypatch):
    def append(*given, **named):
        raise OSError(28, "No space left on device", "a shard")

    monkeypatch.setattr(store.Writer, "append", append)
    with pytest.raises(OSError, match="No space"):
        save(KINDS["plain"], tmp_path / "run", max_seconds=2)


# --- in memory


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_in_memory_the_error_has_the_first_samples(kind):
    def generate(**settings):
        return drs.generate(kind.gan(), kind.sampler, 9_000, seed=3, batch_size=256, **settings)

    whole, found = generate(), []
    for seconds in (1, 2, 3):
        with pytest.raises(drs.OutOfTime, match="raise it, or write to a directory") as stop:
            generate(max_seconds=seconds)
        partial = stop.value.partial
        count = int(partial.count)
        found.append(count)
        assert torch.equal(partial.ids, whole.ids[:count])
        assert torch.equal(partial.x, whole.x[:count])
        assert f"{count:,} of 9,000 samples after max_seconds={seconds};" in str(stop.value)
    assert found[0] == 0 < found[1] < found[2]


def test_with_steps_in_flight_in_memory():
    whole, ended = drs.generate(toy(), PLAIN, 2_000, seed=3, batch_size=256), set()
    for seconds in range(1, 30):
        with gpu():
            try:
                found = drs.generate(
                    toy(), PLAIN, 2_000, seed=3, batch_size=256, max_seconds=seconds
                )
            except drs.OutOfTime as stop:
                found = stop.partial
                assert len(found.ids) < 2_000
                ended.add(False)
            else:
                ended.add(True)
        assert torch.equal(found.ids, whole.ids[: len(found.ids)])
    assert ended == {False, True}
