"""Whole runs on a GPU: the captured loop gives the bytes of the plain one, and no host waits."""

import warnings
from itertools import pairwise

import pytest
import torch
from runs import SHIFT, columns, files, toy

import drs_fast as drs
from drs_fast import backends, ops
from drs_fast.backends import cuda
from drs_fast.run import forecast, lanes
from drs_fast.run.generate import ENDLESS
from drs_fast.run.options import Options
from drs_fast.run.progress import Progress
from drs_fast.run.schedule import Run
from drs_fast.samplers.drs import DRS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

DEVICE = "cuda"
BACKENDS = ("triton", "cuda")


@pytest.fixture(autouse=True)
def first(request, monkeypatch):
    """Which backend serves the GPU."""
    name = getattr(request, "param", BACKENDS[0])
    if name == "cuda" and cuda.refuses(torch.device(DEVICE)) is not None:
        pytest.skip(cuda.refuses(torch.device(DEVICE)))
    monkeypatch.setattr(backends, "NAMES", (name, "cpu", "reference"))
    ops.dispatch._dispatch.cache_clear()
    yield
    ops.dispatch._dispatch.cache_clear()


@pytest.fixture(autouse=True)
def every_run_earns_a_graph(monkeypatch):
    monkeypatch.setattr(forecast, "EARNS", 0)


both = pytest.mark.parametrize("first", BACKENDS, indirect=True)


def layers(*widths):
    torch.manual_seed(0)
    made = []
    for inputs, outputs in pairwise(widths):
        made += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*made[:-1]).to(DEVICE)


def network():
    """Logits of a matrix product, which the graph must compute as a call does."""
    critic = layers(32, 64, 1)
    critic[-1].weight.data.mul_(20.0)
    return drs.GAN(layers(16, 64, 32), critic, 16)


def conditional(device=DEVICE):
    shift = SHIFT.to(device)
    return drs.GAN(
        lambda z, y: z + shift[y, None],
        lambda x, y: (1.0 + y) * (x - shift[y, None])[:, 0],
        2,
        labels=3,
    ).on(device)


class Captures:
    """Counts what is captured."""

    def __init__(self, monkeypatch):
        self.count = 0
        captured = lanes.captured

        def counted(*arguments):
            self.count += 1
            return captured(*arguments)

        monkeypatch.setattr(lanes, "captured", counted)


def assert_equal(found, expected):
    found, expected = columns(found), columns(expected)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert torch.equal(found[name].cpu(), rows.cpu()), name


@both
@pytest.mark.parametrize("make", [lambda device: toy().on(device), conditional])
@pytest.mark.parametrize("batch_size", [256, 1000, 4096])
@pytest.mark.parametrize("graph", [True, False])
def test_equal_logits_give_the_samples_of_the_cpu(monkeypatch, make, batch_size, graph):
    captures = Captures(monkeypatch)
    sampler = DRS(log_m=2.0, gamma=0.5, burn_in=2048)
    expected = drs.generate(make("cpu"), sampler, 20_000, seed=3)
    found = drs.generate(
        make(DEVICE), sampler, 20_000, seed=3, batch_size=batch_size, cuda_graph=graph
    )
    assert captures.count == graph
    assert_equal(found, expected)


@both
@pytest.mark.filterwarnings("ignore:.* samples hold numbers")
@pytest.mark.parametrize("images", ["uint8", "float16"])
@pytest.mark.parametrize("graph", [True, False])
def test_images_are_those_of_the_cpu(monkeypatch, images, graph):
    captures = Captures(monkeypatch)
    sampler = DRS(log_m=2.0, gamma=0.5, burn_in=2048)
    expected = drs.generate(toy(), sampler, 20_000, seed=3, images=images)
    found = drs.generate(
        toy().on(DEVICE), sampler, 20_000, seed=3, batch_size=256, images=images, cuda_graph=graph
    )
    assert captures.count == graph
    assert_equal(found, expected)
    assert int(found.stats["outside"]) == int(expected.stats["outside"])


@both
@pytest.mark.parametrize("batch_size", [100, 4096])  # of 128 rows, which end within a prior's block
def test_a_callable_prior_is_captured(monkeypatch, batch_size):
    def gan(device):
        return drs.GAN(torch.clone, lambda x: 2.0 * x[:, 0], 2, prior=lambda z: z * 2 + 1).on(
            device
        )

    captures, sampler = Captures(monkeypatch), DRS(log_m=2.0, gamma=0.5)
    expected = drs.generate(gan("cpu"), sampler, 20_000, seed=3)
    for graph in (True, False):
        found = drs.generate(
            gan(DEVICE), sampler, 20_000, seed=3, batch_size=batch_size, cuda_graph=graph
        )
        assert captures.count == 1
        assert_equal(found, expected)


@both
@pytest.mark.parametrize("log_m", [-50.0, 2.0, 5.0])
def test_a_graph_gives_the_bytes_of_calls(monkeypatch, log_m):
    """log_m: all rows accepted, so that the ring wraps again and again; some; few."""
    captures, sampler = Captures(monkeypatch), DRS(log_m=log_m, gamma=0.0, burn_in=256)
    called, replayed = (
        drs.generate(network(), sampler, 3000, seed=1, batch_size=512, cuda_graph=graph)
        for graph in (False, True)
    )
    assert captures.count == 1
    assert_equal(replayed, called)
    assert int(replayed.stats["calls"]) == int(called.stats["calls"])


@both
def test_directories_are_equal(tmp_path):
    for name, graph in (("graph", True), ("calls", False)):
        for n in (700, 20_000):  # the second goes on from the first
            drs.generate(
                network(), DRS(), n, out=tmp_path / name, batch_size=512, chunk_rows=2048,
                save=("x", "z", "logit"), cuda_graph=graph,
            )  # fmt: skip
    assert files(tmp_path / "graph") == files(tmp_path / "calls")
    samples = drs.open(tmp_path / "graph")
    batch = drs.generate(network(), DRS(), 20_000, batch_size=512)
    for name, rows in columns(batch).items():
        assert torch.equal(samples.column(name)[:], rows.cpu())


@both
def test_many_chunks_drain_behind_the_steps(tmp_path):
    """Slabs are filled again and again while the writer reads them."""
    sampler = DRS(log_m=-50.0, gamma=0.0, burn_in=256)
    out = tmp_path / "run"
    samples = drs.generate(network(), sampler, 200_000, out=out, batch_size=1024, chunk_rows=4096)
    batch = drs.generate(network(), sampler, 200_000, batch_size=1024, cuda_graph=False)
    assert torch.equal(samples.ids[:], batch.ids.cpu())
    assert torch.equal(samples.x[:], batch.x.cpu())
    assert drs.store.verify(out) == []


@both
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("make", [network, conditional])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_makes_the_host_wait(make, graph):
    options = Options(batch_size=1024, device=DEVICE, patience=10**9, cuda_graph=graph)
    run = Run(make(), DRS(), None, options)
    run.begin()
    landed = run.landed(ENDLESS, run.names, Progress(None, enabled=False))
    for _ in range(8):
        next(landed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError):  # it does notice
            torch.ones(1, device=DEVICE).item()
        taken = sum(next(landed).accepted for _ in range(20))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert taken > 0


def cascade(by):
    """A squeezed sampler whose bound is used whatever it brings."""
    return drs.Squeeze(DRS(burn_in=4096), 0.05, by=by, low_cost=0.3, use_bound=True)


@both
@pytest.mark.parametrize("by", ["bf16", "fp16", "latent,bf16"])
def test_a_cascade_gives_the_samples_of_full_precision(by):
    squeeze, gan = cascade(by), network().on(DEVICE, block=1024)
    state = squeeze.init(gan, drs.Rng(0))
    inner = DRS(gamma=float(state.gamma), log_m=float(state.log_m))
    found = drs.generate(gan, squeeze, 20_000, batch_size=1024, device=DEVICE)
    whole = drs.generate(gan, inner, 21_000, batch_size=1024, device=DEVICE)
    at = torch.searchsorted(whole.ids, found.ids)
    for column in ("ids", "x", "logit"):
        assert torch.equal(getattr(whole, column)[at], getattr(found, column))
    assert float(found.stats["calls"]) < 0.7 * float(found.stats["proposals"])


@both
@pytest.mark.parametrize("by", ["latent", "bf16", "latent,bf16"])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_step_of_a_cascade_makes_the_host_wait(by):
    options = Options(batch_size=1024, device=DEVICE, patience=10**9)
    run = Run(network(), cascade(by), None, options)
    run.begin()
    landed = run.landed(ENDLESS, run.names, Progress(None, enabled=False))
    for _ in range(8):
        next(landed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        taken = sum(next(landed).accepted for _ in range(20))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert taken > 0


class Waits(torch.nn.Module):
    """Asks the device for a number, which no graph can hold."""

    def forward(self, x):
        return x[:, 0] * (1.0 if float(x.abs().max()) > 0 else 0.0)


class Noisy(torch.nn.Module):
    def forward(self, z):
        return z + torch.rand_like(z)


@both
@pytest.mark.parametrize(
    ("gan", "reason"),
    [
        (lambda: drs.GAN(lambda z: z, Waits(), 2), "captur"),
        (lambda: drs.GAN(Noisy(), lambda x: x[:, 0], 2, noise="own"), "other bytes than a call"),
    ],
)
def test_what_cannot_be_captured_is_called(gan, reason):
    with pytest.warns(UserWarning, match=f"(?s)cannot run as a CUDA graph.*{reason}"):
        batch = drs.generate(gan().on(DEVICE), DRS(burn_in=256), 5000, batch_size=256)
    assert int(batch.count) == 5000
    assert bool((batch.ids.diff() > 0).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drs.generate(gan().on(DEVICE), DRS(burn_in=256), 5000, batch_size=256, cuda_graph=False)


class Copies(torch.nn.Module):
    """Sends rows to the host and back."""

    def forward(self, x):
        return x.cpu().to(x.device)[:, 0]


@both
@pytest.mark.parametrize("critic", [Waits, Copies])
def test_a_failed_capture_leaves_torch_as_it_was(critic):
    """The random state, the current stream, and an allocator that records nothing."""
    torch.cuda.manual_seed(7)
    torch.rand(5, device=DEVICE)
    side = torch.cuda.Stream()
    state, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    expected = torch.rand(4, device=DEVICE)
    torch.cuda.set_rng_state(state)
    with pytest.warns(UserWarning, match="cannot run as a CUDA graph"):
        drs.generate(
            drs.GAN(lambda z: z, critic(), 2).on(DEVICE), DRS(burn_in=256), 5000, batch_size=256
        )
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(torch.rand(4, device=DEVICE), expected)
    assert torch.cuda.current_stream() == stream
    assert not torch.cuda.is_current_stream_capturing()
    # Memory that another stream used comes back only while nothing is recorded.
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    large = torch.empty(2**28, dtype=torch.uint8, device=DEVICE)
    large.record_stream(side)
    del large
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved
    captures = drs.generate(network(), DRS(), 3000, batch_size=512)  # a later capture works
    assert_equal(captures, drs.generate(network(), DRS(), 3000, batch_size=512, cuda_graph=False))


@both
def test_random_numbers_go_on_after_any_run():
    torch.cuda.manual_seed(7)
    expected = torch.rand(4, device=DEVICE)
    torch.cuda.manual_seed(7)
    drs.generate(network(), DRS(), 3000, batch_size=512)
    assert torch.equal(torch.rand(4, device=DEVICE), expected)


@pytest.mark.parametrize("tune", [(), ("channels_last",)])
def test_bfloat16(tune):
    batch = drs.generate(drs.load("digits").on(DEVICE), DRS(), 3000, precision="bf16", tune=tune)
    assert batch.x.dtype == torch.bfloat16
    assert batch.logit.dtype == torch.float32
    assert 0 <= float(batch.stats["flip_rate"]) < 0.05


def test_a_stream_and_patience():
    batch = next(drs.stream(network(), DRS(), batch_size=512))
    expected = drs.generate(network(), DRS(), int(batch.count), batch_size=512)
    assert_equal(batch, expected)
    with pytest.raises(drs.Starvation, match="none of the last 20,480 proposals"):
        drs.generate(
            toy().on(DEVICE), DRS(gamma=600.0, log_m=50.0), 10, batch_size=4096, patience=20_000
        )


def test_other_streams_and_threads_do_not_disturb():
    side = torch.cuda.Stream()
    expected = drs.generate(network(), DRS(), 5000, batch_size=512)
    with torch.cuda.stream(side):
        found = drs.generate(network(), DRS(), 5000, batch_size=512)
    side.synchronize()
    assert_equal(found, expected)
