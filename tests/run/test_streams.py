"""Samples for training and evaluation: split over processes, in any order, never twice."""

import copy
import itertools
import pickle

import pytest
import torch
from every_sampler import NAMES, quick, smooth
from hills import hill
from planted_bounds import hurry
from runs import QUICK
from torch.utils.data import DataLoader

import drs_fast as drs
from drs_fast import samplers
from drs_fast.run import shuffled, streams

RANKS = [(k, 3) for k in range(3)]
SMALL = {"batch_size": 256, "seed": 3}


@pytest.fixture
def short_chunks(monkeypatch):
    monkeypatch.setattr(streams, "CHUNK_ROWS", 512)


def first_ids(n, sampler=QUICK, gan=None, **options):
    """The ids of the run's samples from its first n rows."""
    stop = drs.generate(gan or smooth(), sampler, 3 * n, **SMALL, **options).ids
    return stop[torch.maximum(stop, ~stop) < n]


def test_workers_of_a_loader_share_the_rows(short_chunks):
    dataset = pickle.loads(pickle.dumps(drs.StreamDataset(smooth(), QUICK, **SMALL)))
    loader = DataLoader(dataset, batch_size=64, num_workers=2, multiprocessing_context="fork")
    ids = torch.cat([batch["ids"] for batch in itertools.islice(loader, 24)])
    assert len(ids.unique()) == len(ids) == 64 * 24
    # Worker k had chunks k, k + 2, ...: both are there, and each in its own order.
    for k in range(2):
        own = ids[ids // 512 % 2 == k]
        assert len(own) == 64 * 12
        assert torch.equal(own, own.sort().values)
        first = drs.generate(smooth(), QUICK, 4000, **SMALL)
        theirs = first.ids[first.ids // 512 % 2 == k]
        assert torch.equal(own, theirs[: len(own)])


def test_ranks_share_the_rows_and_repeat_themselves(short_chunks):
    gan, seen = smooth(), []
    for rank, ranks in RANKS:
        dataset = drs.StreamDataset(gan, QUICK, rank=rank, ranks=ranks, rows_per_item=50, **SMALL)
        items = list(itertools.islice(dataset, 8))
        assert all(item.keys() == {"ids", "x", "logit"} for item in items)
        assert all(len(item["ids"]) == 50 for item in items)
        again = list(itertools.islice(dataset, 8))
        assert all(torch.equal(a["x"], b["x"]) for a, b in zip(items, again, strict=True))
        seen.append(torch.cat([item["ids"] for item in items]))
    every = torch.cat(seen)
    assert len(every.unique()) == len(every) == 1200
    rows = int(torch.stack([ids.max() for ids in seen]).min())
    assert torch.equal(every[every <= rows].sort().values, first_ids(rows + 1))


def test_samples_are_those_of_the_stream():
    gan = smooth(3)
    items = itertools.islice(drs.StreamDataset(gan, QUICK, save=("z", "x"), **SMALL), 300)
    run = drs.generate(gan, QUICK, 300, **SMALL)
    rows = torch.utils.data.default_collate(list(items))
    assert rows.keys() == {"ids", "x", "z", "y"}
    for name, column in rows.items():
        assert torch.equal(column, getattr(run, name))


class Distributed:
    """What torch.distributed would say in the third of four processes."""

    is_available = is_initialized = staticmethod(lambda: True)
    get_rank = staticmethod(lambda: 2)
    get_world_size = staticmethod(lambda: 4)


def test_ranks_of_a_process_group(monkeypatch):
    assert streams.process(None, None) == (0, 1)
    assert streams.process(1, 2) == (1, 2)
    for wrong in [(2, 2), (-1, 2), (0, 0), (0, None), (None, 2)]:
        with pytest.raises(ValueError, match="rank"):
            streams.process(*wrong)
    monkeypatch.setattr(torch, "distributed", Distributed)
    assert streams.process(None, None) == (2, 4)


def test_what_needs_all_rows_in_order_refuses():
    adapting = samplers.DRS(adapt="batch", burn_in=500)
    dataset = drs.StreamDataset(smooth(), adapting, rank=0, ranks=2)
    with pytest.raises(ValueError, match="one rank"):
        next(iter(dataset))
    with pytest.raises(ValueError, match="one rank"):
        drs.SampledGenerator(smooth(), adapting, rank=0, ranks=2)
    with pytest.raises(ValueError, match="got weight"):
        drs.StreamDataset(smooth(), QUICK, save=("x", "weight"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:.*(never moved|worth)")
def test_a_generator_returns_what_a_run_does(name, short_chunks):
    """In calls of any size, and from where another left off."""
    gan, sampler = smooth(), quick(name)
    run = drs.generate(gan, sampler, 150, **SMALL)
    first = drs.SampledGenerator(gan, sampler, **SMALL)
    x = [first.sample(n) for n in (1, 0, 40, 9)]
    x.append(first(torch.zeros(20, 3)))
    second = drs.SampledGenerator(gan, sampler, **SMALL)
    second.load_state_dict(first.state_dict())
    x += [second.sample(n) for n in (1, 1, 1, 77)]
    assert torch.equal(torch.cat(x), run.x)


@pytest.mark.parametrize("kind", ["squeezed", "within", "mh kept"])
def test_a_generator_goes_on_anywhere(kind, short_chunks, monkeypatch):
    gan = hill() if kind == "squeezed" else smooth(3)
    if kind == "squeezed":
        hurry(monkeypatch)
        exact = samplers.DRS(gamma=0.0, burn_in=2048)
        sampler = drs.Squeeze(exact, tolerance=0.5, use_bound=True)
    elif kind == "within":
        sampler = samplers.DRS(classes="within", burn_in=500)
    else:
        sampler = quick("mh")
    part = drs.SampledGenerator(gan, sampler, **SMALL)
    whole = copy.deepcopy(part).rows(200)
    assert len(whole["ids"].unique()) == 200
    ids = []
    for n in (3, 60, 1, 90, 46):
        ids.append(part.rows(n)["ids"])
        state = part.state_dict()
        assert all(value.dtype == torch.int64 for value in state.values())
        part = pickle.loads(pickle.dumps(part)) if kind == "mh kept" else copy.copy(part)
        part._queue = None
    assert torch.equal(torch.cat(ids), whole["ids"])


def test_generators_of_several_ranks(short_chunks):
    ids = [drs.SampledGenerator(smooth(), QUICK, rank=k, ranks=n, **SMALL) for k, n in RANKS]
    rows = torch.cat([generator.rows(300)["ids"] for generator in ids])
    assert len(rows.unique()) == 900
    assert {int(k) for k in rows // 512 % 3} == {0, 1, 2}


def test_a_loaded_state_wins_over_what_was_going_on():
    generator = drs.SampledGenerator(smooth(), QUICK, **SMALL)
    start = copy.deepcopy(generator.state_dict())
    first = generator.rows(100)
    generator.load_state_dict(start)
    assert torch.equal(generator.rows(100)["ids"], first["ids"])
    assert not list(generator.parameters())


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    return drs.generate(smooth(), QUICK, 1500, out=out, chunk_rows=256, batch_size=256)


@pytest.mark.parametrize("window", [1, 4, 1000])
def test_a_shuffle_has_every_sample_once(shards, window):
    order = shuffled.ShardShuffle(shards, window=window)
    rows = list(order)
    assert sorted(rows) == list(range(1500))
    assert rows != sorted(rows)
    assert len(order) == 1500
    assert rows == list(drs.ShardShuffle(shards, window=window))
    order.set_epoch(1)
    assert rows != list(order)
    assert sorted(order) == list(range(1500))
    assert rows != list(drs.ShardShuffle(shards, window=window, seed=1))


def test_a_shuffle_has_few_shards_open(shards):
    chunks = torch.bucketize(
        torch.tensor(list(drs.ShardShuffle(shards, window=3))),
        torch.tensor(shards.ends),
        right=True,
    )
    counts = torch.tensor(shards.counts)
    end = 0
    while end < 1500:  # three shards in full, in any order, then three others
        some = list(dict.fromkeys(chunks[end:].tolist()))[:3]
        size = int(counts[some].sum())
        assert set(chunks[end : end + size].tolist()) == set(some)
        end += size


def test_ranks_share_a_shuffle(shards):
    orders = [list(drs.ShardShuffle(shards, window=2, rank=k, ranks=7)) for k in range(7)]
    assert [len(order) for order in orders] == [1500 // 7] * 7
    every = list(itertools.chain.from_iterable(orders))
    assert len(set(every)) == len(every)
    whole = list(drs.ShardShuffle(shards, window=2))
    assert [row for rows in zip(*orders, strict=True) for row in rows] == whole[: len(every)]


def test_every_order_is_as_likely(shards):
    """Chi-square of the places at which one sample comes; one run in 10^4 would fail."""
    from scipy.stats import chisquare

    order, seen = drs.ShardShuffle(shards, window=1000), torch.zeros(10)
    for epoch in range(200):
        order.set_epoch(epoch)
        seen[list(order).index(7) // 150] += 1
    assert chisquare(seen.numpy()).pvalue > 1e-4


def test_an_empty_run_has_an_empty_order(tmp_path):
    run = drs.generate(smooth(), QUICK, 0, out=tmp_path / "run", batch_size=256)
    assert list(drs.ShardShuffle(run)) == []


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_run_under_a_loader(shards, context):
    loader = DataLoader(
        shards,
        batch_size=100,
        sampler=drs.ShardShuffle(shards, window=2),
        num_workers=2 if context == "fork" else 1,
        multiprocessing_context=context,
    )
    rows = torch.cat([batch["x"] for batch in loader])
    assert torch.equal(rows, shards.x[list(drs.ShardShuffle(shards, window=2))])


def test_a_batch_opens_each_shard_once(shards, monkeypatch):
    run = drs.open(shards.path)
    monkeypatch.setattr(drs.store.samples, "OPEN_SHARDS", 2)
    opened, shard = [], type(run)._opened

    def counted(self, path, record, size):
        opened.append(path)
        return shard(self, path, record, size)

    monkeypatch.setattr(type(run), "_opened", counted)
    run[torch.arange(1499, 0, -10)]
    # The first one tells shapes and dtypes, and was open before.
    assert sorted(set(opened)) == opened[-len(set(opened)) :]
    assert len(run.records) - 1 <= len(opened) <= len(run.records) + 1
