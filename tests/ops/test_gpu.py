"""What only a GPU shows: races, waiting tiles, streams, graphs, and no host in the loop."""

import math

import pytest
import torch
from agreement import (
    needs_cpu,
    noise,
)

from drs_fast import Compacted, Rng, backend, backends, ops
from drs_fast.backends import cuda, reference
from drs_fast.backends import triton as kernels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = "cuda"
LARGE = 10**6
LOG_M, GAMMA = 3.0, -2.0
ARGUMENTS = {"log_m": LOG_M, "gamma": GAMMA}
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor):
    return tensor.contiguous().view(BITS[tensor.element_size()])


def assert_same(found, expected):
    """Whether two results are equal bit for bit, on any device."""
    assert found.dtype == expected.dtype
    assert torch.equal(bits(found), bits(expected.to(found.device)))


def tensors(out):
    return (*out.rows, out.ids, out.logit, out.count, out.invalid, out.above)


def poison(out):
    for tensor in tensors(out):
        tensor.view(-1).view(torch.uint8).fill_(0xAA)


def empty_out(logit, *rows):
    out = Compacted.empty(logit, rows)
    poison(out)
    return out


def expected_out(logit, rows, rng, **arguments):
    """Computed by the best CPU backend, poisoned past the count, then moved to the device."""
    host = [tensor.cpu() for tensor in (logit, *rows)]
    out = empty_out(*host)
    ops.accept_compact(*host, rng=rng, out=out, **arguments)
    return [tensor.to(DEVICE) for tensor in tensors(out)]


def assert_out(out, expected):
    for found, wanted in zip(tensors(out), expected, strict=True):
        assert_same(found, wanted)


WAYS = ("single pass", "two launches", "CUDA C++")


@pytest.fixture(autouse=True)
def way(request, monkeypatch):
    """A GPU backend: Triton in one launch or two, or CUDA C++."""
    chosen = getattr(request, "param", WAYS[0])
    first = "cuda" if chosen == "CUDA C++" else "triton"
    if chosen == "two launches":
        monkeypatch.setattr(kernels, "SINGLE_PASS_ROWS", 0)
    if first == "cuda" and cuda.refuses(torch.device(DEVICE)) is not None:
        pytest.skip(cuda.refuses(torch.device(DEVICE)))
    monkeypatch.setattr(backends, "NAMES", (first, "cpu", "reference"))
    ops.dispatch._dispatch.cache_clear()
    yield
    ops.dispatch._dispatch.cache_clear()


def launches(test):
    return pytest.mark.parametrize("way", WAYS, indirect=True)(test)


def on_device(n, d, dtype=torch.float32, seed=0):
    return noise(n, seed=seed).to(DEVICE, dtype), noise(n, d, seed=seed + 1).to(DEVICE)


GAMMAS = (-2.0, 1.0)  # in turn, so that what a launch leaves behind is wrong for the next


@launches
def test_a_hundred_runs_are_equal(way):
    logit, rows = on_device(LARGE, 32)
    logit[::1001], logit[7::997] = torch.nan, 4.0
    rng = Rng(3, 2**32 - LARGE // 2)
    turns = [{"log_m": LOG_M, "gamma": gamma} for gamma in GAMMAS]
    expected = [expected_out(logit, (rows,), rng, **turn) for turn in turns]
    out = empty_out(logit, rows)
    for i in range(100):
        poison(out)
        ops.accept_compact(logit, rows, rng=rng, out=out, **turns[i % 2])
        assert_out(out, expected[i % 2])


@launches
def test_a_hundred_runs_of_latents_are_equal(way):
    logit = on_device(LARGE, 1)[0]
    rng = Rng(3, 2**32 - LARGE // 2)
    z = ops.normal(rng, LARGE, 30).to(DEVICE)
    turns = [{"log_m": LOG_M, "gamma": gamma} for gamma in GAMMAS]
    expected = [expected_out(logit, (z,), rng, **turn) for turn in turns]
    out = empty_out(logit, z)
    for i in range(100):
        poison(out)
        ops.accept_latents(logit, 30, rng=rng, out=out, **turns[i % 2])
        assert_out(out, expected[i % 2])


CHUNK, CHUNKS = 2**24, 60


@needs_cpu
@pytest.mark.timeout(120, method="thread")
def test_a_billion_decisions_equal_those_of_the_cpu():
    logit = noise(CHUNK, seed=2)
    logit[::1001], logit[1::1001], logit[2::1001] = torch.nan, torch.inf, LOG_M
    there = logit.to(DEVICE)
    for i in range(CHUNKS):
        rng = Rng(11, 2**32 - CHUNKS // 2 * CHUNK + i * CHUNK)
        arguments = {"log_m": LOG_M, "gamma": 0.5 * (i % 12) - 3.0, "eps": (0.0, 1e-6)[i % 2]}
        found = ops.accept(there, rng, **arguments).cpu()
        assert torch.equal(found, ops.accept(logit, rng, **arguments))


@launches
@pytest.mark.timeout(60, method="thread")
def test_many_more_tiles_than_run_at_once(way):
    n = 50 * LARGE
    generator = torch.Generator(DEVICE).manual_seed(5)
    logit = torch.randn(n, device=DEVICE, generator=generator)
    rows = torch.randn(n, 2, device=DEVICE, generator=generator)
    rng = Rng(5, 2**32 - n // 2)
    keep = ops.accept(logit, rng, **ARGUMENTS)
    out = ops.accept_compact(logit, rows, rng=rng, **ARGUMENTS)
    count = int(out.count)
    assert count == int(keep.sum())
    assert_same(out.ids[:count], keep.nonzero()[:, 0] + rng.row)
    assert_same(out.logit[:count], logit[keep])
    assert_same(out.rows[0][:count], rows[keep])


def captured(call):
    """A CUDA graph of the call, captured in torch's default mode after the usual warm-up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        call()
    return graph


BATCH, REPLAYS, CAPACITY, D = 4096, 10_000, 2**21, 8


def reference_ids(rng):
    """The rows of all replays; logits depend on the latents alone, and latents on the row alone."""
    step = 64 * BATCH
    parts = []
    for start in range(rng.row, rng.row + REPLAYS * BATCH, step):
        n = min(step, rng.row + REPLAYS * BATCH - start)
        logit = ops.normal(rng.at(start), n, 1)[:, 0] * 2.0 - 1.0
        keep = ops.accept(logit, rng.at(start), **ARGUMENTS)
        parts.append(keep.nonzero()[:, 0] + start)
    return torch.cat(parts)


@needs_cpu
@pytest.mark.timeout(120, method="thread")
def test_ten_thousand_replays_fill_a_ring():
    rng = Rng(13, 2**32 - REPLAYS // 2 * BATCH)
    z = torch.empty(BATCH, D, device=DEVICE)
    ring = ops.ring(z[:, 0], z, rng=rng, capacity=CAPACITY, log_m=LOG_M)
    beginning = ring.state.clone()

    def batch():
        ids = ring.row + torch.arange(BATCH, device=DEVICE)
        z = ops.normal(Rng(rng.seed), BATCH, D, device=DEVICE, ids=ids)
        ops.accept_append(z[:, 0] * 2.0 - 1.0, z, ring=ring, gamma=GAMMA)

    graph = captured(batch)
    ring.state.copy_(beginning)
    for _ in range(REPLAYS):
        graph.replay()
    expected = reference_ids(rng)
    count = len(expected)
    assert int(ring.cursor) == count > CAPACITY  # it went around
    assert int(ring.row) == rng.row + REPLAYS * BATCH
    assert int(ring.invalid) == 0
    slots = torch.arange(count - CAPACITY, count) % CAPACITY
    last = expected[-CAPACITY:]
    assert_same(ring.ids.cpu()[slots], last)
    sample = slots[::97]
    made = ops.normal(Rng(rng.seed), len(sample), D, ids=last[::97])
    assert_same(ring.rows[0].cpu()[sample], made)


@launches
@pytest.mark.parametrize("n", [1000, 10_000, 65_536, 100_000])
def test_a_graph_takes_what_its_inputs_hold(way, n):
    logit, rows = on_device(n, 16)
    rng = Rng(17)
    out = empty_out(logit, rows)
    graph = captured(lambda: ops.accept_compact(logit, rows, rng=rng, out=out, **ARGUMENTS))
    for seed in range(5):
        other = on_device(n, 16, seed=seed)
        logit.copy_(other[0])
        rows.copy_(other[1])
        poison(out)
        graph.replay()
        assert_out(out, expected_out(logit, (rows,), rng, **ARGUMENTS))


@launches
def test_two_streams_at_once(way):
    streams = [torch.cuda.Stream() for _ in range(2)]
    problems = [on_device(LARGE, 4, seed=10 * i) for i in range(2)]
    rngs = [Rng(i, 2**32 - LARGE // 2) for i in range(2)]
    outs = [[empty_out(*problem) for _ in range(20)] for problem in problems]
    torch.cuda.synchronize()
    for turn in range(20):
        for stream, (logit, rows), rng, out in zip(streams, problems, rngs, outs, strict=True):
            with torch.cuda.stream(stream):
                ops.accept_compact(logit, rows, rng=rng, out=out[turn], **ARGUMENTS)
    torch.cuda.synchronize()
    for (logit, rows), rng, several in zip(problems, rngs, outs, strict=True):
        expected = expected_out(logit, (rows,), rng, **ARGUMENTS)
        for out in several:
            assert_out(out, expected)


@launches
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_the_host_waits_for_nothing(way):
    logit, rows = on_device(5000, 8)
    rng = Rng(19)
    out = empty_out(logit, rows)
    ring = ops.ring(logit, rows, rng=rng, capacity=8192, log_m=LOG_M)
    top, ids = torch.tensor(LOG_M, device=DEVICE), torch.arange(5000, device=DEVICE)

    def everything():
        ops.accept_compact(logit, rows, rng=rng, out=out, **ARGUMENTS)
        ops.accept_compact(logit, rows, rng=rng, log_m=top, gamma=GAMMA, ids=ids)
        ops.accept_latents(logit, 8, rng=rng, out=out, **ARGUMENTS)
        ops.accept_append(logit, rows, ring=ring, gamma=GAMMA)
        ops.accept(logit, rng, **ARGUMENTS)
        ops.probability(logit, **ARGUMENTS)
        ops.weight(logit, **ARGUMENTS)
        ops.quantile_gamma(logit, 80.0, log_m=LOG_M)
        ops.largest(logit)
        ops.uniform(rng, 5000, stream=1, device=DEVICE)
        ops.words(rng, 5000, 8, device=DEVICE)
        ops.normal(rng, 5000, 8, device=DEVICE)

    everything()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError):  # it does notice
            logit.nonzero()
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@launches
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logits_of_every_dtype(way, dtype):
    logit, rows = on_device(LARGE, 4, dtype)
    logit[::1001], logit[7::997] = torch.nan, torch.inf
    rng = Rng(23, 2**62)
    out = empty_out(logit, rows)
    ops.accept_compact(logit, rows, rng=rng, out=out, **ARGUMENTS)
    assert_out(out, expected_out(logit, (rows,), rng, **ARGUMENTS))
    host = logit.cpu()
    for q in (0, 1, 80, 100):
        found = ops.quantile_gamma(logit, q, log_m=LOG_M)
        assert_same(found, ops.quantile_gamma(host, q, log_m=LOG_M))
    assert_same(ops.largest(logit), ops.largest(host))


@pytest.mark.parametrize("way", ["single pass", "CUDA C++"], indirect=True)
@pytest.mark.timeout(60, method="thread")
def test_percentiles_in_graphs_on_two_streams(way):
    """Replays of 1 M and of 50 M logits at once, whose blocks do not all run at a time."""
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator(DEVICE).manual_seed(5)
        given = [
            torch.randn(n, device=DEVICE, generator=generator).to(dtype)
            for n in (LARGE, 50 * LARGE)
        ]
        given[0][::2] = 0.25  # ties
        streams, replays = [torch.cuda.Stream() for _ in given], []
        for logit in given:
            made = {}

            def both(logit=logit, made=made):
                made["gamma"] = ops.quantile_gamma(logit, 55, log_m=LOG_M)
                made["top"] = ops.largest(logit)

            replays.append((captured(both), made))
        torch.cuda.synchronize()
        for turn in range(20):
            for stream, (graph, made) in zip(streams, replays, strict=True):
                with torch.cuda.stream(stream):
                    made["gamma"].fill_(turn)
                    graph.replay()
        torch.cuda.synchronize()
        for logit, (_, made) in zip(given, replays, strict=True):
            ordered = logit.sort().values
            rank = math.ceil(55 * len(logit) / 100)
            assert_same(made["top"], ordered[-1].double())
            wanted = reference.score(ordered[rank - 1].cpu(), LOG_M, reference.stabiliser(1e-6))
            assert_same(made["gamma"], wanted)


def test_the_reference_has_the_same_bits_on_the_device():
    n, rng = 100_000, Rng(29, 2**32 - 50_000)
    logit = on_device(n, 1)[0]

    def everything(logit, device):
        yield ops.uniform(rng, n, stream=1, device=device)
        yield ops.normal(rng, n, 30, device=device)
        yield ops.probability(logit, **ARGUMENTS)
        yield ops.accept(logit, rng, **ARGUMENTS)
        yield ops.quantile_gamma(logit, 80.0, log_m=LOG_M)
        yield ops.quantile_gamma(logit[:100], 55, log_m=LOG_M)  # 55 * 100 * (1 / 100) is above 55

    with backend("reference"):
        found = list(everything(logit, DEVICE))
    for one, other in zip(found, everything(logit.cpu(), "cpu"), strict=True):
        assert_same(one, other)
