"""Metrics in a classifier's feature space, on cases known exactly and with planted faults."""

import math

import numpy as np
import pytest
import torch
from agreement import threads

from benchmarks.common import features
from drs_fast.training.fitting import Draws

pytest.importorskip("sklearn")

from drs_fast.zoo import digits


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_frechet_of_gaussians_on_one_axis():
    """(m - n)^2 + (s - t)^2."""
    zero, three = torch.zeros(1), torch.full((1,), 3.0)
    assert features.frechet_of_gaussians(zero, matrix([4.0]), three, matrix([25.0])) == 9 + 9


def test_frechet_of_gaussians_whose_covariances_commute():
    mean = torch.tensor([1.0, -2.0])
    first, second = matrix([1.0, 0.0], [0.0, 9.0]), matrix([16.0, 0.0], [0.0, 4.0])
    found = features.frechet_of_gaussians(mean, first, mean + 1, second)
    assert found == pytest.approx(2 + 9 + 1, abs=1e-12)


def test_frechet_of_gaussians_that_do_not_commute():
    """In two dimensions tr (A B)^(1/2) = (tr(A B) + 2 (det A det B)^(1/2))^(1/2)."""
    a, b, zero = matrix([2.0, 1.0], [1.0, 3.0]), matrix([4.0, -1.5], [-1.5, 1.0]), torch.zeros(2)
    cross = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(float(a.det() * b.det())))
    expected = float(a.trace() + b.trace()) - 2 * cross
    assert features.frechet_of_gaussians(zero, a, zero, b) == pytest.approx(expected, abs=1e-12)
    diagonal = float((a.diagonal().sqrt() - b.diagonal().sqrt()).square().sum())
    assert abs(diagonal - expected) > 0.1, "what a variance per axis alone would give"


def test_frechet_agrees_with_scipy():
    scipy = pytest.importorskip("scipy.linalg")
    draws = Draws(2)
    x, y = draws.normal(400, 6) @ draws.normal(6, 6), draws.normal(300, 6) + 0.3
    (m, a), (n, b) = ((t.double().mean(0).numpy(), np.cov(t.double().numpy().T)) for t in (x, y))
    expected = ((m - n) ** 2).sum() + np.trace(a + b - 2 * scipy.sqrtm(a @ b).real)
    assert features.frechet(x, y) == pytest.approx(expected, rel=1e-9)


def test_frechet_keeps_its_digits_where_covariances_are_of_low_rank():
    """40 samples in 64 dimensions: 0 for the samples themselves, moved by 3 in one of them 9."""
    x = Draws(1).normal(40, 64).double()
    moved = x.clone()
    moved[:, 5] += 3
    assert features.frechet(x, x) == pytest.approx(0, abs=1e-10)
    assert features.frechet(x, moved) == pytest.approx(9, abs=1e-10)
    assert features.frechet(x, 2 * x - x.mean(0)) == pytest.approx(
        float(features.covariance(x).trace()), rel=1e-10
    )


def test_frechet_of_equal_laws_has_the_stated_bias():
    """100 pairs; their mean has a standard error of about 1.5 %, so 8 % is beyond 5 of them."""
    draws, d, n, m = Draws(4), 12, 400, 250
    found = [features.frechet(2 * draws.normal(n, d), 2 * draws.normal(m, d)) for _ in range(100)]
    expected = 4 * d * (d + 5) * (1 / n + 1 / m) / 4
    assert sum(found) / len(found) == pytest.approx(expected, rel=0.08)


def test_frechet_needs_two_samples():
    with pytest.raises(ValueError, match=r"n >= 2, got \(1, 3\)"):
        features.frechet(torch.zeros(1, 3), torch.zeros(5, 3))


# 0 1 2 3 and 10 11 12 13: with one neighbour all balls have radius 1.
REAL = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13])[:, None]


def test_precision_and_recall_by_hand():
    generated = torch.tensor([-1.0, 1.5, 4.001, 4.5, 7.0])[:, None]
    # Balls of the real ones: [-1, 4] and [9, 14], so -1 and 1.5 are in. Radii of the generated
    # ones: 2.5, 2.5, .499, .499, 2.5: [-3.5, 1.5], [-1, 4], about 4.25 and [4.5, 9.5] hold 0 to 3.
    assert features.precision_recall(generated, REAL, neighbours=1) == (2 / 5, 4 / 8)


def test_the_third_neighbour_is_not_the_second():
    """The ball around 0 reaches 3 with three neighbours, and only 2 with two."""
    real, x = torch.tensor([0.0, 1, 2, 3])[:, None], torch.tensor([[-2.5]])
    assert features.inside(x, real, 3) == 1
    assert features.inside(x, real, 2) == 0


def test_lost_modes_cost_recall_and_junk_costs_precision():
    draws = Draws(3)
    real = torch.cat([draws.normal(200, 2), draws.normal(200, 2) + 20])
    one_mode = draws.normal(400, 2)
    with_junk = torch.cat([real + 0.01 * draws.normal(400, 2), draws.normal(400, 2) - 50])
    precision, recall = features.precision_recall(one_mode, real)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    precision, recall = features.precision_recall(with_junk, real)
    assert precision == pytest.approx(0.5, abs=0.01)
    assert recall == 1


def test_duplicates_have_balls_of_radius_0():
    same = torch.zeros(5, 2)
    assert features.precision_recall(same, same) == (1, 1)
    assert features.precision_recall(same + 1e-6, same) == (0, 0)


def test_manifolds_agree_with_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    draws = Draws(6)
    x, real = draws.normal(150, 5) * 1.3, draws.normal(200, 5)
    radius = NearestNeighbors(n_neighbors=4).fit(real).kneighbors(real)[0][:, -1]
    inside = (torch.cdist(x.double(), real.double()).numpy() <= radius).any(axis=1).mean()
    assert 0 < inside < 1
    assert features.inside(x, real, 3) == pytest.approx(inside, abs=1e-12)


def test_neighbours_need_samples():
    with pytest.raises(ValueError, match="3 neighbours need more samples than 3"):
        features.precision_recall(torch.zeros(3, 2), torch.zeros(9, 2))


def test_balance_and_total_variation():
    scores = torch.tensor([[3.0, 0, 0], [0.0, 1, 0], [5.0, 1, 2], [0.0, 9, 1]])
    shares = features.balance(scores)
    assert shares.tolist() == [0.5, 0.5, 0]
    assert features.total_variation(shares, torch.tensor([0.25, 0.25, 0.5])) == 0.5
    assert features.total_variation(shares, shares) == 0


def test_labels_belong_to_the_images():
    """Nearest neighbours share the label; with rows mixed up, only 10 % would."""
    (images, held_out), (known, truth) = digits.split(), features.labels()
    nearest = torch.cdist(held_out.flatten(1), images.flatten(1)).argmin(dim=1)
    assert len(truth) == len(held_out) == digits.HELD_OUT
    assert float((known[nearest] == truth).double().mean()) > 0.95


def test_classifier_knows_held_out_digits():
    network, held_out = features.classifier(), digits.split()[1]
    with torch.inference_mode():
        right = network(held_out).argmax(dim=1) == features.labels()[1]
        assert network.body(held_out).shape == (digits.HELD_OUT, 32)
    assert float(right.double().mean()) > 0.95
    assert not network.training


def test_classifier_is_a_function_of_its_seed():
    state = torch.get_rng_state()
    with threads(2):
        runs = [features.classifier.__wrapped__(seed, steps=3).state_dict() for seed in (0, 0, 1)]
        assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not any(torch.equal(runs[0][key], runs[2][key]) for key in runs[0])


@pytest.fixture(scope="module")
def space():
    return features.Space()


def test_space_tells_real_digits_from_planted_faults(space):
    images, known = digits.split()[0], features.labels()[0]
    real = space.quality(images[:360])
    noisy = space.quality(Draws(5).jitter(images[:360], 0.7).clamp(-1, 1))
    few = space.quality(images[known < 5][:360])
    assert real["frechet"] < 0.5 * min(noisy["frechet"], few["frechet"])
    assert real["precision"] > noisy["precision"] + 0.2
    assert real["recall"] > few["recall"] + 0.2
    assert real["imbalance"] < 0.1
    assert few["imbalance"] > 0.4


def test_real_digits_follow_themselves(space):
    same = space.quality(digits.split()[1])
    assert same == {
        "frechet": pytest.approx(0, abs=1e-9),
        "precision": 1,
        "recall": 1,
        "imbalance": 0,
    }
