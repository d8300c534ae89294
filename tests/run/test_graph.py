"""What a capture leaves behind, on a stand-in for torch that keeps its books as torch 2.6 does."""

import contextlib
from types import SimpleNamespace

import pytest

from drs_fast.run import graph


class Generator:
    def __init__(self, device):
        self.state = SimpleNamespace(capturing=False, offset=8)

    def graphsafe_get_state(self):
        copy = Generator(None)
        copy.state = self.state
        return copy

    def clone_state(self):
        return Generator(None)

    def get_offset(self):
        return self.state.offset

    def set_offset(self, offset):
        self.state.offset = offset

    def graphsafe_set_state(self, other):
        self.state = other.state


class Torch:
    """CUDA gives up a capture if `fails` says so, at its end or in the middle of a call."""

    def __init__(self, version):
        self.generator, self.pools = Generator(None), {}
        self.stream, self.capturing, self.broken, self.refuses = "user's", None, False, False
        self.__version__, ends = version
        self._C = SimpleNamespace(**{ends: self.end, "_cuda_releasePool": self.release})
        self.cuda = SimpleNamespace(
            CUDAGraph=lambda: Graph(self), graph_pool_handle=lambda: (0, 1), Stream=lambda at: at,
            device=lambda at: contextlib.nullcontext(), stream=self.on, current_device=lambda: 0,
            synchronize=lambda: None, empty_cache=self.empty_cache,
            default_generators=[self.generator],
        )  # fmt: skip

    @contextlib.contextmanager
    def on(self, stream):
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def end(self, device, pool):
        if self.pools.get(pool) != "recording":
            raise RuntimeError("not currently recording to this pool")
        self.pools[pool] = "held"

    def release(self, device, pool):
        assert self.pools[pool] == "held"
        del self.pools[pool]

    def empty_cache(self):
        assert "recording" not in self.pools.values()

    def rand(self):
        if self.generator.state.capturing != (self.capturing is not None):
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")

    def item(self):
        self.broken = True
        raise RuntimeError("operation not permitted when stream is capturing")


class Graph:
    def __init__(self, torch):
        self.torch = torch

    def capture_begin(self, pool, capture_error_mode):
        if self.torch.refuses:
            raise RuntimeError("a capture is under way")
        self.pool, self.states = pool, [self.torch.generator.state]
        self.states[0].capturing = True
        self.torch.pools[pool] = "recording"
        self.torch.capturing = self.torch.stream

    def capture_end(self):
        torch = self.torch
        if torch.capturing != torch.stream:
            raise RuntimeError("Capture must end on the same stream it began on")
        torch.capturing = None
        if torch.broken:
            raise RuntimeError("operation failed due to a previous error during capture")
        torch.end(0, self.pool)
        self.states[0].capturing = False

    def replay(self):
        assert not self.states[0].capturing


@pytest.fixture(
    params=[
        ("2.6.0+cu124", "_cuda_endAllocateCurrentStreamToPool"),
        ("2.13.0+cu130", "_cuda_endAllocateToPool"),
    ]
)
def torch(request, monkeypatch):
    stand_in = Torch(request.param)
    monkeypatch.setattr(graph, "torch", stand_in)
    monkeypatch.setattr(graph, "_failed", [])
    graph._capture_stream.cache_clear()
    yield stand_in
    graph._capture_stream.cache_clear()


def assert_as_before(torch, state):
    assert torch.generator.state is state
    assert state.offset == 8
    assert torch.stream == "user's"
    assert torch.capturing is None
    torch.rand()
    torch.empty_cache()


def draws(torch):
    assert torch.generator.state.offset > 10**12
    torch.rand()


def waits(torch):
    torch.item()


def raises(torch):
    raise ValueError("of the user's")


def leaves_its_stream(torch):
    torch.stream = "side"
    raise ValueError("of the user's")


def gives_up_silently(torch):
    torch.broken = True


def test_a_capture_replays_and_leaves_the_users_random_state(torch):
    state = torch.generator.state
    graph.captured(lambda: draws(torch), "cuda:0")()
    assert_as_before(torch, state)


@pytest.mark.parametrize("call", [waits, raises, leaves_its_stream, gives_up_silently])
def test_a_failed_capture_leaves_torch_as_it_was(torch, call):
    state = torch.generator.state
    with pytest.raises((RuntimeError, ValueError)) as raised:
        graph.captured(lambda: call(torch), "cuda:0")
    if call is waits:
        assert "not permitted when stream is capturing" in str(raised.value.__context__)
    assert_as_before(torch, state)
    if torch.broken:
        assert torch.pools == {}
        assert graph._failed
    torch.broken = False
    graph.captured(lambda: None, "cuda:0")()
    assert_as_before(torch, state)


def test_a_capture_that_never_began_leaves_torch_as_it_was(torch):
    state, torch.refuses, torch.broken = torch.generator.state, True, True
    with pytest.raises(RuntimeError):
        graph.captured(lambda: None, "cuda:0")
    torch.capturing = None
    assert_as_before(torch, state)
