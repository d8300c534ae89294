import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from runs import OFFSET, SCALE, plain, scaled

import drs_fast as drs
from drs_fast.core import BURN_IN_ROW
from drs_fast.samplers import NAMES
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.samplers.drs import DRS

CLASSES = 3


def replaced(change):
    """plain(), with `change` applied to the logits of each block."""
    clean = plain().discriminator

    def discriminator(x):
        logit = clean(x).clone()
        change(logit)
        return logit

    return plain(discriminator)


def acceptance(gan, sampler, rows=200_000, seed=3):
    """Accepted rows, and all rows, of each class, over proposals that burn-in has not seen."""
    state = sampler.init(gan, drs.Rng(seed))
    rng = drs.Rng(seed, 10**9)
    y = drs.ops.labels(gan, rng, rows)
    _, batch = sampler.step(gan, state, drs.ops.latents(gan, rng, rows), y, rng)
    if y is None:
        return [(int(batch.count), rows)]
    kept = batch.y[: int(batch.count)]
    return [(int((kept == k).sum()), int((y == k).sum())) for k in range(gan.labels)]


# --- fields


@pytest.mark.parametrize(
    "fields",
    [
        {"gamma": 0.0, "percentile": 80},
        {"gamma": 0.0, "target_acceptance": 0.2},
        {"percentile": 80, "target_acceptance": 0.2},
        {"gamma": 1.0, "percentile": 80, "target_acceptance": 0.2},
    ],
)
def test_only_one_way_to_gamma(fields):
    with pytest.raises(ValueError, match="one of gamma, percentile and target_acceptance"):
        DRS(**fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 601.0),
        ("gamma", -601),
        ("gamma", math.nan),
        ("gamma", "0"),
        ("gamma", True),
        ("percentile", -1),
        ("percentile", 100.5),
        ("percentile", math.nan),
        ("target_acceptance", 0.0),
        ("target_acceptance", 1.1),
        ("target_acceptance", -0.1),
        ("log_m", math.inf),
        ("log_m", math.nan),
        ("eps", -1e-9),
        ("eps", 1.5),
        ("burn_in", 0),
        ("burn_in", 1e4),
        ("burn_in", True),
        ("adapt", "row"),
        ("interpolation", "lower"),
    ],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        DRS(**{name: value})


@pytest.mark.parametrize("percentile", [0.8, 0.01, 0.999])
def test_a_fraction_is_no_percentile(percentile):
    with pytest.raises(ValueError, match="percent") as error:
        DRS(percentile=percentile)
    assert f"write {100 * percentile:g}" in str(error.value)


@pytest.mark.parametrize("percentile", [0, 1, 1.0, 80, 100])
def test_percentiles_at_the_ends(percentile):
    state = DRS(percentile=percentile, burn_in=1000).init(plain(), drs.Rng(0))
    assert torch.isfinite(state.gamma)


@pytest.mark.parametrize("fields", [{"gamma": 0.0}, {"target_acceptance": 0.5}])
def test_adapting_takes_a_percentile_only(fields):
    with pytest.raises(ValueError, match="only a percentile"):
        DRS(adapt="batch", **fields)


@pytest.mark.parametrize("fields", [{"gamma": 0.0}, {"target_acceptance": 0.5}])
def test_interpolating_takes_a_percentile_only(fields):
    with pytest.raises(
        ValueError, match=r"interpolation needs a percentile, got .*; give only a percentile"
    ):
        DRS(interpolation="linear", **fields)


def test_fields_are_frozen():
    sampler = DRS()
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.gamma = 1.0
    with pytest.raises(AttributeError):
        sampler.init(plain(), drs.Rng(0)).gamma = torch.tensor(0.0)


def test_the_sampler_is_found_by_name():
    assert "drs" in NAMES
    assert drs.samplers.get("drs") is drs.samplers.DRS is DRS
    with pytest.raises(ValueError, match="drs"):
        drs.samplers.get("DRS ")
    with pytest.raises(AttributeError, match="drs"):
        _ = drs.samplers.Drs


# --- burn-in


def test_log_m_and_gamma_come_from_the_burn_in_rows():
    gan, n = plain(), 5000
    state = DRS(percentile=95, burn_in=n).init(gan, drs.Rng(9))
    logit = gan.logits(drs.ops.latents(gan, drs.Rng(9, BURN_IN_ROW), n))[1]
    assert torch.equal(state.logits, logit)
    assert state.log_m == logit.max().double()
    d = logit.double() - logit.max().double()
    f = d - torch.log(-torch.expm1(d - 1e-6))
    assert float(state.gamma) == pytest.approx(float(f.sort().values[4749]), abs=1e-9)


@pytest.mark.parametrize("block", [256, 1024, 4096])
def test_the_state_does_not_depend_on_the_block(block):
    reference = DRS().init(plain().on(block=512), drs.Rng(1))
    state = DRS().init(plain().on(block=block), drs.Rng(1))
    assert all(torch.equal(a, b) for a, b in zip(reference, state, strict=True))


def test_the_default_is_the_80th_percentile():
    default = DRS().init(plain(), drs.Rng(0))
    assert default.gamma == DRS(percentile=80).init(plain(), drs.Rng(0)).gamma
    assert default.gamma != DRS(percentile=81).init(plain(), drs.Rng(0)).gamma


def test_at_the_percentile_the_probability_is_one_half():
    state = DRS(percentile=80).init(plain(), drs.Rng(0))
    logit = state.logits.sort().values[7999:8000]
    p = drs.ops.probability(logit, log_m=state.log_m, gamma=state.gamma)
    assert float(p) == pytest.approx(0.5, abs=1e-9)


def test_given_values_are_taken_as_they_are():
    state = DRS(gamma=-2.5, log_m=17.0).init(plain(), drs.Rng(0))
    assert (float(state.gamma), float(state.log_m)) == (-2.5, 17.0)
    lower = DRS(percentile=80, log_m=17.0).init(plain(), drs.Rng(0))
    assert float(lower.log_m) == 17.0
    assert lower.gamma < DRS(percentile=80).init(plain(), drs.Rng(0)).gamma


def test_the_state_does_not_change():
    gan, sampler = plain(), DRS()
    state = sampler.init(gan, drs.Rng(0))
    before = [tensor.clone() for tensor in state]
    for row in (0, 4096, 10**6):
        rng = drs.Rng(0, row)
        after, _ = sampler.step(gan, state, 9 + drs.ops.latents(gan, rng, 500), None, rng)
        assert after is state
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize("target", [1e-3, 0.2, 0.9])
@pytest.mark.parametrize("log_m", [None, 30.0])
def test_the_target_acceptance_is_met(target, log_m):
    n, burn = 200_000, 10_000
    sampler = DRS(target_acceptance=target, burn_in=burn, log_m=log_m)
    state = sampler.init(plain(), drs.Rng(3))
    assert float(state.acceptance) == pytest.approx(target, rel=1e-9)
    ((kept, rows),) = acceptance(plain(), sampler, n)
    # The mean of p over the burn-in rows errs by at most a Bernoulli's deviation too.
    deviation = math.sqrt(target * (1 - target) * (1 / rows + 1 / burn))
    assert abs(kept / rows - target) < 4.5 * deviation


def test_the_expected_acceptance_is_in_the_state():
    sampler = DRS(percentile=80)
    state = sampler.init(plain(), drs.Rng(3))
    ((kept, rows),) = acceptance(plain(), sampler)
    assert kept / rows == pytest.approx(float(state.acceptance), abs=0.015)


@pytest.mark.parametrize(
    ("bad", "others"),
    [(math.nan, 1), (math.inf, 1), (-math.inf, 50)],
)
@pytest.mark.parametrize("percentile", [100, 99, 50])
def test_invalid_logits_never_enter_log_m_or_gamma(bad, others, percentile):
    n = 100

    def change(logit):
        logit[n - others : n] = bad

    gan, clean = replaced(change), plain()
    state = DRS(percentile=percentile, burn_in=n).init(gan, drs.Rng(2))
    logit = clean.logits(drs.ops.latents(clean, drs.Rng(2, BURN_IN_ROW), n))[1]
    valid = logit[: n - others]
    assert state.log_m == valid.max().double()
    if bad == -math.inf:  # valid: a sample that cannot be real
        valid = torch.cat([valid, torch.full((others,), bad)])
    expected = drs.ops.quantile_gamma(valid, percentile, log_m=state.log_m)
    assert state.gamma == expected
    assert torch.isfinite(state.gamma)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("count", "stops"), [(3, False), (4, True)])
def test_more_invalid_logits_than_chance_allows_stop(bad, count, stops):
    def change(logit):
        logit[100 : 100 + count] = bad

    gan = replaced(change).on(block=10_000)
    if not stops:
        assert torch.isfinite(DRS().init(gan, drs.Rng(0)).log_m)
        return
    with pytest.raises(drs.BadLogits, match=r"4 of 10,000 logits are NaN or \+inf"):
        DRS().init(gan, drs.Rng(0))


def test_only_minus_infinity_is_explained():
    gan = plain(lambda x: torch.full((len(x),), -math.inf))
    with pytest.raises(drs.BadLogits, match="rejects everything"):
        DRS().init(gan, drs.Rng(0))


@pytest.mark.parametrize("fields", [{}, {"gamma": 0.0}, {"target_acceptance": 0.1}])
def test_a_class_of_only_minus_infinity_is_explained(fields):
    def discriminator(x, y):
        return torch.where(y == 1, -math.inf, x[:, 0])

    gan = drs.GAN(lambda z, y: z, discriminator, 2, labels=3)
    with pytest.raises(drs.BadLogits, match="class 1"):
        DRS(classes="within", **fields).init(gan, drs.Rng(0))
    assert float(DRS(**fields).init(gan, drs.Rng(0)).log_m) > 2.0


def test_probabilities_are_explained():
    with pytest.raises(ValueError, match="link='probability'"):
        DRS().init(plain(lambda x: torch.sigmoid(x[:, 0])), drs.Rng(0))
    with pytest.warns(UserWarning, match="link='probability'"):
        DRS().init(plain(lambda x: torch.sigmoid(x[:, 0]).round()), drs.Rng(0))


def test_logits_in_the_unit_interval_can_be_meant():
    gan = drs.GAN(lambda z: z, lambda x: torch.sigmoid(x[:, 0]), 2, link=lambda logit: 1.0 * logit)
    assert 0 < float(DRS().init(gan, drs.Rng(0)).log_m) <= 1


@pytest.mark.parametrize("percentile", [0, 80, 100])
def test_equal_logits_are_accepted(percentile):
    gan = plain(lambda x: torch.full((len(x),), 2.0))
    ((kept, rows),) = acceptance(gan, DRS(percentile=percentile), 20_000)
    assert 0.48 < kept / rows < 0.52  # every logit is the percentile


# --- classes


@pytest.mark.parametrize("target", [0.1, 0.5])
def test_each_class_has_its_own_threshold(target):
    sampler = DRS(target_acceptance=target, burn_in=12_000, classes="within")
    gan = scaled()
    state = sampler.init(gan, drs.Rng(3))
    logit, y = burn_in(gan, drs.Rng(3), 12_000, each=True)
    assert state.log_m.tolist() == [float(logit[y == k].max()) for k in range(CLASSES)]
    assert state.gamma.shape == (CLASSES,)
    for kept, rows in acceptance(gan, sampler):
        deviation = math.sqrt(target * (1 - target) * (1 / rows + 1 / 3_500))
        assert abs(kept / rows - target) < 4.5 * deviation


def test_a_percentile_of_each_class():
    gan = scaled()
    state = DRS(percentile=90, classes="within").init(gan, drs.Rng(5))
    logit, y = burn_in(gan, drs.Rng(5), 10_000, each=True)
    for k in range(CLASSES):
        expected = drs.ops.quantile_gamma(logit[y == k], 90, log_m=state.log_m[k])
        assert state.gamma[k] == expected
    assert len(set(state.gamma.tolist())) == CLASSES


def test_rows_keep_their_labels():
    gan, sampler = scaled(), DRS()
    state = sampler.init(gan, drs.Rng(0))
    y = drs.ops.labels(gan, drs.Rng(0), 2000)
    _, batch = sampler.step(gan, state, drs.ops.latents(gan, drs.Rng(0), 2000), y, drs.Rng(0))
    n = int(batch.count)
    assert 0 < n < 2000
    assert torch.equal(batch.y[:n], y[batch.ids[:n]])
    assert torch.equal(batch.logit[:n], SCALE[batch.y[:n]] * batch.x[:n, 0] + OFFSET[batch.y[:n]])


def test_one_threshold_for_all_classes():
    gan = scaled()
    state = DRS(percentile=90).init(gan, drs.Rng(5))
    logit, _ = burn_in(gan, drs.Rng(5), 10_000)
    assert float(state.log_m) == float(logit.max())
    assert state.gamma == drs.ops.quantile_gamma(logit, 90, log_m=state.log_m)


# --- adapt="batch"


@pytest.mark.parametrize("percentile", [None, 95])
@pytest.mark.parametrize(
    ("gan", "choice"),
    [(plain(), "joint"), (scaled(), "joint"), (scaled(), "within")],
    ids=["plain", "joint", "within"],
)
def test_adapting_follows_the_papers_loop(percentile, gan, choice):
    """Equation 8 with the running maximum and the batch's percentile of F."""
    sampler, burn, size, eps = (
        DRS(adapt="batch", percentile=percentile, burn_in=200, classes=choice),
        200,
        512,
        1e-6,
    )
    state = sampler.init(gan, drs.Rng(4))
    logit, y = burn_in(gan, drs.Rng(4), burn, each=choice == "within")
    classes = range(gan.labels if choice == "within" else 1)
    y = y if choice == "within" else torch.zeros(burn, dtype=torch.int64)
    maxima = [float(logit[y == k].max()) for k in classes]
    start = list(maxima)
    for batch_number in range(20):
        rng = drs.Rng(4, batch_number * size)
        z, y = drs.ops.latents(gan, rng, size), drs.ops.labels(gan, rng, size)
        state, batch = sampler.step(gan, state, z, y, rng)
        logit = gan.logits(z, y)[1].double()
        u = drs.ops.uniform(rng, size, stream=1)
        label = y if choice == "within" else torch.zeros(size, dtype=torch.int64)
        p = torch.empty(size, dtype=torch.float64)
        for k in classes:
            rows = (label == k).nonzero()[:, 0]
            maxima[k] = max(maxima[k], float(logit[rows].max()))
            d = logit[rows] - maxima[k]
            f = d - torch.log(1 - torch.exp(d - eps))
            gamma = f.sort().values[math.ceil((percentile or 80) / 100 * len(rows)) - 1]
            p[rows] = torch.sigmoid(f - gamma)
        assert torch.equal(batch.ids[: int(batch.count)], (u < p).nonzero()[:, 0] + rng.row)
        assert int(batch.stats["above"]) == 0
        assert state.log_m.reshape(-1).tolist() == maxima
    assert any(now > before for now, before in zip(maxima, start, strict=True))


def published(logit, percentile, log_m, eps=1e-6):
    """np.percentile of F from equation 8, in a form that loses no digits."""
    f = -torch.log(torch.expm1(log_m - logit.double()) - math.expm1(-eps))
    return np.percentile(f.numpy(), percentile)


@pytest.mark.parametrize("percentile", [80, 95])
def test_linear_interpolation_is_that_of_published_code(percentile):
    """Gamma from all burn-in logits, from those of a class, or from every batch."""
    fields = {"percentile": percentile, "interpolation": "linear"}
    gan, rng = scaled(), drs.Rng(4)
    state = DRS(burn_in=33, **fields).init(plain(), rng)
    logit, _ = burn_in(plain(), rng, 33)
    assert float(state.gamma) == pytest.approx(published(logit, percentile, state.log_m), abs=1e-12)
    assert state.gamma != DRS(burn_in=33, percentile=percentile).init(plain(), rng).gamma
    sampler = DRS(adapt="batch", classes="within", burn_in=33, **fields)
    state = sampler.init(gan, rng)
    logit, y = burn_in(gan, rng, 33, each=True)
    for _ in range(2):
        for k in range(CLASSES):
            expected = published(logit[y == k], percentile, state.log_m[k])
            assert float(state.gamma[k]) == pytest.approx(expected, abs=1e-12)
        z, y = drs.ops.latents(gan, rng, 64), drs.ops.labels(gan, rng, 64)
        logit = gan.logits(z, y)[1]
        state, _ = sampler.step(gan, state, z, y, rng)


def test_adapting_to_a_batch_without_a_valid_logit():
    sampler, gan = DRS(adapt="batch"), plain()
    state = sampler.init(gan, drs.Rng(0))
    z = torch.full((300, 2), math.nan)
    after, batch = sampler.step(gan, state, z, None, drs.Rng(0))
    assert int(batch.count) == 0
    assert int(batch.stats["invalid"]) == 300
    assert after.log_m == state.log_m
    assert after.gamma == state.gamma


def test_adapting_only_to_valid_logits():
    sampler, gan = DRS(adapt="batch"), plain()
    state = sampler.init(gan, drs.Rng(0))
    z = drs.ops.latents(gan, drs.Rng(0), 300)
    z[7, 0], z[8, 0] = math.nan, math.inf
    after, _ = sampler.step(gan, state, z, None, drs.Rng(0))
    valid = gan.logits(z)[1][torch.isfinite(gan.logits(z)[1])]
    assert after.log_m == max(float(state.log_m), float(valid.max()))
    assert after.gamma == drs.ops.quantile_gamma(valid, 80, log_m=after.log_m)


# --- what it says about itself


@pytest.mark.parametrize(
    ("sampler", "law"),
    [
        (
            DRS(gamma=0.0, eps=0.0),
            r"data when weighted; unweighted, data with ratios capped at .* the burn-in$",
        ),
        (
            DRS(gamma=0.0),
            r"data when weighted; unweighted, data with ratios capped .*, up to eps = 1e-06$",
        ),
        (
            DRS(gamma=0.0, eps=1e-3),
            r"data when weighted; unweighted, data with .*, up to eps = 0\.001$",
        ),
        (
            DRS(gamma=0.0, classes="within"),
            r"data when weighted; unweighted, data of each class, in the proportions asked for, w",
        ),
        (DRS(), "sharpened"),
        (DRS(gamma=1.0), "sharpened"),
        (DRS(target_acceptance=0.1), "sharpened"),
        (DRS(adapt="batch"), "running maximum"),
    ],
)
def test_the_law_is_told(sampler, law):
    assert re.match(law, sampler.law) or (law[0] != "d" and law in sampler.law)
    assert "\n" not in sampler.law


def test_a_given_log_m_is_no_promise_of_the_data():
    # Logits above it are accepted almost surely: they keep the model's odds, not the data's.
    assert DRS(gamma=0.0, eps=0.0, log_m=-5.0).law != "data"


def test_only_the_adapting_sampler_is_sequential():
    assert not DRS().sequential
    assert DRS(adapt="batch").sequential
    assert DRS().group == 1
