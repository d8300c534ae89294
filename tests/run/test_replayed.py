"""G and D as graphs of one block, on a stand-in for a CUDA graph: it calls what was captured."""

import pytest
import torch
from imprecise import imprecise

import drs_fast as drs
from drs_fast.run import graph, replayed
from drs_fast.run.replayed import Replayed
from drs_fast.tune import lowered


@pytest.fixture
def captures(monkeypatch):
    """The captures that were made, with how often each was replayed."""
    made = []

    def captured(call, device):
        call()
        made.append(0)
        number = len(made) - 1

        def replay():
            made[number] += 1
            call()

        return replay

    monkeypatch.setattr(graph, "captured", captured)
    return made


def test_a_function_is_replayed_for_one_shape(captures):
    calls = []

    def function(x, y):
        calls.append(len(x))
        x.mul_(2.0)  # as a network that writes to its input
        return x.float() + y, "kept"

    once, label = Replayed(function), torch.arange(4)
    for number in range(8):
        x = torch.full((4,), float(number))
        found, word = once(x, label)
        assert word == "kept"
        assert torch.equal(found, 2.0 * torch.full((4,), float(number)) + label)
    assert captures == [1 + 6]  # the check, and all calls after the warm-up
    assert torch.equal(once(torch.ones(3), label[:3])[0], 2.0 + label[:3])
    assert captures == [7]


@pytest.mark.parametrize("fault", ["it draws", "it fails"])
def test_what_cannot_be_replayed_is_called(fault, captures, monkeypatch):
    count = []
    if fault == "it fails":

        def fails(call, device):
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(graph, "captured", fails)

    def function(x):
        count.append(0)
        return x + (len(count) if fault == "it draws" else 0)

    once = Replayed(function)
    for _ in range(replayed.WARM_UP):
        once(torch.zeros(2))
    with pytest.warns(UserWarning, match="G and D cannot run as a CUDA graph, so they are called"):
        once(torch.zeros(2))
    once(torch.zeros(2))
    before = len(count)
    once(torch.zeros(2))
    assert len(count) == before + 1


def test_both_stages_are_replayed_and_give_the_same(captures):
    gan = imprecise()
    squeeze = drs.Squeeze(drs.samplers.DRS(burn_in=2048), 0.01, by="bf16", low_cost=0.2)
    state, rng = squeeze.init(gan, drs.Rng(0)), drs.Rng(0)
    usual = squeeze.without_waiting(gan, state, rng, 4096)[1]
    wrapped, low = gan.wrapped(Replayed), lowered.lowered(gan, "bf16")
    assert lowered.lowered(wrapped, "bf16")._runs is low._runs  # no third copy of the weights
    for _ in range(2):
        batch = squeeze.without_waiting(wrapped, state, rng, 4096)[1]
    count = int(usual.count)
    assert torch.equal(batch.ids[:count], usual.ids[:count])
    assert torch.equal(batch.x[:count], usual.x[:count])
    assert len(captures) == 4  # G and D in both precisions
    assert min(captures) > 2 - replayed.WARM_UP
