"""A run as on a GPU, where the host reads late, emulated on the CPU; collecting and writing."""

import itertools
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from late import gpu
from runs import QUICK, Counted, columns, conditional, equal, files, toy

import drs_fast as drs
from drs_fast import Rng, ops, store
from drs_fast.run import collected, forecast, pages, shards, steps
from drs_fast.run.collected import Collected
from drs_fast.run.forecast import Forecast
from drs_fast.samplers.drs import DRS
from drs_fast.store import folder

MODELS = {
    "toy": (toy, 3000),
    "conditional": (conditional, 2500),
    "25gaussians": (lambda: drs.load("25gaussians"), 1500),
}
EVERY, RARE = DRS(gamma=-600.0, burn_in=2048), DRS(target_acceptance=2e-3, burn_in=2048)


@pytest.fixture(autouse=True)
def every_run_earns_a_graph(monkeypatch):
    monkeypatch.setattr(forecast, "EARNS", 0)


@pytest.fixture(autouse=True)
def whole_steps(monkeypatch):
    """The last step is no smaller than the others, as on a GPU."""
    monkeypatch.setattr(Forecast, "few", lambda forecast, tried, again: forecast.step_rows)


@contextmanager
def no_gpu():
    yield


def same(found, expected):
    return equal(found, expected) and found.stats == expected.stats


# --- the same samples as without a lag


@pytest.mark.parametrize("batch_size", [1, 700, 4096])
@pytest.mark.parametrize("model", MODELS)
def test_late_reads_change_nothing(model, batch_size):
    make, n = MODELS[model]
    n *= 4 if batch_size == 4096 else 1  # several steps
    expected = drs.generate(make(), QUICK, n, seed=11, batch_size=batch_size)
    with gpu() as graphs:
        found = drs.generate(make(), QUICK, n, seed=11, batch_size=batch_size)
    assert same(found, expected)
    assert graphs.captures == 1
    assert graphs.replays > 1


@pytest.mark.parametrize("sampler", [EVERY, RARE, DRS(log_m=0.5, gamma=2.0, burn_in=2048)])
@pytest.mark.parametrize("batch_size", [256, 768])
@pytest.mark.parametrize("graph", [True, False])
def test_the_ring_begins_again_and_again(sampler, batch_size, graph):
    n = 20 if sampler is RARE else 9000
    settings = {"seed": 3, "batch_size": batch_size, "cuda_graph": graph}
    expected = drs.generate(toy(), sampler, n, **settings)
    with gpu() as graphs:
        found = drs.generate(toy(), sampler, n, **settings)
    assert same(found, expected)
    assert graphs.captures == graph
    if sampler is EVERY:
        assert int(found.stats["calls"]) == -(-n // batch_size) * batch_size
    if sampler.log_m == 0.5:
        assert int(found.stats["above"]) > 0


@pytest.mark.parametrize("batch_size", [256, 768])
@pytest.mark.parametrize("sampler", [QUICK, EVERY, RARE])
@pytest.mark.parametrize("make", [toy, conditional])
def test_a_stream_owns_its_batches(make, sampler, batch_size):
    def batches():
        stream = drs.stream(make(), sampler, seed=4, batch_size=batch_size)
        return list(itertools.islice(stream, 20))

    expected = batches()
    with gpu() as graphs:
        found = batches()
    assert all(map(same, found, expected))
    assert graphs.captures == 1
    assert graphs.replays > 15


def test_counts_are_those_of_all_rows_that_were_called():
    def critic(x):
        return torch.where(x[:, 1] > 3.8, torch.nan, x[:, 0])

    gan, sampler = drs.GAN(lambda z: z, critic, 2), DRS(log_m=2.0, gamma=2.0, burn_in=2048)
    expected = drs.generate(gan, sampler, 3000, seed=1, batch_size=256)
    with gpu():
        found = drs.generate(gan, sampler, 3000, seed=1, batch_size=256)
    assert same(found, expected)
    calls = int(found.stats["calls"])
    logit = gan.logits(ops.latents(gan, Rng(1), calls))[1]
    assert calls == -(-(int(found.ids[-1]) + 1) // 256) * 256
    assert int(found.stats["invalid"]) == int(logit.isnan().sum()) > 0
    assert int(found.stats["above"]) == int((logit > 2.0).sum()) > 0


def test_too_many_invalid_logits_stop_late_runs_at_the_same_step():
    def critic(x):
        return torch.where(x[:, 1] > 3.0, torch.nan, x[:, 0])

    def words():
        with pytest.raises(drs.BadLogits) as bad:
            drs.generate(drs.GAN(lambda z: z, critic, 2), QUICK, 9000, batch_size=256)
        return str(bad.value)

    expected = words()
    with gpu():
        assert words() == expected


@pytest.mark.parametrize(
    "limits",
    [{"max_proposals": 1000}, {"max_proposals": 5 * 256}, {"patience": 1}, {"patience": 600}],
)
def test_a_run_that_starves_says_the_same(limits):
    def starved():
        with pytest.raises(drs.Starvation) as hunger:
            drs.generate(toy(), RARE, 500, seed=2, batch_size=256, **limits)
        return str(hunger.value), hunger.value.partial

    words, partial = starved()
    with gpu():
        late_words, late_partial = starved()
    assert late_words == words
    assert same(late_partial, partial)


def test_nothing_is_launched_for_no_samples():
    with gpu() as graphs:
        batch = drs.generate(toy(), QUICK, 0)
    assert int(batch.count) == 0
    assert not graphs.readings


def test_one_sample():
    expected = drs.generate(toy(), QUICK, 1, seed=4)
    with gpu():
        assert same(drs.generate(toy(), QUICK, 1, seed=4), expected)


def test_a_sampler_with_a_changing_state_lags_too():
    sampler = DRS(adapt="batch", burn_in=1000)
    expected = drs.generate(conditional(), sampler, 3000, seed=1, batch_size=256)
    with gpu() as graphs:
        found = drs.generate(conditional(), sampler, 3000, seed=1, batch_size=256)
    assert same(found, expected)
    assert graphs.captures == 0
    assert max(graphs.readings[0].lags) == steps.IN_FLIGHT


def test_a_gpu_knows_the_rows_by_itself():
    """Between whole steps in order the host writes nothing to the ring."""
    filled = []
    fill = torch.Tensor.fill_
    with gpu(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "fill_", lambda t, v: filled.append(v) or fill(t, v))
        drs.generate(toy(), DRS(log_m=1.0, gamma=0.0), 100, batch_size=256)
    assert [value for value in filled if value == 256] == []


# --- graphs that fail


def refused(call, ring):
    raise RuntimeError("operation not permitted\nwhen the stream is capturing")


def broken_off(call, ring):
    call()
    raise ValueError("operation not permitted")


def spoiling(call, ring, tensor):
    def replay():
        start = int(ring.cursor)
        call()
        tensor[torch.arange(start, int(ring.cursor)) % len(tensor)] += 1

    return replay


def wrong_sample(call, ring):
    return spoiling(call, ring, ring.rows[0])


def wrong_logit(call, ring):
    return spoiling(call, ring, ring.logit)


def wrong_row(call, ring):
    return lambda: call() or ring.row.add_(1)


def no_call(call, ring):
    return lambda: None


WRONG = dict.fromkeys((wrong_sample, wrong_logit, wrong_row, no_call), "other bytes")
FAULTS = {refused: r"\(operation not permitted\)", broken_off: "operation not permitted", **WRONG}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("make", [toy, conditional])
def test_a_graph_that_fails_is_given_up_once_and_aloud(make, fault):
    expected = drs.generate(make(), QUICK, 2500, seed=7, batch_size=256)
    with gpu(fault) as graphs, pytest.warns(UserWarning, match=FAULTS[fault]) as warned:
        found = drs.generate(make(), QUICK, 2500, seed=7, batch_size=256)
    assert same(found, expected)
    assert len(warned) == graphs.captures == 1
    assert "so they are called" in str(warned[0].message)


def test_a_generator_that_draws_random_numbers_is_not_captured():
    def generator(z):
        return torch.cat([z, torch.rand(len(z), 1)], dim=1)

    gan = drs.GAN(generator, lambda x: x[:, 0], 2, noise="own")
    expected = drs.generate(gan, QUICK, 2500, seed=7, batch_size=256)
    with gpu(), pytest.warns(UserWarning, match="random numbers") as warned:
        found = drs.generate(gan, QUICK, 2500, seed=7, batch_size=256)
    assert len(warned) == 1
    for name in ("ids", "z", "logit"):
        assert torch.equal(columns(found)[name], columns(expected)[name])
    assert torch.equal(found.x[:, :2], found.z)


@pytest.mark.parametrize("fault", [wrong_sample, wrong_logit])
def test_a_wrong_graph_is_noticed_where_few_rows_are_accepted(fault):
    expected = drs.generate(toy(), RARE, 20, seed=3, batch_size=256)
    with gpu(fault), pytest.warns(UserWarning, match="other bytes"):
        found = drs.generate(toy(), RARE, 20, seed=3, batch_size=256)
    assert same(found, expected)


def test_each_run_tries_a_graph_anew():
    with gpu() as graphs:
        for _ in range(2):
            drs.generate(toy(), QUICK, 1000, batch_size=256)
    assert graphs.captures == 2


# --- directories


def save(out, n=2000, make=toy, sampler=QUICK, **settings):
    settings = {"seed": 8, "batch_size": 768, "chunk_rows": 1024, **settings}
    return drs.generate(make(), sampler, n, out=out, save=("x", "z", "logit"), **settings)


@pytest.mark.parametrize("make", [toy, conditional])
@pytest.mark.parametrize("sampler", [QUICK, EVERY])
@pytest.mark.parametrize(
    ("batch_size", "chunk_rows"), [(256, 256), (768, 1024), (4096, 512), (512, None)]
)
def test_late_reads_change_no_file(tmp_path, make, sampler, batch_size, chunk_rows):
    settings = {
        "make": make, "sampler": sampler, "batch_size": batch_size, "chunk_rows": chunk_rows,
        "n": 4000,
    }  # fmt: skip
    save(tmp_path / "direct", **settings)
    with gpu() as graphs:
        save(tmp_path / "late", **settings)
    assert files(tmp_path / "late") == files(tmp_path / "direct")
    assert graphs.captures == (chunk_rows != 512)  # there every step is a chunk's last


@pytest.mark.parametrize("sampler", [QUICK, EVERY, DRS(target_acceptance=0.01, burn_in=2048)])
@pytest.mark.parametrize("missing", [(0,), (1,), (1, 2), (0, 2)])
def test_holes_are_filled(tmp_path, sampler, missing):
    settings = {"sampler": sampler, "n": 30 if sampler.target_acceptance else 3000}
    save(tmp_path / "direct", **settings)
    with gpu():
        save(tmp_path / "late", **settings)
        for chunk in missing:
            (tmp_path / "late" / f"chunk-{chunk:08d}.safetensors").unlink()
        assert len(store.repair(tmp_path / "late")) == len(missing)
        assert store.open_run(tmp_path / "late").manifest["complete"] is False
        save(tmp_path / "late", **settings)
    assert files(tmp_path / "late") == files(tmp_path / "direct")
    assert store.verify(tmp_path / "late") == []


def test_a_larger_n_goes_on_late(tmp_path):
    save(tmp_path / "direct", 3000)
    with gpu():
        for n in (0, 1, 700, 3000):
            save(tmp_path / "late", n)
    assert files(tmp_path / "late") == files(tmp_path / "direct")


def test_a_starved_run_goes_on_late(tmp_path):
    save(tmp_path / "direct", 3000)
    with gpu():
        with pytest.raises(drs.Starvation):
            save(tmp_path / "late", 3000, max_proposals=2500)
        assert store.open_run(tmp_path / "late").counts
        save(tmp_path / "late", 3000)
    assert files(tmp_path / "late") == files(tmp_path / "direct")


# --- the thread that writes


def spied_append(monkeypatch, before):
    append = store.Writer.append

    def spy(writer, chunk, *rest, **named):
        before(chunk)
        append(writer, chunk, *rest, **named)

    monkeypatch.setattr(store.Writer, "append", spy)


@pytest.mark.parametrize("device", [no_gpu, gpu])
@pytest.mark.parametrize("bad", [0, 2, -1])
def test_an_error_of_the_disk_is_raised_and_loses_nothing(tmp_path, device, bad):
    direct = save(tmp_path / "direct")
    bad %= len(direct.counts)

    def full(chunk):
        if chunk == bad:
            raise OSError(28, "no space", "a shard")

    out = tmp_path / "run"
    with device():
        with pytest.MonkeyPatch.context() as patch:
            spied_append(patch, full)
            with pytest.raises(OSError, match="no space") as error:
                save(out)
        assert error.value.filename == "a shard"
        recorded = store.format.read_records(out, None)[0]
        assert set(recorded) == set(range(bad))
        before = files(out)
        save(out)
    after = files(out)
    assert after == files(tmp_path / "direct")
    assert all(after[name] == sha for name, sha in before.items() if name.startswith("chunk"))


@pytest.mark.parametrize("device", [no_gpu, gpu])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_a_generator_that_is_interrupted_leaves_a_directory_to_resume(tmp_path, device, kind):
    def make():
        return drs.GAN(lambda z: torch.atleast_2d(z), lambda x: x[:, 0], 2)

    save(tmp_path / "direct", make=make)
    out, calls = tmp_path / "run", itertools.count()
    plain = torch.atleast_2d

    def interrupted(z):
        if next(calls) == 14:
            raise kind
        return plain(z)

    with device():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "atleast_2d", interrupted)
            with pytest.raises(kind):
                save(out, make=make)
        assert store.format.read_records(out, None)[0]
        assert store.verify(out) == []
        save(out, make=make)
    assert files(out) == files(tmp_path / "direct")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_slow_disk_holds_up_the_run_at_one_more_shard_than_threads(
    tmp_path, monkeypatch, threads
):
    for module in (shards, folder):
        monkeypatch.setattr(module, "THREADS", threads)
    filled = threads + 1
    made, seen = Counted(lambda z: z), []
    burn_in, probe, chunk, step = 2048, 256 + 2 * 128, 1024, 256
    save(tmp_path / "direct", make=lambda: drs.GAN(lambda z: z, lambda x: x[:, 0], 2), n=2000)

    def rows():
        return made.rows - burn_in - probe

    def slow(number):
        if number == 0:
            end = time.monotonic() + 20
            while rows() < filled * chunk + step and time.monotonic() < end:
                time.sleep(0.001)
            time.sleep(0.2)
            seen.append(rows())

    spied_append(monkeypatch, slow)
    gan = drs.GAN(made, lambda x: x[:, 0], 2)
    samples = save(tmp_path / "slow", make=lambda: gan, batch_size=step)
    # It waits with the first step of the next, which has several batches.
    assert filled * chunk < seen[0] <= (filled + 1) * chunk
    for name in ("ids", "x", "z", "logit"):
        direct = store.open_run(tmp_path / "direct").column(name)[:]
        assert torch.equal(samples.column(name)[:], direct)


@pytest.mark.parametrize("device", [no_gpu, gpu])
def test_a_shard_that_waits_for_the_disk_stays_as_it_is(tmp_path, monkeypatch, device):
    kept = []

    def counted(*arguments, **named):
        kept.append(Collected(*arguments, **named))
        return kept[-1]

    save(tmp_path / "direct")
    monkeypatch.setattr(shards, "Collected", counted)
    spied_append(monkeypatch, lambda chunk: time.sleep(0.03))
    with device():
        save(tmp_path / "slow")
    assert files(tmp_path / "slow") == files(tmp_path / "direct")
    assert len(kept) == 1 + 2000 // 1024 + 1  # n fills at least two, beside the next


# --- collecting


def pieces(count, first=0):
    ids = torch.arange(first, first + count)
    return {"ids": ids, "x": torch.stack([ids, -ids], dim=1).float()}


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("first", [None, 0, 1, 5, 64])
def test_growing_keeps_the_rows(on_host, first):
    rows = Collected(pieces(1), 64, first=first, on_host=on_host)
    assert rows.tensors()["x"].shape == (0, 2)
    for sizes in ((1,), (3, 0), (), (2, 7, 1), (30,), (20,)):
        begin = rows.count
        given = []
        for size in sizes:
            given.append(pieces(size, begin))
            begin += size
        rows.add(given)
        for piece in given:  # what comes after may overwrite them
            for tensor in piece.values():
                tensor.fill_(-7)
        assert rows.count == begin
        for name, expected in pieces(begin).items():
            assert torch.equal(rows.tensors()[name], expected)
    assert rows.count == 64


def test_clearing_keeps_the_room():
    rows = Collected(pieces(1), 100, first=1)
    rows.add([pieces(40)])
    room = rows.tensors()["x"].data_ptr()
    rows.clear()
    assert [len(tensor) for tensor in rows.tensors().values()] == [0, 0]
    rows.add([pieces(40, 5)])
    assert rows.tensors()["x"].data_ptr() == room
    assert torch.equal(rows.tensors()["ids"], torch.arange(5, 45))


def test_there_is_no_more_room_than_the_capacity():
    rows = Collected(pieces(1), 10, first=4)
    rows.add([pieces(6), pieces(3, 6)])
    assert rows.tensors()["ids"].untyped_storage().nbytes() == 8 * 10
    rows.add([pieces(1, 9)])
    assert torch.equal(rows.tensors()["ids"], torch.arange(10))


class Late:
    """Copies from a GPU, which are made when the host waits for them."""

    def __init__(self):
        self.pending = []

    def copy_aside(self, targets, copied):
        assert copied is self
        self.pending += [(target, source.clone()) for target, source in targets]

    def synchronize(self):
        for target, source in self.pending:
            target.copy_(source)
        self.pending.clear()


def test_rows_that_are_still_being_copied_are_waited_for(monkeypatch):
    new_empty, late = torch.Tensor.new_empty, Late()
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda like, shape, pin_memory: new_empty(like, shape)
    )
    monkeypatch.setattr(collected, "_copy_aside", late.copy_aside)
    rows = Collected(pieces(1), 64, first=2, on_host=True)
    rows._copied = late
    for begin in range(0, 60, 3):
        rows.add([pieces(2, begin), pieces(1, begin + 2)])
    assert torch.equal(rows.tensors()["ids"], torch.arange(60))
    rows.clear()
    rows.add([pieces(4, 7)])
    assert torch.equal(rows.tensors()["x"], pieces(4, 7)["x"])


# --- freed pages


@pytest.fixture
def kept(monkeypatch):
    calls = []
    monkeypatch.setattr(pages.cpu, "keep_pages", calls.append)
    return calls


def test_blocks_within_blocks_keep_pages_once(kept):
    with pages.kept():
        with pages.kept():
            assert kept == [True]
        assert kept == [True]
    assert kept == [True, False]
    with pages.kept():
        assert kept == [True, False, True]


def test_pages_are_kept_until_the_last_thread_is_done(kept):
    inside, over = threading.Barrier(3), threading.Event()

    def run():
        with pages.kept():
            inside.wait(20)
            over.wait(20)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    with pages.kept():
        inside.wait(20)
    assert kept == [True]
    over.set()
    for thread in threads:
        thread.join()
    assert kept == [True, False]


@pytest.mark.parametrize("sampler", [QUICK, RARE])
def test_a_run_keeps_pages_until_it_ends(kept, tmp_path, sampler):
    for out in (None, tmp_path / "run"):
        kept.clear()
        try:
            drs.generate(toy(), sampler, 100, batch_size=256, max_proposals=2048, out=out)
        except drs.Starvation:
            assert sampler is RARE
        assert kept == [True, False]


def test_a_stream_keeps_pages_until_it_is_closed(kept):
    stream = drs.stream(toy(), QUICK, batch_size=256)
    assert kept == []
    next(stream)
    assert kept == [True]
    stream.close()
    assert kept == [True, False]


def test_wrong_arguments_do_not_keep_pages(kept):
    with pytest.raises(ValueError, match="save"):
        drs.generate(toy(), QUICK, 5, save=("w",))
    assert kept.count(True) == kept.count(False)


# --- appending


def poisoned(logit, *rows, **settings):
    ring = ops.ring(logit, *rows, rng=Rng(9, 2**40), log_m=2.0, **settings)
    for tensor in (*ring.rows, ring.ids, ring.logit):
        tensor.fill_(77)
    return ring


def contents(ring):
    return (*ring.rows, ring.ids, ring.logit, ring.state)


def batch(generator, n):
    logit = 3.0 * torch.randn(n, generator=generator)
    logit[torch.rand(n, generator=generator) < 0.02] = torch.nan
    pixels = torch.randint(0, 255, (n, 3, 2), generator=generator).to(torch.uint8)
    return logit, torch.randn(n, 5, generator=generator), pixels


THRESHOLDS = {
    "numbers": {"log_m": 1.0, "gamma": -2.0, "eps": 1e-3},
    "the ring's": {"gamma": 0.5},
    "tensors": {"log_m": torch.tensor(1.5), "gamma": torch.tensor(-1.0)},
    "all": {"gamma": -600.0},
}


@pytest.mark.parametrize("limit", [2**62, 700, 0])
@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("seed", range(3))
def test_appending_is_accept_append(threshold, limit, seed):
    """With random batch sizes, in rings that begin again, on two backends: every byte."""
    chance, threshold = torch.Generator().manual_seed(seed), THRESHOLDS[threshold]
    largest = int(torch.randint(1, 90, (1,), generator=chance))
    like = batch(chance, largest)
    capacity = 1 << (largest - 1).bit_length()
    rings = [poisoned(*like, capacity=capacity, limit=limit) for _ in range(4)]
    appends = []
    for name, ring in zip(("cpu", "reference"), rings, strict=False):
        with drs.backend(name):
            appends.append(ops.appending(ring, **threshold))
    for _ in range(25):
        logit, *rows = batch(chance, int(torch.randint(0, largest + 1, (1,), generator=chance)))
        for append, ring in zip(appends, rings, strict=False):
            assert append(logit, *rows) is ring
        for name, ring in zip(("cpu", "reference"), rings[2:], strict=True):
            with drs.backend(name):
                ops.accept_append(logit, *rows, ring=ring, **threshold)
        for ring in rings[1:]:
            assert all(map(torch.equal, contents(ring), contents(rings[0])))
    assert int(rings[0].cursor) <= limit
    assert limit < 2**62 or int(rings[0].cursor) > capacity


def strided(logit, x, pixels):
    return torch.stack([logit, logit], dim=1)[:, 0], x.t().contiguous().t(), pixels.flip(0)


def negated(logit, x, pixels):
    return torch._neg_view(-logit), torch._neg_view(-x), pixels


def with_gradients(logit, x, pixels):
    return logit.requires_grad_(), x.requires_grad_(), pixels


def spaced(logit, x, pixels):
    return logit, torch.cat([x, x], dim=1)[:, :5], pixels


@pytest.mark.parametrize("change", [strided, negated, with_gradients, spaced])
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_appending_takes_what_accept_append_takes(name, change):
    chance = torch.Generator().manual_seed(1)
    like = batch(chance, 50)
    with drs.backend(name):
        ring, expected = (poisoned(*like, capacity=64) for _ in range(2))
        append = ops.appending(ring, gamma=-2.0)
        for _ in range(5):
            logit, *rows = change(*batch(chance, 50))
            append(logit, *rows)
            ops.accept_append(logit, *rows, ring=expected, gamma=-2.0)
            assert all(map(torch.equal, contents(ring), contents(expected)))
    assert int(ring.cursor) > 64
    assert not any(tensor.requires_grad for tensor in contents(ring))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logit, x, p: (logit.double(), x, p), "ring.logit must be"),
        (lambda logit, x, p: (logit, x.double(), p), r"ring.rows\[0\] must be .* torch.float64"),
        (lambda logit, x, p: (logit, x[:, :4], p), r"ring.rows\[0\] must be"),
        (lambda logit, x, p: (logit, x), "with 1 row tensors"),
        (lambda logit, x, p: (logit, x, p, p), "with 3 row tensors"),
        (lambda logit, x, p: (logit, x, p[:-1]), r"rows\[1\] must be \(50, ...\)"),
        (lambda logit, x, p: (logit[:-1], x, p), r"rows\[0\] must be \(49, ...\)"),
        (lambda logit, x, p: tuple(torch.cat([t, t]) for t in (logit, x, p)), "at most 50 rows"),
        (lambda logit, x, p: (logit[:, None], x, p), r"logit must be \(N,\)"),
        (lambda logit, x, p: (logit.long(), x, p), "logit must be a floating-point tensor"),
    ],
)
def test_appending_refuses_what_does_not_fit(change, words):
    given = batch(torch.Generator().manual_seed(2), 50)
    ring = poisoned(*given, capacity=64)
    before = [tensor.clone() for tensor in contents(ring)]
    append = ops.appending(ring, gamma=-2.0)
    with pytest.raises(ValueError, match=words):
        append(*change(*given))
    assert all(map(torch.equal, contents(ring), before))
