"""What a log_m that is too small leaves out, where the truth is known: log-normal ratios.

Each test of a law would fail by chance for at most one seed in 10^4; seeds are fixed.
"""

import math
import warnings

import pytest
import torch
from scipy.stats import norm

import drs_fast as drs
from drs_fast.cli.main import main
from drs_fast.report import report
from drs_fast.samplers import DRS
from drs_fast.samplers.common import clipped
from drs_fast.samplers.common.intervals import gamma_ends


def gan(sd):
    """Logits N(-sd^2/2, sd^2) under the generator, so N(sd^2/2, sd^2) under the data."""
    return drs.GAN(lambda z: z, lambda x: sd * x[:, 0].double() - sd * sd / 2, 1)


def missing(sd, log_m):
    """E(r - M)+."""
    far = norm.cdf((-sd * sd / 2 - log_m) / sd)
    return norm.cdf((sd * sd / 2 - log_m) / sd) - math.exp(log_m) * far


def distance(sd, log_m):
    """Total variation between the data and p_model min(r, M), by quadrature."""
    z = torch.linspace(-14, 14, 400_001, dtype=torch.float64)
    model = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    ratio = torch.exp(sd * z - sd * sd / 2)
    given = model * ratio.clamp(max=math.exp(log_m))
    return float((model * ratio - given / given.sum()).abs().sum() / 2)


@pytest.mark.parametrize("log_m", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("out", [False, True])
def test_the_estimate_is_the_mass_above(log_m, out, tmp_path):
    sampler = DRS(gamma=0.0, eps=0.0, log_m=log_m, burn_in=100)
    if out:
        found = drs.generate(gan(1.0), sampler, 40_000, out=tmp_path).manifest
        low, high = found["clipped_interval"]
    else:
        found = drs.generate(gan(1.0), sampler, 40_000).stats
        low, high = found["clipped_low"], found["clipped_high"]
    truth = missing(1.0, log_m)
    assert low < truth < high
    assert float(found["clipped"]) == pytest.approx(truth, rel=0.2)
    above = norm.cdf(-0.5 - log_m) / ((1 - truth) / math.exp(log_m))
    assert float(found["above_share"]) == pytest.approx(above, rel=0.1)


@pytest.mark.parametrize("sd", [1.0, 2.0, 3.0])
def test_it_bounds_the_distance_from_the_data(sd):
    for log_m in (0.5, 2.0, 4.0, 8.0):
        assert distance(sd, log_m) <= missing(sd, log_m) + 1e-9


@pytest.mark.parametrize(("sd", "loud"), [(0.5, False), (1.0, False), (2.0, True), (3.0, True)])
def test_a_burn_in_too_short_is_said(sd, loud, tmp_path):
    sampler = DRS(gamma=0.0, burn_in=2_000)
    for out in (None, tmp_path):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            drs.generate(gan(sd), sampler, 3_000, out=out)
        assert len(caught) == loud, [str(c.message) for c in caught]
        assert not loud or "is missing there" in str(caught[0].message)


def test_a_log_m_of_the_users_own_needs_no_warning():
    batch = drs.generate(gan(2.0), DRS(gamma=0.0, log_m=1.0), 1_000)
    assert float(batch.stats["clipped"]) > 0.1


def test_other_gammas_claim_nothing():
    batch = drs.generate(gan(2.0), DRS(), 1_000)
    assert not {"clipped", "above_share", *clipped.TALLIES} & batch.stats.keys()


def test_the_law_says_that_the_ratio_is_capped():
    assert "ratios capped at exp(log_m), log_m = the largest of the burn-in" in DRS(gamma=0.0).law
    assert "log_m = -2" in DRS(gamma=0.0, log_m=-2.0).law
    assert "up to eps = 1e-06" in DRS(gamma=0.0).law
    assert "eps" not in DRS(gamma=0.0, eps=0.0).law


def test_resumed_runs_count_the_same(tmp_path):
    sampler = DRS(gamma=0.0, log_m=1.0, burn_in=100)

    def run(name, n):
        size = {"chunk_rows": 1024, "batch_size": 256}
        return drs.generate(gan(2.0), sampler, n, out=tmp_path / name, **size).manifest

    whole = run("whole", 3_000)
    run("grown", 10)
    run("grown", 1_700)
    assert run("grown", 3_000) == whole
    for size in (256, 1024):  # of the samples alone, whatever else was tried
        memory = drs.generate(gan(2.0), sampler, 3_000, batch_size=size).stats
        assert {name: whole[name] for name in clipped.TALLIES} == {
            name: int(memory[name]) for name in clipped.TALLIES
        }


def test_ratios_too_large_to_tell_leave_the_upper_end_open():
    """One proposal in 10,000 has a logit 12 nats above all others."""
    far = 3.719016485455709
    spike = drs.GAN(
        lambda z: z, lambda x: torch.where(x[:, 0] > far, 12.0, -0.001 * x[:, 0].square()), 1
    )
    mass = 1e-4 * math.expm1(12.0)
    for seed in range(3):
        with pytest.warns(UserWarning, match="to 100.0%"):
            stats = drs.generate(spike, DRS(gamma=0.0, burn_in=500), 60_000, seed=seed).stats
        assert 0 < int(stats["deepest"]) < int(stats["capped"])
        assert float(stats["clipped_low"]) < mass / (1 + mass) < float(stats["clipped_high"])


def test_the_sums_are_those_of_the_excess():
    logit = torch.tensor([-1.0, 0.0, 0.25, 2.0, 40.0])
    log_m = torch.tensor(0.25, dtype=torch.float64)
    capped, deepest, total, high, middle, low = clipped.sums(logit, log_m).tolist()
    excess = [math.expm1(1.75), 2.0**14 - 1]
    assert (capped, deepest) == (2, 1)
    assert total * clipped.UNIT == pytest.approx(sum(excess), abs=1e-5)
    squares = ((high << 34) + (middle << 18) + low) * clipped.UNIT**2
    assert squares == pytest.approx(sum(e * e for e in excess), rel=1e-9)


def test_the_interval_is_that_of_the_exact_sums():
    logit = 3.0 * drs.ops.normal(drs.Rng(5), 4_000, 1)[:, 0]
    tally = clipped.Tally(torch.tensor(2.0, dtype=torch.float64))
    tally.add(len(logit), 1, [(logit[:1_000], None), (logit[1_000:], None)])
    excess = (logit.double() - 2.0).clamp(0.0, clipped.DEEPEST).expm1()
    total, squares = float(excess.sum()), float(excess.square().sum())
    ends = gamma_ends(total, squares - total**2 / 4_000, 3.0 * squares / total)
    found = clipped.clipped(tally.taken())
    for share, mean in zip(found, (total / 4_000, *(end / 4_000 for end in ends)), strict=True):
        assert share == pytest.approx(mean / (1 + mean), rel=1e-6)


def test_sums_are_read_before_they_overflow():
    tally = clipped.Tally(torch.tensor(0.0, dtype=torch.float64))
    for _ in range(clipped.STEPS):
        assert not tally.full
        tally.add(1, 1, [(torch.tensor([50.0]), None)])
    assert tally.full
    assert clipped.STEPS * 2**20 * (2**14 / clipped.UNIT) < 2**63  # rows of steps, the largest one
    assert tally.taken()["kept"] == clipped.STEPS
    assert not tally.full
    assert set(tally.taken().values()) == {0}


def coverage(sd, kept, runs=600):
    """The share of intervals that contain the truth, with log_m from 10,000 rows."""
    held = 0
    draws = torch.distributions.Normal(0.0, 1.0)
    for seed in range(runs):
        u = drs.ops.uniform(drs.Rng(seed), 10_002 + kept, stream=0)
        # The largest of 10,000 uniforms is u^(1/10000).
        z = float(draws.icdf(u[0].clamp(1e-12) ** 1e-4))
        log_m = sd * z - sd * sd / 2
        truth = missing(sd, log_m)
        above = norm.sf(z) / ((1 - truth) / math.exp(log_m))  # of accepted rows
        many = int((u[1 : 1 + kept] < above).sum())
        tail = norm.sf(z) * u[-many:] if many else u[:0]
        logit = torch.from_numpy(sd * norm.isf(tail.numpy()) - sd * sd / 2)
        tally = clipped.Tally(torch.tensor(log_m, dtype=torch.float64))
        tally.add(kept, many, [(logit, None)])
        found = clipped.clipped(tally.taken())
        held += found.low <= truth <= found.high
    return held / runs


@pytest.mark.parametrize(("sd", "kept"), [(1.0, 1_000), (2.0, 1_000), (2.0, 10_000), (3.0, 10_000)])
def test_the_interval_holds_the_truth(sd, kept):
    assert coverage(sd, kept) > 0.89  # 0.91 or more; two standard errors of 600 runs


def test_report_and_progress_say_it(tmp_path, capsys):
    run = tmp_path / "run"
    model = tmp_path / "model.py"
    model.write_text(
        "import drs_fast as drs\n"
        "def make():\n"
        "    return drs.GAN(lambda z: z, lambda x: 2 * x[:, 0] - 2, 1)\n"
    )
    command = ["generate", f"{model}:make", "-n", "3000", "--out", str(run), "--gamma", "0"]
    assert main([*command, "--log-m", "1"]) == 0
    said = capsys.readouterr()
    assert "clipped" in said.err
    text, *_ = report.write(run)
    assert "clipped by log_m" in text
    assert "samples above log_m" in text
    assert "excess" not in text
