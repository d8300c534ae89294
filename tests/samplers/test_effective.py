"""What weighted samples are worth, and the index of their tail."""

import math

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
    found = effective(4, [weight])
    assert found.size == pytest.approx(64 / 22)
    assert found.largest == 0.5
    assert found.trusted
    assert found.tail is None


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4])
def test_weights_that_are_nearly_equal_are_no_tail(spread):
    """As those of gamma 0, which are 1 to 1 + eps below log_m, and heavy above it."""
    weight = 1.0 + spread * pareto(-1.0, 3000, 0)
    assert effective(3000, [weight]).tail is None
    weight[:150] = 1.0 + pareto(0.3, 150, 1)
    # Four standard errors of 150 excesses: 6e-5.
    assert abs(effective(3000, [weight]).tail - 0.3) < 4 * 1.3 / 150**0.5


@pytest.mark.parametrize("order", ["sorted", "reversed", "mixed"])
def test_pieces_do_not_matter(order):
    weight = 1.0 + pareto(0.9, 20_000, 3)
    weight = {"sorted": weight.sort().values, "reversed": -(-weight).sort().values}.get(
        order, weight
    )
    whole = effective(20_000, [weight])
    parts = effective(20_000, weight.split(500))
    assert parts.tail == whole.tail
    assert not whole.trusted
    assert parts.size == pytest.approx(whole.size, rel=1e-12)
    assert parts.largest == pytest.approx(whole.largest, rel=1e-12)


def test_equal_weights_are_worth_their_number():
    equal = effective(1000, [torch.full((1000,), 3e-100, dtype=torch.float64)])
    assert equal == (pytest.approx(3e-97), pytest.approx(1000.0), pytest.approx(1e-3), None)
    assert effective(0, []) == effective(3, [torch.zeros(3).double()]) == (0.0, 0.0, 0.0, None)
    assert math.isfinite(effective(2, [torch.tensor([1e100, 1e100], dtype=torch.float64)]).size)
