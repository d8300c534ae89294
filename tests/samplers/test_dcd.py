"""DCD's moves written out, and what the critic learns from them.

Checks allow 4.5 sd: 7e-6 false alarms per check.
"""

import copy
import math

import pytest
import torch
from linear_gaussian import SLOPE, curved, cut, deviation, gan, same, steps

import drs_fast as drs
from drs_fast.core import NOISE
from drs_fast.ratio.contrastive import Critic, contrastive
from drs_fast.samplers.dcd import DCD

LIMIT = 4.5
LANGEVIN = drs.ops.langevin


def noise_of(step, n, d):
    return drs.ops.normal(drs.Rng(0), n, d, stream=NOISE, draw=step * -(-d // 4))


def slope_of(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def latents_written_out(model, z, n, size, sd, fades):
    for step in range(n):
        slope = slope_of(lambda z: model.discriminator(model.generator(z)), z)
        h = size * fades[step]
        z = z + h / 2 * slope + math.sqrt(h) * sd * fades[step] * noise_of(step, *z.shape)
    return z


def samples_written_out(model, x, n, size, sd, clip, box, fades):
    for step in range(n):
        x = x + sd * fades[step] * noise_of(step, *x.shape)
        x = (x + size * slope_of(model.discriminator, x).clamp(-clip, clip)).clamp(-box, box)
    return x


FIFTHS = [0.1**k for k in range(5) for _ in range(2)]
THIRDS = [1.0, 1.0, 0.7, 0.7, 0.4, 0.4]


@pytest.mark.parametrize("anneal", [False, True])
def test_latent_moves(anneal):
    model = curved()
    z = drs.ops.latents(model, drs.Rng(0), 200)
    fades = FIFTHS if anneal else [1.0] * 10
    found = steps(DCD(steps=10, step_size=0.2, noise=0.5, anneal=anneal), model, 200)
    assert torch.allclose(found.z, latents_written_out(model, z, 10, 0.2, 0.5, fades), atol=1e-4)
    other = latents_written_out(model, z, 10, 0.2, 0.5, [1.0] * 10 if anneal else FIFTHS)
    assert not torch.allclose(found.z, other, atol=1e-2)


@pytest.mark.parametrize("anneal", [False, True])
def test_sample_moves(anneal):
    model = curved()
    z = drs.ops.latents(model, drs.Rng(0), 200)
    x, fades = model.logits(z)[0], THIRDS if anneal else [1.0] * 6
    sampler = DCD(
        space="sample", steps=6, step_size=0.3, noise=0.2, clip=0.5, box=1.2, anneal=anneal
    )
    found = steps(sampler, model, 200)
    right = samples_written_out(model, x, 6, 0.3, 0.2, 0.5, 1.2, fades)
    assert torch.allclose(found.x, right, atol=1e-4)
    assert torch.equal(found.z, z)
    for clip, box, fade in [
        (0.6, 1.2, fades), (0.5, 1.3, fades), (0.5, 1.2, [1.0] * 6 if anneal else THIRDS)
    ]:  # fmt: skip
        wrong = samples_written_out(model, x, 6, 0.3, 0.2, clip, box, fade)
        assert not torch.allclose(found.x, wrong, atol=1e-2)


def test_noise_sets_the_temperature():
    """Without a prior, latents follow exp(logit / noise^2), up to the step's bias."""
    size, sd, n = 0.1, 0.5, 25
    batch = steps(DCD(steps=n, step_size=size, noise=sd), gan(8), 2**12)
    variance = 1.0
    for _ in range(n):
        variance = (1 - size * SLOPE / 2) ** 2 * variance + size * sd**2
    assert variance == pytest.approx(sd**2 / SLOPE, rel=0.1)
    assert abs(deviation(batch.z, variance)) < LIMIT
    hotter = steps(DCD(steps=n, step_size=size, noise=1.05 * sd), gan(8), 2**12)
    assert abs(deviation(hotter.z, variance)) > LIMIT


@pytest.mark.parametrize("space", ["latent", "sample"])
def test_rows_may_be_cut_anywhere(space, monkeypatch):
    sampler = DCD(space=space, steps=5, step_size=0.1, anneal=True)
    whole = cut(sampler, curved(block=1024), [700])
    assert same(whole, cut(sampler, curved(block=256), [1, 255, 37, 300, 107]))
    batch = drs.generate(curved(), sampler, 700, batch_size=256)
    assert same(whole, batch)
    assert int(batch.stats["gradients"]) == 5 * int(batch.stats["calls"])
    assert torch.equal(whole.logit, curved().scores(whole.x))
    monkeypatch.setattr(
        drs.ops, "langevin", lambda z, g, rng, **named: LANGEVIN(z, g, rng.at(0), **named)
    )
    assert not same(cut(sampler, curved(), [700]), cut(sampler, curved(), [300, 400]))


def test_walls_of_the_prior():
    model = drs.GAN(torch.clone, lambda x: 9 * x[:, 0], 2, prior="uniform")
    assert float(steps(DCD(steps=9, step_size=0.1), model, 500).z.abs().max()) <= 1.0


def test_images_labels_and_any_critic():
    model = drs.GAN(
        lambda z, y: z.view(-1, 1, 2, 2),
        lambda x, y: x.flatten(1).sum(dim=1) * (y - 1),
        4,
        labels=3,
        link="hinge",
    )
    batch = drs.generate(model, DCD(space="sample", steps=3, step_size=0.5), 300)
    start = drs.ops.latents(model, drs.Rng(0), 300).view(-1, 1, 2, 2)
    move = (batch.x - start).flatten(1).sum(dim=1)
    assert torch.equal(move.abs() > 1, batch.y != 1)
    assert bool((move[batch.y != 1].sign() == (batch.y[batch.y != 1] - 1)).all())
    assert "no known law" in DCD().law


@pytest.mark.parametrize(
    ("name", "value"),
    [("space", "pixel"), ("steps", 0), ("step_size", 0), ("noise", -1.0), ("clip", 0.0),
     ("box", 0.0), ("box", 1.0), ("burn_in", 0)],
)  # fmt: skip
def test_a_wrong_value_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        DCD(**{name: value})


# --- fine-tuning


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        )

    def forward(self, x, *y):
        return self.layers(x)


def toy(link="logit", **fields):
    """Real points around (1, 0), and an untrained critic."""
    from drs_fast.training.fitting import Draws

    draws = Draws(3)
    discriminator, generator = draws.build(Small), draws.build(lambda: torch.nn.Linear(2, 2))
    real = 0.3 * draws.normal(2000, 2) + torch.tensor([1.0, 0.0])
    return drs.GAN(generator, discriminator, 2, real=real, link=link, **fields)


QUICK = {"steps": 60, "rate": 1e-2, "moves": 3, "step_size": 0.1, "batch": 128}


def gap(model, original, **push):
    """How much higher the critic scores real samples than samples pushed up its slope."""
    pushed = steps(DCD(**push), model, 1000)
    real = model.scores(original.real)
    return float(real.mean() - pushed.logit[: int(pushed.count)].mean())


@pytest.mark.parametrize("loss", ["softplus", "hinge"])
@pytest.mark.parametrize("space", ["latent", "sample"])
def test_the_critic_learns_to_prefer_real_to_pushed_samples(loss, space):
    model = toy()
    trained = contrastive(model, loss=loss, space=space, **QUICK)
    push = {"space": space, "steps": 3, "step_size": 0.1}
    assert gap(model, model, **push) < 0.2
    assert gap(trained, model, **push) > 0.8
    assert trained.energy
    assert trained.generator is model.generator
    assert trained.block == model.block
    assert len(drs.generate(trained, DCD(**push), 50).x) == 50


def test_real_and_pushed_exchanged_would_be_noticed():
    model = toy()
    x = model.generator(drs.ops.latents(model, drs.Rng(9), 2000)).detach()
    exchanged = drs.GAN(model.generator, model.discriminator, 2, real=x)
    trained = contrastive(exchanged, **QUICK)
    assert gap(trained, model, steps=3, step_size=0.1) < 0.8


def test_it_is_a_function_of_the_gan_and_the_seed_and_leaves_the_gan_alone():
    model = toy()
    model.discriminator.train()
    model.discriminator.layers[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.discriminator.state_dict())
    state = torch.random.get_rng_state()
    sha256 = model.sha256()
    brief = {**QUICK, "steps": 5}
    first, again, other = (contrastive(model, seed=seed, **brief) for seed in (0, 0, 1))
    assert first.sha256() == again.sha256() != other.sha256() != sha256
    assert model.sha256() == sha256
    after = model.discriminator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.discriminator.training
    assert all(p.grad is None for p in model.discriminator.parameters())
    assert all(p.grad is None for p in model.generator.parameters())
    assert not model.discriminator.layers[0].weight.requires_grad
    assert torch.equal(state, torch.random.get_rng_state())


def test_links_and_labels_are_kept():
    z = drs.ops.normal(drs.Rng(0), 20, 2, stream=7)
    for link in ("kl", "logit", lambda score: 3 * score):
        model = toy(link)
        critic = Critic(model.discriminator, model.link)
        assert torch.allclose(critic(z), model.scores(z), atol=1e-6)
    y = torch.arange(2000) % 3
    model = drs.GAN(lambda z, y: z, Small(), 2, labels=3, real=(z.repeat(100, 1), y))
    trained = contrastive(model, **{**QUICK, "steps": 2})
    assert len(drs.generate(trained, DCD(), 20).y) == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", "square"), ("steps", 0), ("space", "pixel"), ("batch", 0), ("rate", math.nan),
     ("moves", 0), ("step_size", 0.0), ("reals", 0), ("seed", -1)],
)  # fmt: skip
def test_a_wrong_setting_is_named(name, value):
    name_of_field = "steps" if name == "moves" else name
    with pytest.raises(ValueError, match=name_of_field):
        contrastive(toy(), **{name: value})


def test_what_is_needed_is_said():
    model = toy()
    with pytest.raises(ValueError, match="real samples"):
        contrastive(drs.GAN(model.generator, model.discriminator, 2))
    with pytest.raises(ValueError, match=r"torch\.nn\.Module"):
        contrastive(drs.GAN(model.generator, lambda x: x[:, 0], 2, real=model.real))


@pytest.mark.parametrize("rate", [1e3, 1e20])
@pytest.mark.parametrize("loss", ["softplus", "hinge"])
def test_training_that_diverges_is_an_error(rate, loss):
    with pytest.raises(RuntimeError, match=r"training diverged: .* use a smaller rate than 1"):
        contrastive(toy(), **{**QUICK, "rate": rate, "steps": 20, "loss": loss})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_whatever_the_caller_switched_off(mode):
    brief = {**QUICK, "steps": 3}
    model = toy()
    expected = contrastive(model, **brief)
    with mode():
        found = contrastive(model, **brief)
    assert found.sha256() == expected.sha256()


def test_what_cannot_be_trained_is_refused():
    model = toy()
    for rate in (0, 0.0):
        with pytest.raises(ValueError, match="rate must be greater than 0"):
            contrastive(model, rate=rate)
    with pytest.raises(ValueError, match="anneal must be True or False, got 1"):
        contrastive(model, anneal=1)
    with pytest.raises(ValueError, match=r"gan must be a drs.GAN, got 3"):
        contrastive(3)
    model.real = torch.zeros(50, 3)
    with pytest.raises(ValueError, match="real samples must be like generated ones"):
        contrastive(model)
