"""A sampler's function may remember what it was called with, and its run still goes on."""

import functools

import pytest
import torch
from runs import contents
from torch import nn

import drs_fast as drs
from drs_fast.run import lanes
from drs_fast.samplers import Latent
from drs_fast.store import Conflict

MEMO = {}


class Remembering:
    """Keeps a counter, a list and a dict."""

    def __init__(self):
        self.calls, self.seen, self.cache = 0, [], {}

    def __call__(self, z):
        self.calls += 1
        self.seen.append(len(z))
        self.cache.setdefault("weights", torch.tensor([1.0, 0.5]))
        return z @ self.cache["weights"]

    def method(self, z):
        return self(z)


def memoised(z):
    MEMO[len(z)] = True
    return z[:, 0]


def enclosed():
    cache, calls = {}, 0

    def critic(z):
        nonlocal calls
        calls += 1
        cache[calls] = len(z)
        return z[:, 0]

    return critic


@functools.lru_cache
def scale(d):
    return float(d)


CRITICS = {
    "an object": Remembering,
    "a method": lambda: Remembering().method,
    "a global dict": lambda: memoised,
    "a closure": enclosed,
    "lru_cache": lambda: lambda z: z[:, 0] * scale(z.shape[1]),
}


def drawn(critic, n, out):
    gan = drs.GAN(torch.clone, lambda x: x[:, 0], 2)
    sampler = Latent(critic=critic, cap=1.0, burn_in=500)
    drs.generate(gan, sampler, n, out=out, batch_size=256, chunk_rows=512)
    return contents(out)


@pytest.mark.parametrize("make", CRITICS.values(), ids=CRITICS)
def test_a_cache_is_no_other_function(make, tmp_path):
    MEMO.clear()
    critic = make()
    for n in (100, 300, 300, 700):
        found = drawn(critic, n, tmp_path / "longer")
    MEMO.clear()
    assert found == drawn(make(), 700, tmp_path / "at once")


def test_after_an_interruption_it_goes_on(tmp_path, monkeypatch):
    critic = Remembering()

    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lanes, "lane", interrupted)  # burn-in has ended
        with pytest.raises(KeyboardInterrupt):
            drawn(critic, 100, tmp_path / "run")
    assert critic.seen
    assert drawn(critic, 100, tmp_path / "run") == drawn(Remembering(), 100, tmp_path / "once")


def test_what_others_changed_counts(tmp_path):
    critic = Remembering()
    drawn(critic, 100, tmp_path)
    critic.cache["weights"] = torch.tensor([1.0, 0.25])
    with pytest.raises(Conflict, match="functions_sha256"):
        drawn(critic, 200, tmp_path)


class Learning(nn.Linear):
    """Its weights change in every call."""

    def forward(self, z):
        with torch.no_grad():
            self.weight += 1e-3
        return super().forward(z)


def test_weights_that_a_call_changed_count(tmp_path):
    critic = Learning(2, 1)
    with pytest.warns(UserWarning, match="other numbers for the same rows"):
        drawn(critic, 100, tmp_path)
    with pytest.raises(Conflict, match="functions_sha256"):
        drawn(critic, 200, tmp_path)


def test_weights_that_someone_trained_count(tmp_path):
    critic = nn.Linear(2, 1)
    drawn(critic, 100, tmp_path)
    drawn(critic, 200, tmp_path)
    with torch.no_grad():
        critic.weight += 1.0
    with pytest.raises(Conflict, match="functions_sha256"):
        drawn(critic, 300, tmp_path)
