"""What weighted samples are worth, and the index of their tail."""

import pytest
import torch

from drs_fast.samplers.common.effective import FEWEST, effective, tail_index


def pareto(k, n, seed):
    """Excesses of a generalised Pareto law, (n,) float64."""
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return -torch.log1p(-u) if k == 0.0 else torch.expm1(-k * torch.log1p(-u)) / k


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_tail_index_is_that_of_the_law(k, scale):
    found = [tail_index(scale * pareto(k, 2000, seed)) for seed in range(20)]
    # The standard error of 20 means is at most (1 + |k|) / sqrt(40,000); 4 of them: 6e-5.
    assert abs(sum(found) / 20 - k) < 4 * (1 + abs(k)) / 200 + 10 * 0.5 / 2010


def test_few_excesses_have_no_tail_index():
    assert tail_index(torch.zeros(100).double()) is None
    assert tail_index(torch.tensor([0.0] * 9 + [1.0, 2.0, 3.0, 4.0]).double()) is None
    assert tail_index(torch.arange(FEWEST + 1).double()) is not None


def test_effective_size_is_that_of_kish():
    weight = torch.tensor([1.0, 1.0, 2.0, 4.0]).double()
    found = effective(4, [(weight, weight > 1.0)])
    assert found.size == pytest.approx(64 / 22)
    assert found.largest == 0.5
    assert found.above == 0.75
    assert found.trusted
    assert found.tail is None


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4])
def test_weights_that_are_nearly_equal_are_no_tail(spread):
    """As those of gamma 0, which are 1 to 1 + eps below log_m, and heavy above it."""
    weight = 1.0 + spread * pareto(-1.0, 3000, 0)
    assert effective(3000, [(weight, weight > 2.0)]).tail is None
    weight[:150] = 1.0 + pareto(0.3, 150, 1)
    # Four standard errors of 150 excesses: 6e-5.
    assert abs(effective(3000, [(weight, weight > 2.0)]).tail - 0.3) < 4 * 1.3 / 150**0.5


@pytest.mark.parametrize("order", ["sorted", "reversed", "mixed"])
def test_pieces_do_not_matter(order):
    weight = 1.0 + pareto(0.9, 20_000, 3)
    weight = {"sorted": weight.sort().values, "reversed": -(-weight).sort().values}.get(
        order, weight
    )
    whole = effective(20_000, [(weight, weight > 3.0)])
    parts = effective(20_000, ((part, part > 3.0) for part in weight.split(500)))
    assert parts.tail == whole.tail
    assert not whole.trusted
    assert parts.size == pytest.approx(whole.size, rel=1e-12)
    assert parts.above == pytest.approx(whole.above, rel=1e-12)
    assert parts.largest == pytest.approx(whole.largest, rel=1e-12)


@pytest.mark.parametrize("weight", [1e-300, 3e-100, 1.0, 1e304])
def test_equal_weights_are_worth_their_number(weight):
    part = torch.full((10_000,), weight, dtype=torch.float64)
    equal = effective(30_000, [(part, part > 0.0)] * 3)
    assert equal == (pytest.approx(30_000.0), 1.0, pytest.approx(1 / 30_000), None)


def test_one_weight_may_be_all_there_is():
    weight = torch.tensor([1e-300, 1e304, 1.0, 0.0], dtype=torch.float64)
    parts = [(part, part > 1.0) for part in weight.split(1)]
    assert effective(4, parts) == (1.0, 1.0, 1.0, None)


def test_nothing_is_worth_nothing():
    none = torch.zeros(3, dtype=torch.float64)
    nothing = (0.0, 0.0, 0.0, None)
    assert effective(0, []) == effective(3, [(none, none > 0.0)]) == nothing
    assert effective(0, [(none[:0], none[:0] > 0.0)]) == nothing


def test_the_tail_index_takes_little_memory(monkeypatch):
    sizes, log1p = [], torch.log1p

    def noted(given):
        sizes.append(given.numel())
        return log1p(given)

    monkeypatch.setattr(torch, "log1p", noted)
    tail_index(torch.arange(1.0, 10_001.0).double())
    assert max(sizes) <= 8 * 10_000
