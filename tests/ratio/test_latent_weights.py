"""latent_weights: known answers, the losses written out, and refusals.

Tolerances of means and deviations of samples are several times their standard errors (0.007): they
leave room for what training misses, and the planted faults lie far outside.
"""

import itertools
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.ratio import latent_weights
from drs_fast.ratio.latent_weights import LatentWeights, Prices
from drs_fast.samplers.latent import Latent
from drs_fast.training.fitting import Draws

MEAN, SD = 0.5, 0.7
SMALL = {"widths": (64, 64)}


class Exact(nn.Module):
    """The log ratio of N(MEAN, SD^2) to N(0, 1)."""

    def forward(self, x, *y):
        return log_ratio(x[:, 0])


def log_ratio(x):
    return (x.square() - ((x - MEAN) / SD).square()) / 2 - math.log(SD)


class Small(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.last = nn.Linear(32, 1)

    def forward(self, x, *y):
        return self.last(self.layers(x))[:, 0]


def exact(critic=None, **fields):
    return drs.GAN(torch.clone, critic or Exact(), 1, block=1024, **fields)


def adversarial():
    """G(z) = z, real samples from N(MEAN, SD^2), and an untrained critic."""
    real = MEAN + SD * Draws(9).normal(10_000, 1)
    return exact(Draws(5).build(lambda: Small(1)), real=real)


FAR = 4.0


def two_islands(z):
    """A generator that maps a plane to two islands, and inevitably to the gap between them."""
    return torch.stack([FAR * torch.tanh(2 * z[:, 0]) + 0.2 * z[:, 0], 0.3 * z[:, 1]], dim=1)


def islands():
    draws = Draws(7)
    side = torch.where(draws.uniform(10_000) < 0.5, -FAR, FAR)
    real = 0.3 * draws.normal(10_000, 2)
    real[:, 0] += side
    return drs.GAN(two_islands, draws.build(lambda: Small(2)), 2, real=real, block=1024)


def between(x):
    """Share of x in the gap: 4 sd or more from the middle of both islands."""
    return float((x[:, 0].abs() < FAR - 1.2).double().mean())


def follows(critic, tolerance, n=10_000):
    """Whether Latent's samples have the mean and deviation of the data."""
    x = drs.generate(exact(), Latent(critic), n, seed=4).x
    return abs(float(x.mean()) - MEAN) < tolerance and abs(float(x.std()) - SD) < tolerance


# --- known answers


def test_weights_fitted_to_the_logit_are_the_ratio():
    critic = drs.latent_weights(exact(), "ratio", steps=300, rate=3e-3, **SMALL)
    z = torch.linspace(-1.0, 2.0, 61)
    assert (critic(z[:, None]) - log_ratio(z)).abs().max() < 0.05
    assert follows(critic, 0.03)
    assert not follows(lambda z: 0.0 * z[:, 0] - 0.5, 0.03)
    assert not follows(lambda z: 2 * critic(z), 0.03)


def test_a_constant_of_the_logit_cancels():
    given = {"steps": 300, "rate": 3e-3, **SMALL}
    shifted = drs.latent_weights(exact(lambda x: log_ratio(x[:, 0]) + 30.0), "ratio", **given)
    assert follows(shifted, 0.03)
    assert latent_weights.report(shifted).mean_weight == pytest.approx(1.0, abs=0.05)


def test_weights_against_a_critic_that_learns():
    critic = drs.latent_weights(adversarial(), steps=500, critic_rate=4e-3, rate=2e-3, **SMALL)
    z = torch.linspace(-1.0, 2.0, 61)
    both = torch.stack([critic(z[:, None]), log_ratio(z)])
    assert torch.corrcoef(both)[0, 1] > 0.95
    assert follows(critic, 0.1)
    assert not follows(lambda z: 0.0 * z[:, 0] - 0.5, 0.1)


def test_fewer_samples_between_two_islands():
    gan = islands()
    critic = drs.latent_weights(gan, steps=400, critic_rate=2e-3, rate=4e-3, **SMALL)
    before = between(gan.samples(drs.ops.latents(gan, drs.Rng(4), 4000)))
    batch = drs.generate(gan, Latent(critic), 4000, seed=4)
    assert before > 0.3
    assert between(batch.x) < before / 4
    assert abs(float(batch.x[:, 0].sign().mean())) < 0.3  # both islands are there


def test_each_class_has_its_own_weights():
    sd = torch.tensor([0.5, 0.8])

    def critic(x, y):
        return -x[:, 0].square() * (1 / sd[y].square() - 1) / 2 - sd[y].log()

    gan = drs.GAN(lambda z, y: z.clone(), critic, 1, labels=2, block=1024)
    weights = drs.latent_weights(gan, "ratio", steps=400, rate=3e-3, **SMALL)
    batch = drs.generate(gan, Latent(weights), 10_000, seed=4)
    for k in range(2):
        assert float(batch.x[batch.y == k].std()) == pytest.approx(float(sd[k]), abs=0.04)


def test_classes_against_a_critic_that_learns():
    """A planted fault that runs: takes the labels of real samples for latents."""
    seen = []

    def generator(z, y):
        seen.append(y)
        return z.clone()

    real = torch.ones(300, 1), torch.ones(300, dtype=torch.int64)
    critic = Draws(1).build(lambda: Small(1))
    gan = drs.GAN(generator, critic, 1, labels=2, real=real, block=256)
    weights = drs.latent_weights(gan, steps=2, balance=1.0, **SMALL)
    assert all((y == 1).all() for y in seen)
    assert weights(torch.zeros(3, 1), torch.tensor([0, 1, 1])).shape == (3,)


# --- the losses


def test_the_loss_of_the_weights():
    weight, score = torch.tensor([0.5, 1.0, 4.5]), torch.tensor([1.0, -2.0, 3.0])
    found = Prices(largest=3.0, balance=10.0, excess=3.0, penalty=1.0).of_weights(weight, score)
    total = 6.0
    expected = 3.0 * 1.5**2 / 3 + 10.0 * (total / 3 - 1) ** 2 - (0.5 - 2.0 + 13.5) / total
    assert float(found) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("slope", "steep"), [(3.0, 4.0), (0.5, 0.0), (-3.0, 4.0)])
def test_the_loss_of_the_critic(slope, steep):
    real, made = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    weight, u = torch.tensor([3.0, 1.0]), torch.tensor([0.25, 0.5], dtype=torch.float64)

    def critic(x):
        return slope * x[:, 0]

    prices = Prices(largest=3.0, balance=10.0, excess=3.0, penalty=10.0)
    found = prices.of_critic(critic, real, made, (), weight, u)
    assert float(found) == pytest.approx(10.0 * steep - slope * (1.5 - 0.25), rel=1e-6)


def test_where_the_slope_is_taken():
    real, made = torch.full((4, 1), 8.0), torch.zeros(4, 1)
    u = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    prices = Prices(largest=3.0, balance=10.0, excess=3.0, penalty=1.0)
    found = prices.of_critic(lambda x: x[:, 0].square() / 2, real, made, (), torch.ones(4), u)
    assert float(found.detach()) == pytest.approx((0.0 + 1.0 + 9.0 + 49.0) / 4 - 32.0, rel=1e-6)


def test_log_weights_of_any_activation():
    network = LatentWeights(1, widths=())
    with torch.no_grad():
        network.layers[0].weight.fill_(1.0)
        network.layers[0].bias.zero_()
    z = torch.tensor([-1e4, -200.0, -15.1, -14.9, 0.0, 50.0])[:, None].requires_grad_()
    log = network(z)
    expected = torch.where(z < -30, z, torch.nn.functional.softplus(z.double()).log())[:, 0]
    assert torch.allclose(log.double(), expected, rtol=1e-6)
    (slope,) = torch.autograd.grad(log.sum(), z)
    assert torch.isfinite(slope).all()
    assert (slope > 0).all()


# --- what it leaves and gives


def test_it_is_a_function_of_the_seed_and_changes_nothing():
    gan = adversarial()
    before, state = gan.sha256(), torch.random.get_rng_state()
    given = {"steps": 3, "critic_steps": 2, "balance": 1.0, **SMALL}
    one, again = (drs.latent_weights(gan, **given) for _ in range(2))
    other = drs.latent_weights(gan, seed=1, **given)
    z = Draws(0).normal(50, 1)
    assert torch.equal(one(z), again(z))
    assert not torch.equal(one(z), other(z))
    assert gan.sha256() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(p.requires_grad for p in one.parameters())
    assert all(p.requires_grad and p.grad is None for p in gan.discriminator.parameters())


def test_the_critic_is_trained_before_each_step(monkeypatch):
    counts, plain = [], latent_weights.descend

    def counted(optimizer, loss):
        counts.append(optimizer.param_groups[0]["lr"])
        plain(optimizer, loss)

    monkeypatch.setattr(latent_weights, "descend", counted)
    drs.latent_weights(
        adversarial(), steps=2, critic_steps=3, rate=0.02, critic_rate=0.01, balance=1.0, **SMALL
    )
    assert counts == pytest.approx([0.01] * 3 + [0.02] + [0.005] * 3 + [0.01])


def test_the_report():
    critic = drs.latent_weights(exact(), "ratio", steps=300, rate=3e-3, **SMALL)
    found = latent_weights.report(critic)
    z = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) * 16 / 100_000 / math.sqrt(2 * math.pi)
    share = 1 / float((density * (2 * log_ratio(z)).exp()).sum())
    assert found.mean_weight == pytest.approx(1.0, abs=0.05)
    assert found.effective_share == pytest.approx(share, abs=0.03)
    assert found.largest_weight == pytest.approx(float(log_ratio(z).exp().max()), rel=0.05)
    for wrong in (LatentWeights(1), Exact()):
        with pytest.raises(ValueError, match=r"not made by drs\.latent_weights"):
            latent_weights.report(wrong)


def test_it_is_saved_and_taken_from_a_file(tmp_path, monkeypatch):
    critic = drs.latent_weights(exact(), "ratio", steps=20, rate=3e-3, widths=(16,))
    save_file(critic.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "import drs_fast as drs\n"
        "from drs_fast.ratio.latent_weights import LatentWeights\n"
        "critic = LatentWeights(1, widths=(16,))\n"
        "critic.load_state_dict(drs.weights('w.safetensors'))\n"
        "def make():\n"
        "    return drs.GAN(torch.clone, lambda x: x[:, 0], 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["generate", "mine.py:make", "-n", "50", "--out", "run", "--save", "x,z"]
    flags = ["--sampler", "latent", "--critic", "mine.py:critic", "--quiet", "--batch-size", "256"]
    assert cli.main(command + flags) == 0
    samples = drs.open("run")
    memory = drs.generate(exact(), Latent(critic), 50, batch_size=256)
    assert torch.equal(samples.z[:], memory.z)
    assert torch.equal(samples.ids[:], memory.ids)
    assert cli.main(["generate", "mine.py:make", "-n", "70", *command[4:], *flags]) == 0
    loaded = Latent("mine.py:critic")
    assert loaded.functions[0] is loaded.functions[0]  # the file runs once
    assert drs.core.fingerprint.sha256(*loaded.functions) == drs.core.fingerprint.sha256(critic)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"critic '.*absent\.py:f' cannot be loaded.*No such file"):
        drs.generate(exact(), Latent(f"{tmp_path}/absent.py:f"), 3)


# --- what is refused


def test_logits_that_are_not_finite_weigh_nothing():
    def critic(x):
        return torch.where(x[:, 0] > 1.0, -torch.inf, 0.0 * x[:, 0])

    weights = drs.latent_weights(exact(critic), "ratio", steps=300, rate=3e-3, **SMALL)
    log = weights(torch.tensor([[-1.0], [0.0], [2.0]]))
    assert float(log[2]) < -2.0 < 0.0 < float(log[:2].min())


@pytest.mark.parametrize(
    ("gan", "target", "error", "words"),
    [
        (
            lambda: exact(link="wasserstein"),
            "ratio",
            ValueError,
            "needs a density ratio.*calibrate",
        ),
        (lambda: exact(), "wasserstein", ValueError, "real samples are needed"),
        (
            lambda: exact(lambda x: x[:, 0], real=torch.zeros(9, 1)),
            "wasserstein",
            ValueError,
            "must be an nn.Module here, got function.*target='ratio'",
        ),
        (
            lambda: exact(Small(1), real=torch.zeros(9, 2)),
            "wasserstein",
            ValueError,
            "real samples must be like generated ones",
        ),
        (lambda: exact(lambda x: x[:, 0] * torch.nan), "ratio", drs.BadLogits, "NaN"),
        (lambda: exact(), "kl", ValueError, "target must be one of"),
        (lambda: 3, "ratio", ValueError, "gan must be a drs.GAN"),
    ],
)
def test_gans_that_cannot_be_used(gan, target, error, words):
    with pytest.raises(error, match=words):
        drs.latent_weights(gan(), target, steps=1, **SMALL)


def test_training_that_goes_wrong():
    with pytest.raises(RuntimeError, match=r"mean weight is .* and should be 1"):
        drs.latent_weights(exact(), "ratio", steps=30, rate=30.0, **SMALL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("largest", 0.0),
        ("balance", 0.0),
        ("excess", -1.0),
        ("penalty", -1.0),
        ("widths", 3),
        ("widths", (0,)),
        ("steps", 0),
        ("critic_steps", 0),
        ("batch", 1),
        ("rate", 0.0),
        ("critic_rate", 0.0),
        ("reals", 0),
    ],
)
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        drs.latent_weights(adversarial(), **({"steps": 1, **SMALL} | {name: value}))


@pytest.mark.parametrize("target", latent_weights.TARGETS)
def test_no_latent_is_used_twice(target, monkeypatch):
    used, plain = [], drs.ops.latents

    def latents(gan, rng, n):
        used.append((rng.row, rng.row + n))
        return plain(gan, rng, n)

    monkeypatch.setattr(drs.ops, "latents", latents)
    drs.latent_weights(adversarial(), target, steps=3, balance=1.0, **SMALL)
    used.sort()
    assert len(used) >= 5
    assert used[0][0] == latent_weights.TRAINING_ROW
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(used))
