"""Calibration and its report, on normals whose log ratio is known.

p_model is N(0, 1) and p_data N(SHIFT, 1), so log r = SHIFT x - SHIFT^2 / 2.
"""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import logsigmoid

from benchmarks.speed import calibrators as calibrators_benchmark
from drs_fast import GAN, BadLogits, Rng, ops
from drs_fast.ratio import calibrators
from drs_fast.ratio.calibrate import calibrate, curve, measure, reliability, report
from drs_fast.ratio.calibrators import METHODS, fit
from drs_fast.ratio.held_out import Logits, halves, held_out
from drs_fast.ratio.relativistic import relativistic
from drs_fast.samplers.common.burn_in import burn_in
from drs_fast.training.fitting import Draws

SHIFT = 1.2
N = 10_000
SMOOTH = ("platt", "temperature", "beta")


class Critic(nn.Module):
    """The true log ratio, changed by `distort`."""

    def __init__(self, distort=lambda logit: logit):
        super().__init__()
        self.distort = distort
        self.weight = nn.Parameter(torch.tensor(SHIFT))

    def forward(self, x, *label):
        return self.distort(self.weight * x[:, 0] - SHIFT**2 / 2)


def truth(x):
    return SHIFT * x[:, 0] - SHIFT**2 / 2


def real_samples(n=N):
    return Draws(5).normal(n, 1) + SHIFT


def made(distort=lambda logit: logit, link="logit", n=N, **settings):
    settings = {"real": real_samples(n), "block": 4096, **settings}
    return GAN(lambda z: z, Critic(distort), 1, link=link, **settings)


def steep(logit):
    return 3.0 * logit + 0.7


def quietly(gan, method="platt", **settings):
    """The calibrated GAN; warnings are errors, so it must not warn."""
    return calibrate(gan, method, n=N, **settings)


def drawn(n_real, n_generated, seed=0):
    """The true logits of real and generated samples."""
    draws = Draws(seed)
    return Logits(
        truth(draws.normal(n_real, 1).double() + SHIFT),
        truth(draws.normal(n_generated, 1).double()),
    )


# Fitted on 5,000 of each, a slope has a standard deviation of 0.021 and an offset one of 0.013
# (60 seeds): 5 of them.
SLOPE, OFFSET = 0.105, 0.065


def test_platt_finds_the_slope_and_the_offset():
    gan = made(steep)
    found = quietly(gan)
    line = found.link
    assert float(line.slope) * 3 == pytest.approx(1.0, abs=SLOPE)
    assert float(line.offset + line.slope * 0.7) == pytest.approx(0.0, abs=OFFSET)
    x = torch.linspace(-3, 3, 50)[:, None]
    assert torch.allclose(found.scores(x), truth(x), atol=0.35)
    assert not torch.allclose(gan.scores(x), truth(x), atol=2.0)


def test_temperature_finds_the_slope():
    line = quietly(made(lambda logit: 3.0 * logit), "temperature").link
    assert float(line.slope) * 3 == pytest.approx(1.0, abs=SLOPE)
    assert line.offset == 0.0


def two_slopes(logit):
    """The score whose beta calibration with a = 2, b = 0.5, c = 0.3 is the logit."""
    low, high = torch.full_like(logit, -20.0), torch.full_like(logit, 20.0)
    for _ in range(30):
        middle = (low + high) / 2
        less = 2 * logsigmoid(middle) - 0.5 * logsigmoid(-middle) + 0.3 < logit
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    return (low + high) / 2


def test_beta_finds_two_slopes():
    gan = made(two_slopes)
    beta = quietly(gan, "beta")
    # Standard deviations 0.12, 0.05 and 0.11 (60 seeds): 5 of them.
    assert (
        (beta.link.weights - torch.tensor([2.0, 0.5, 0.3]))
        .abs()
        .lt(torch.tensor([0.6, 0.25, 0.6]))
        .all()
    )
    x = torch.linspace(-2, 4, 50)[:, None]
    with pytest.warns(UserWarning, match=r"'platt', exp\(logit\) of generated samples has mean"):
        line = calibrate(gan, n=N)
    wrong = (line.scores(x) - truth(x)).abs().max()
    assert (beta.scores(x) - truth(x)).abs().max() < 0.5 * wrong


def test_beta_never_falls():
    """A slope that would be negative is set to 0, and the rest are fitted without it."""
    logits = drawn(2_000, 2_000)
    bent = Logits(*(-logit.abs() + 0.3 * logit for logit in logits))
    weights = fit("beta", bent).weights
    assert (weights[:2] >= 0).all()
    assert (weights[:2] == 0).any()
    rising = fit("beta", bent)(torch.linspace(-5, 5, 100))
    assert (rising.diff() >= 0).all()


def ties(logits):
    return Logits(*((4 * logit).round() / 4 for logit in logits))


def stairs(logits):
    """30 levels with rising shares of real samples; the last ones are pooled one by one."""
    steps, each = 30, 40
    shares = [(k, each - k) for k in range(1, steps + 1)]
    real = torch.cat([torch.full((k,), float(i)) for i, (k, _) in enumerate(shares)])
    generated = torch.cat([torch.full((k,), float(i)) for i, (_, k) in enumerate(shares)])
    return Logits(real.double(), torch.cat([generated, torch.arange(30.0, 600.0)]).double())


@pytest.mark.parametrize("change", [lambda logits: logits, ties, stairs])
@pytest.mark.parametrize("counts", [(300, 300), (50, 700), (700, 50)])
def test_isotonic_is_that_of_scikit_learn(change, counts):
    from sklearn.isotonic import IsotonicRegression

    logits = change(drawn(*counts))
    reals, others = map(len, logits)
    score = torch.cat(logits)
    low, high = score.aminmax()
    label = torch.cat([torch.ones(reals), torch.zeros(others + 1), torch.ones(1)])
    score = torch.cat([score, high[None], low[None]])
    oracle = IsotonicRegression(out_of_bounds="clip").fit(score.numpy(), label.numpy())
    asked = torch.cat([score, torch.linspace(-9, 9, 1001, dtype=torch.float64)])
    share = torch.from_numpy(oracle.predict(asked.numpy()))
    expected = torch.logit(share) - math.log(reals / others)
    assert torch.allclose(fit("isotonic", logits)(asked), expected, atol=1e-9, rtol=0)


PEERS = calibrators_benchmark.peers()


@pytest.mark.parametrize("peer", PEERS, ids=[f"{p.method}-{p.name}" for p in PEERS])
def test_what_the_benchmark_times_is_the_same_fit(peer):
    valid = calibrators_benchmark.logits(calibrators_benchmark.SAMPLES)
    assert calibrators_benchmark.distance(peer, valid) <= peer.tolerance
    other = replace(peer, log_ratio=lambda fitted, x: peer.log_ratio(fitted, x) + 0.01)
    with pytest.raises(SystemExit, match=f"{peer.method}: {peer.name} differs by"):
        calibrators_benchmark.compared(other, valid, 1)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", METHODS)
def test_threads_do_not_matter(method, threads):
    logits = drawn(70_000, 50_000)
    found = []
    for number in (1, 2, 3):
        threads(number)
        link = fit(method, logits)
        found.append((dict(link.named_buffers()), measure(logits)))
        assert torch.get_num_threads() == number
    for buffers, measured in found[1:]:
        assert all(torch.equal(value, found[0][0][name]) for name, value in buffers.items())
        assert measured == found[0][1]


FAR = Logits(torch.tensor([0.0, 100.0]).double(), torch.linspace(-1, 1, 100).double())


@pytest.mark.parametrize("method", SMOOTH)
@pytest.mark.parametrize(
    "logits", [Logits(*(100.0 * logit + 3.0 for logit in drawn(300, 500))), FAR], ids=["", "far"]
)
def test_newton_ends_where_the_gradient_is_zero(method, logits, monkeypatch):
    seen = []
    solve = calibrators._logistic

    def kept(features, reals, prior):
        seen.append((features, prior, solve(features, reals, prior)))
        return seen[-1][-1]

    monkeypatch.setattr(calibrators, "_logistic", kept)
    fit(method, logits)
    reals, others = map(len, logits)
    high, low = (reals + 1) / (reals + 2), 1 / (others + 2)
    target = torch.tensor([high] * reals + [low] * others, dtype=torch.float64)
    assert seen
    for features, prior, weights in seen:
        gradient = features @ (torch.sigmoid(weights @ features + prior) - target)
        assert (gradient.abs() < 1e-9 * features.abs().sum(dim=1)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("counts", [(4_000, 16_000), (16_000, 4_000)])
def test_unequal_counts_do_not_shift_the_logit(method, counts):
    logits = drawn(*counts)
    score = torch.linspace(-2.0, 1.5, 20)
    # Errors reach 0.17, isotonic 0.42, in 60 seeds; log(4) = 1.39 would show.
    assert torch.allclose(fit(method, logits)(score), score.double(), atol=0.7, rtol=0)
    found = measure(logits)
    assert (found.real, found.generated) == counts
    assert found.warnings == ()
    # log(4) is 50 standard deviations away.
    assert abs(measure(Logits(*(logit + math.log(4) for logit in logits))).z) > 20


@pytest.mark.parametrize("method", METHODS)
def test_impossible_samples_count_but_are_not_fitted(method):
    """Half of the generated samples cannot be real: elsewhere the ratio is twice as high."""
    logits = drawn(10_000, 10_000)
    half = torch.full((10_000,), -math.inf, dtype=torch.float64)
    logits = Logits(logits.real + math.log(2), torch.cat([logits.generated + math.log(2), half]))
    score = torch.linspace(-1.5, 2.0, 20)
    assert torch.allclose(fit(method, logits)(score), score.double(), atol=0.4, rtol=0)
    assert measure(logits).warnings == ()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_infinite_or_not_a_number_stays_so(method):
    link = fit(method, drawn(500, 500))
    found = link(torch.tensor([-math.inf, 0.0, math.inf, math.nan]))
    assert found[[0, 2]].tolist() == [-math.inf, math.inf]
    assert found[1].isfinite()
    assert found[3].isnan()


@pytest.mark.parametrize("method", METHODS)
def test_perfect_separation_gives_a_finite_link_and_a_warning(method):
    gan = made(
        lambda logit: torch.where(logit > 0, logit + 20, logit - 20), real=real_samples() + 9
    )
    with pytest.warns(UserWarning, match="no score of a generated sample is as high") as seen:
        found = calibrate(gan, method, n=2_000)
    assert seen[0].filename == __file__
    x = torch.linspace(-100, 100, 100)[:, None]
    logit = found.scores(x)
    assert logit.isfinite().all()
    assert (logit.diff() >= 0).all()
    assert logit[-1] > 3
    assert logit[0] < -3


def test_dawids_z_is_blind_to_slopes_and_the_slope_is_not():
    exact = report(made(), N)
    scaled = report(made(lambda logit: 3.0 * logit), N)
    shifted = report(made(lambda logit: logit + 0.5), N)
    assert exact.warnings == ()
    assert abs(scaled.z) < 2
    assert scaled.slope == pytest.approx(exact.slope / 3, rel=1e-6)
    (slope, ratio) = scaled.warnings
    assert slope.startswith("the slope is 0.3")
    assert slope.endswith("the logits are too steep")
    assert ratio.startswith("exp(logit) of generated samples has mean")
    assert shifted.z < -10
    assert shifted.slope == pytest.approx(exact.slope, rel=1e-6)
    assert shifted.offset == pytest.approx(exact.offset - 0.5 * exact.slope, abs=1e-6)
    assert any("Dawid's Z is" in warning for warning in shifted.warnings)
    assert "too flat" in report(made(lambda logit: 0.5 * logit), N).warnings[0]


def test_the_report_looks_at_the_top_tenth_alone():
    """Above 1 the logit is three times the log ratio, with a jump from 1 to 3."""
    found = report(made(lambda logit: torch.where(logit > 1.0, 3.0 * logit, logit)), N)
    assert found.top_slope + 4 * found.top_error < 1 / 3
    assert any(w.startswith("in the top tenth the slope is 0.2") for w in found.warnings)
    exact = report(made(), N)
    assert abs(exact.top_slope - 1.0) < 4 * exact.top_error < 0.5
    assert not any("top tenth" in w for w in exact.warnings)


def test_logits_far_below_all_real_ones_do_not_hide_the_others():
    """Scores like a Cauchy against a normal, where Newton's method would not move."""
    real, generated = drawn(4000, 4000, 3)
    far = generated.clone()
    far[:5] = -1e10
    assert measure(Logits(real, far)).slope == pytest.approx(1.0, abs=4 * 0.04)
    assert measure(Logits(real, far)).offset == pytest.approx(0.0, abs=0.2)


@pytest.mark.parametrize("method", METHODS)
def test_the_report_gets_better(method):
    def distorted(logit):
        return 3.0 * logit if method == "temperature" else steep(logit)

    before = made(distorted)
    after = quietly(before, method)
    worse, better = report(before, N), report(after, N)
    assert worse.warnings != ()
    assert better.warnings == ()
    assert better.brier < worse.brier - 0.01
    assert better.ece < 0.03 < 0.1 < worse.ece
    assert abs(better.mean_ratio - 1) < 0.1
    assert abs(better.slope - 1) < SLOPE


def test_the_numbers_of_a_report():
    logits = Logits(
        *(torch.tensor(v, dtype=torch.float64) for v in ([2.0, -0.5], [0.4, -1.0, -3.0]))
    )
    prior = math.log(2 / 3)
    chance = [1 / (1 + math.exp(-(logit + prior))) for logit in torch.cat(logits).tolist()]
    label = [1, 1, 0, 0, 0]
    residual = [y - p for y, p in zip(label, chance, strict=True)]
    found = measure(logits)
    spread = sum(p * (1 - p) for p in chance)
    assert found.z == pytest.approx(sum(residual) / math.sqrt(spread), abs=1e-12)
    assert found.brier == pytest.approx(sum(r * r for r in residual) / 5, abs=1e-12)
    # Every sample is alone in its bin.
    assert len({int(15 * p) for p in chance}) == 5
    assert found.ece == pytest.approx(sum(map(abs, residual)) / 5, abs=1e-12)
    assert found.mean_ratio == pytest.approx(
        sum(math.exp(v) for v in (0.4, -1.0, -3.0)) / 3, abs=1e-12
    )
    assert not found.separated
    two = reliability(logits, bins=2)
    low = sorted(chance)[:4]
    assert two.size.tolist() == [4, 1]
    assert two.claimed[0] == pytest.approx(sum(low) / 4, abs=1e-12)
    assert two.observed.tolist() == [0.25, 1.0]


def test_how_much_dawids_z_varies():
    """Given the counts, Z has variance 1 - 4 E[D (1 - D)] = 0.25, so |Z| > 2 is 4 sd away."""
    z = torch.tensor([measure(drawn(400, 400, seed)).z for seed in range(200)])
    logit = torch.cat(drawn(200_000, 200_000))
    chance = torch.sigmoid(logit)
    expected = 1 - 4 * float((chance * (1 - chance)).mean())
    assert expected < 0.3
    # 200 draws: the variance has a relative sd of 0.1, the mean one of 0.035: 5 of them.
    assert float(z.var()) == pytest.approx(expected, rel=0.5)
    assert abs(float(z.mean())) < 0.2


def test_same_seed_same_link_and_sha256():
    gan = made(steep)
    one, again, other = (quietly(gan, seed=seed) for seed in (0, 0, 1))
    assert one.sha256() == again.sha256()
    assert len({gan.sha256(), one.sha256(), other.sha256()}) == 3
    assert len({quietly(gan, method).sha256() for method in ("platt", "beta", "isotonic")}) == 3


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic"])
def test_batches_do_not_matter(method):
    gan = made(steep)
    found = quietly(gan, method)
    small = quietly(gan.on(block=256), method)
    assert small.sha256() == found.sha256()
    z = ops.latents(gan, Rng(3), 3_000)
    logit = found.logits(z)[1]
    assert logit.dtype == torch.float32
    assert torch.equal(small.logits(z)[1], logit)
    assert torch.equal(found.logits(z[1234:1235])[1], logit[1234:1235])


def test_links_compute_in_float64():
    score = torch.tensor([0.1, 0.3])
    for method in METHODS:
        link = fit(method, drawn(200, 200))
        assert link(score).dtype == torch.float64
        assert all(buffer.dtype == torch.float64 for buffer in link.buffers())
        assert torch.equal(link(score), link(score.double()))


@pytest.mark.parametrize("method", SMOOTH)
@pytest.mark.parametrize("inference", [False, True])
def test_gradients(method, inference):
    gan = made(lambda logit: 3.0 * logit)
    with torch.inference_mode(inference):
        found = quietly(gan, method)
    z = ops.latents(gan, Rng(0), 100)
    slope = found.gradients(z)[2]
    step = 1e-2
    rise = (found.logits(z + step)[1] - found.logits(z - step)[1]) / (2 * step)
    assert torch.allclose(slope[:, 0], rise, atol=1e-3)
    assert (slope > 0).all()


def test_isotonic_has_no_gradients_and_says_so():
    found = quietly(made(steep), "isotonic")
    z = ops.latents(found, Rng(0), 100)
    assert found.logits(z)[1].isfinite().all()
    for gradients in (found.gradients, found.score_gradients):
        with pytest.raises(ValueError, match="it has no gradient to follow; use 'platt'"):
            gradients(z)


def test_the_gans_own_link_comes_first():
    gan = made(lambda logit: torch.sigmoid(steep(logit)), "probability")
    x = torch.linspace(-1, 3, 20)[:, None]
    assert torch.allclose(quietly(gan).scores(x), quietly(made(steep)).scores(x), atol=1e-2)
    twice = quietly(quietly(gan))
    assert torch.allclose(twice.scores(x), quietly(gan).scores(x), atol=1e-3)
    assert len(list(twice.link.buffers())) == 4


@pytest.mark.parametrize("link", ["hinge", "wasserstein"])
@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_an_energy_becomes_a_ratio(link, method):
    gan = made(lambda logit: 50.0 * logit + 1000.0, link)
    found = quietly(gan, method)
    assert (gan.energy, found.energy) == (True, False)
    x = torch.linspace(-1.0, 2.0, 20)[:, None]
    assert torch.allclose(found.scores(x), truth(x), atol=0.4)


def test_a_relativistic_critic_is_calibrated_on_top():
    gan = relativistic(made(lambda logit: 0.3 * torch.tanh(logit)), "RaLSGAN", n=N)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = calibrate(gan, "isotonic", n=N)
    assert abs(report(found, N).slope - 1) < SLOPE < abs(report(gan, N).slope - 1)


def test_labels_of_generated_samples_are_those_of_the_real_ones():
    """Two classes with scales of their own, seen as often as the real classes, 9 to 1."""
    asked = []

    def generator(z, y):
        asked.append(y)
        return z + 4.0 * y[:, None]

    def critic(x, y):
        return truth(x - 4.0 * y[:, None])

    y = (torch.arange(N) % 10 == 0).long()
    x = real_samples() + 4.0 * y[:, None]
    gan = GAN(generator, critic, 1, labels=2, real=(x, y), block=4096)
    logits = held_out(gan, N, 0)
    assert torch.equal(torch.cat(asked)[:N], y)
    plain = made()
    assert torch.allclose(logits.real, held_out(plain, N, 0).real, atol=1e-5)
    assert torch.allclose(logits.generated, held_out(plain, N, 0).generated, atol=1e-5)
    assert float(calibrate(gan, n=N).link.slope) == pytest.approx(1.0, abs=SLOPE)
    assert report(gan, N).warnings == ()


def test_what_is_fitted_is_not_what_is_reported():
    """Halves are decided row by row, so another n moves no sample to the other half."""
    index = torch.arange(1000.0).double()
    few, many = (halves(Logits(index[:n], index[:n]), 7) for n in (100, 1000))
    for some, more in zip(few, many, strict=True):
        assert torch.equal(some.real, more.real[: len(some.real)])
        assert torch.equal(some.real, some.generated)
    assert sorted(torch.cat([half.real for half in many]).tolist()) == index.tolist()
    # 1,000 coins: 5 sd.
    assert abs(len(many[0].real) - 500) < 80
    assert not torch.equal(halves(Logits(index, index), 8)[0].real, many[0].real)
    # On the half that it was fitted on a line has slope 1 but for Platt's targets.
    gan = quietly(made(steep))
    found, bins = report(gan, N), curve(gan, N)
    assert abs(found.slope - 1) > 2e-3
    gap = (bins.size * (bins.observed - bins.claimed).abs()).sum() / bins.size.sum()
    assert float(gap) == pytest.approx(found.ece, abs=1e-9)


def test_generated_samples_are_new_to_runs_burn_in_and_training():
    from drs_fast.core import BURN_IN_ROW

    gan = made(lambda logit: logit * 0 + 1.0)
    seen = []
    gan.generator = lambda z: seen.append(z) or z
    held_out(gan, 5_000, 0)
    mine = set(torch.cat(seen)[:, 0].tolist())
    for row in (0, BURN_IN_ROW, BURN_IN_ROW + 2**61):
        theirs = set(ops.latents(gan, Rng(0, row), 5_000)[:, 0].tolist())
        # Equal float32 normals by chance: a few.
        assert len(mine & theirs) < 50


def test_nothing_of_the_users_changes():
    gan = made(steep)
    critic = gan.discriminator.train()
    before, state = gan.sha256(), torch.random.get_rng_state()
    real = gan.real.clone()
    quietly(gan, "beta")
    assert gan.sha256() == before
    assert torch.equal(gan.real, real)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert critic.weight.requires_grad
    assert critic.weight.grad is None


@pytest.mark.parametrize(
    ("gan", "settings", "message"),
    [
        (made(), {"method": "isotone"}, r"method must be one of \('platt', .*got 'isotone'"),
        (
            made(link="hinge"),
            {"method": "temperature"},
            "got the score of a hinge critic; use 'platt'",
        ),
        (made(link="wasserstein"), {"method": "beta"}, "got the score of a wasserstein critic"),
        (made(), {"n": 0}, "n must be an integer >= 1, got 0"),
        (made(), {"seed": -1}, "seed must be an integer"),
        (made(real=None), {}, r"real samples are needed, got none; build GAN\(\.\.\., real="),
        (
            made(n=15),
            {},
            "10 real and as many generated samples are needed in each part, got .; raise n",
        ),
        (3, {}, r"gan must be a drs\.GAN, got 3; use drs\.load"),
        (made(real=torch.zeros(50, 2)), {}, r"real samples must be like generated ones, \(1, 1\)"),
        (made(torch.sigmoid), {}, "look like probabilities, and its .*use link='probability'"),
    ],
)
def test_user_errors(gan, settings, message):
    with pytest.raises(ValueError, match=message):
        calibrate(gan, **settings)


@pytest.mark.parametrize(
    ("distort", "message"),
    [
        (lambda logit: logit * 0 + 2.5, "gives every sample the same score"),
        (lambda logit: logit * math.nan, "are NaN or .inf"),
        (lambda logit: logit - math.inf, "none of 10,000 logits is finite"),
    ],
)
def test_critics_that_cannot_be_calibrated(distort, message):
    with pytest.raises(BadLogits, match=message):
        calibrate(made(distort))


def test_a_critic_that_says_nothing_has_no_slope():
    found = report(made(lambda logit: logit * 0), N)
    assert math.isnan(found.slope)
    assert (found.z, found.brier, found.ece) == (0.0, 0.25, 0.0)
    assert any("the slope is nan" in warning for warning in found.warnings)


def test_a_critic_with_the_sign_turned_round():
    gan = made(lambda logit: -logit)
    for method in ("platt", "temperature"):
        assert float(quietly(gan, method).link.slope) == pytest.approx(-1.0, abs=2 * SLOPE)
    for method in ("beta", "isotonic"):
        with pytest.raises(BadLogits, match=rf"AUC 0\.[12].*{method!r} keeps .*link=lambda logit"):
            calibrate(gan, method, n=N)
        assert (
            calibrate(gan.judged(link=lambda logit: -logit), method, n=N).scores(
                torch.tensor([[2.0]])
            )
            > 1.0
        )


@pytest.mark.parametrize("method", ["beta", "isotonic"])
def test_a_blind_critic_is_not_taken_for_a_reversed_one(method):
    """By chance once in 16,000 seeds; never in these 20."""
    for seed in range(20):
        real = torch.cat([Draws(100 + seed).normal(500, 1)] * 2, dim=1)
        gan = GAN(lambda z: z, lambda x: x[:, 1], 2, real=real, block=512)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calibrate(gan, method, seed=seed)


def test_reliability_picture(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib import image

    from drs_fast.report import pictures

    gan = made(steep)
    curves = {"before": curve(gan, N), "after": curve(quietly(gan), N)}
    gap = {name: (c.claimed - c.observed).abs().max() for name, c in curves.items()}
    assert gap["after"] < 0.1 < gap["before"]
    path = pictures.reliability(tmp_path / "curve.png", curves, "calibration")
    picture = image.imread(path)[..., :3]
    for colour in (pictures.PALE, pictures.BLUE, pictures.MARK):
        paint = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert ((torch.from_numpy(picture) - paint).abs().amax(dim=2) < 0.02).sum() > 100
    pictures.reliability(tmp_path / "one.png", {"after": curves["after"]})


SIGMOIDS = {
    "torch": torch.sigmoid,
    "method": lambda score: score.sigmoid(),
    "functional": functional.sigmoid,
    "module": nn.Sigmoid(),
    "special": torch.special.expit,
    "in place": lambda score: score.clone().sigmoid_(),
    "in float64": lambda score: torch.sigmoid(score.double()),
    "then bfloat16": lambda score: torch.sigmoid(score).bfloat16(),
    "softmax": lambda score: torch.stack([0 * score, score], dim=1).softmax(dim=1)[:, 1],
    "softmax module": lambda score: nn.Softmax(dim=1)(torch.stack([0 * score, score], dim=1))[:, 1],
    "one of two": lambda score: (torch.sigmoid(score), score),
}


@pytest.mark.parametrize("n", [2, 1000])
@pytest.mark.parametrize("name", SIGMOIDS)
def test_a_sigmoid_at_the_end_is_an_error(name, n):
    gan = GAN(lambda z: z, lambda x: SIGMOIDS[name](x[:, 0]), 1, block=256)
    with pytest.raises(ValueError, match="and its last step is a sigmoid; use link='probability'"):
        burn_in(gan, Rng(0), n)


OTHERS = {
    "a formula": lambda score: 1.0 / (1.0 + torch.exp(-score)),
    "a sigmoid before the end": lambda score: 0.2 + 0.6 * torch.sigmoid(score),
    "a logit without a sigmoid": lambda score: 0.5 + 0.1 * score.clamp(-5.0, 5.0),
}


@pytest.mark.parametrize(("n", "told"), [(2, False), (99, False), (100, True)])
@pytest.mark.parametrize("name", OTHERS)
def test_other_values_in_the_unit_interval_are_a_warning(name, n, told):
    gan = GAN(lambda z: z, lambda x: OTHERS[name](x[:, 0]), 1, block=256)
    if told:
        with pytest.warns(UserWarning, match="look like probabilities, but may be logits"):
            logit, _ = burn_in(gan, Rng(0), n)
    else:
        logit, _ = burn_in(gan, Rng(0), n)
    assert len(logit) == n
    assert len(burn_in(gan.judged(link=lambda logit: logit), Rng(0), n)[0]) == n
