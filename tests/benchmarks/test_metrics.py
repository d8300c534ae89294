"""The benchmarks' metrics on cases computed by hand, and their floors and ceilings."""

import math

import pytest
import torch

from benchmarks.common.metrics import (
    jensen_shannon,
    metrics,
    nearest,
    stratified,
    stratified_roll,
    swiss_roll,
    transport,
    w1,
    w1_swiss_roll,
)
from drs_fast.training.fitting import Draws
from drs_fast.zoo import swissroll
from drs_fast.zoo.gaussians25 import CENTRES, sample

PAIR = torch.tensor([[0.0, 0.0], [10.0, 0.0]])


def real(n, seed):
    return sample(Draws(seed), n)


def test_a_sample_at_four_sd_is_junk():
    found = metrics(torch.tensor([[1.0, 0.0], [0.0, -0.999], [10.0, 0.5], [5.0, 5.0]]), PAIR, 0.25)
    assert found.hq == 50.0
    assert found.modes == 2


def test_only_samples_of_high_quality_recover_a_mode():
    found = metrics(torch.tensor([[0.0, 0.0], [8.0, 0.0]]), PAIR, 0.25)
    assert found.modes == 1


def test_sd_is_per_axis_about_the_centre():
    # squared distances 25e-4 and 1e-4 about their centres: not about the mean of the mode's samples
    found = metrics(torch.tensor([[0.03, 0.04], [10.01, 0.0], [5.0, 5.0]]), PAIR, 0.05)
    assert found.sd == pytest.approx(math.sqrt((25e-4 + 1e-4) / 2 / 2), rel=1e-4)


def test_jsd_of_counts():
    one_mode = metrics(torch.zeros(7, 2), PAIR, 0.05)
    expected = (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert one_mode.jsd == pytest.approx(expected, abs=1e-7)
    assert one_mode.jsd_nojunk == pytest.approx(expected, abs=1e-7)
    balanced = metrics(PAIR.repeat(3, 1), PAIR, 0.05)
    assert balanced.jsd == balanced.jsd_nojunk == 0.0


def test_junk_alone_is_as_far_as_can_be():
    found = metrics(torch.full((5, 2), 5.0), PAIR, 0.05)
    assert found.hq == 0.0
    assert found.modes == 0
    assert math.isnan(found.sd)
    assert found.jsd == pytest.approx(math.log(2), abs=1e-7)
    assert found.jsd_nojunk == pytest.approx(math.log(2) / 2, abs=1e-7)


def test_jsd_without_junk_is_not_renormalised():
    shares, equal = torch.full((25,), 0.735 / 25), torch.full((25,), 1 / 25)
    junk = torch.cat([shares, torch.tensor([0.265])])
    assert jensen_shannon(shares.double(), equal.double()) == pytest.approx(0.01016, abs=1e-5)
    with_junk = jensen_shannon(junk.double(), torch.cat([equal, torch.zeros(1)]).double())
    assert with_junk == pytest.approx(0.1020, abs=5e-5)


def test_nearest_centre():
    offset, mode = nearest(torch.tensor([[2.4, -1.6], [9.0, 9.0], [-0.1, 0.6]]), CENTRES)
    assert CENTRES[mode].tolist() == [[2.0, -2.0], [2.0, 2.0], [0.0, 1.0]]
    assert offset[0].tolist() == pytest.approx([0.4, 0.4], abs=1e-6)


def test_transport_finds_the_best_matching():
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.5], [0.0, 0.5]])
    assert transport(x, y) == pytest.approx(0.5)
    assert transport(x, x.flip(0)) == 0.0
    assert transport(x, x + 3.0) == pytest.approx(3 * math.sqrt(2))


def test_w1_takes_the_first_samples():
    x = stratified(50)
    assert w1(torch.cat([x, x + 100]), 50) == 0.0
    with pytest.raises(ValueError, match="needs 50 samples, got 49"):
        w1(x[:49], 50)
    with pytest.raises(ValueError, match="multiple of 25"):
        stratified(51)


def test_stratified_reference_is_equal_in_every_mode():
    x = stratified(2000)
    counts = torch.bincount(nearest(x, CENTRES)[1], minlength=25)
    assert counts.tolist() == [80] * 25
    assert metrics(x).sd == pytest.approx(0.04993, rel=0.04)


def test_real_samples_reach_the_ceilings():
    found = metrics(real(1_000_000, seed=0))
    share = 1 - math.exp(-8)
    assert found.hq == pytest.approx(100 * share, abs=400 * math.sqrt(share * (1 - share) / 1e6))
    assert found.modes == 25
    assert found.sd == pytest.approx(0.04993, rel=0.003)
    assert found.jsd == pytest.approx(0.00012, abs=0.00005)


def test_floors_of_finite_samples():
    jsd = [metrics(real(10_000, seed)).jsd for seed in range(8)]
    assert sum(jsd) / 8 == pytest.approx(0.00042, abs=4 * 0.00011 / math.sqrt(8))
    distance = [w1(real(2_000, seed)) for seed in range(4)]
    assert sum(distance) / 4 == pytest.approx(0.069, abs=4 * 0.010 / math.sqrt(4))
    assert w1(stratified(2_000, seed=1)) == pytest.approx(0.0217, abs=0.002)


def on_the_roll(*shares):
    """Points of the noiseless curve at these fractions of its t, in float64."""
    return swissroll.roll(swissroll.START + swissroll.TURN * torch.tensor(shares).double())


def test_roll_by_hand():
    x = on_the_roll(0.02, 0.02, 0.03, 0.50, 0.99)
    x[0] *= 1 + 0.03 / x[0].norm()  # outwards by 0.03, almost straight across
    x[4] *= 1 + 0.2 / x[4].norm()  # and by 6 sd
    found = swiss_roll(x)
    assert found.hq == 80.0
    assert found.modes == 2, "the first stretch and the thirteenth"
    across = 0.03 * across_the_radius(0.02)
    assert found.sd == pytest.approx(across / 2, rel=0.02)
    p, q = torch.zeros(26).double(), torch.full((26,), 1 / 25).double()
    p[0], p[12], p[25], q[25] = 0.6, 0.2, 0.2, 0
    assert found.jsd == pytest.approx(jensen_shannon(p, q), abs=1e-7)
    assert found.jsd_nojunk == pytest.approx(jensen_shannon(p[:25], q[:25]), abs=1e-7)


def across_the_radius(share):
    """Cosine between the radius and the curve's normal."""
    t = swissroll.START + swissroll.TURN * share
    return t / math.sqrt(1 + t * t)


def test_a_sample_at_four_sd_of_the_roll_is_junk():
    x = on_the_roll(1.0)
    t = swissroll.START + swissroll.TURN
    onwards = torch.tensor([[math.cos(t) - t * math.sin(t), math.sin(t) + t * math.cos(t)]])
    beyond = onwards / onwards.norm() * 4 * swissroll.STD
    assert swiss_roll(x + 0.999 * beyond).hq == 100.0
    assert swiss_roll(x + 1.001 * beyond).hq == 0.0


def test_real_roll_reaches_the_ceilings():
    found = swiss_roll(swissroll.sample(Draws(0), 50_000))
    assert found.hq == pytest.approx(99.993, abs=0.02)
    assert found.modes == 25
    assert found.sd == pytest.approx(swissroll.STD, rel=0.01)
    assert found.jsd < 0.001


def test_a_lost_stretch_shows():
    x = swissroll.sample(Draws(1), 20_000)
    t = swissroll.nearest(x)[1]
    part = x[swissroll.stretch(t) != 7]
    assert swiss_roll(part).modes == 24
    assert swiss_roll(part).jsd > 10 * swiss_roll(x).jsd


def test_w1_of_the_roll():
    x = stratified_roll(500)
    assert w1_swiss_roll(x, 500) == 0.0
    assert w1_swiss_roll(x + 0.1, 500) <= 0.1 * math.sqrt(2) + 1e-6
    fair = w1_swiss_roll(swissroll.sample(Draws(2), 500), 500)
    assert fair < 0.2 < w1_swiss_roll(stratified(500), 500)
