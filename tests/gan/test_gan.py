"""Scores and gradients of a GAN in blocks, its real samples, and another discriminator for it."""

import numpy as np
import pytest
import torch
from networks import networks
from torch import nn

import drs_fast as drs
from drs_fast import GAN, Rng, ops
from drs_fast.gan.links import ENERGIES, LINKS


def made(**kwargs):
    generator, discriminator = networks()
    return GAN(generator, discriminator, 2, **{"block": 256, **kwargs})


def latents(n, d=2):
    return ops.normal(Rng(3), n, d)


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 600])
def test_scores_are_the_logits_of_what_was_generated(n):
    gan = made()
    x, logit = gan.logits(latents(n))
    assert torch.equal(gan.scores(x), logit)
    assert torch.equal(gan.samples(latents(n)), x)


@pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
def test_gradients_are_those_of_autograd(n):
    gan, z = made(), latents(n)
    x, logit, slope = gan.gradients(z)
    leaf = z.clone().requires_grad_()
    direct = gan.discriminator(gan.generator(leaf))[:, 0]
    (expected,) = torch.autograd.grad(direct.sum(), leaf)
    assert torch.allclose(slope, expected, atol=1e-6)
    assert torch.allclose(logit, direct, atol=1e-6)
    for found, plain in zip(gan.logits(z), (x, logit), strict=True):
        assert torch.allclose(found, plain, atol=1e-6)
    assert not any(tensor.requires_grad for tensor in (x, logit, slope))
    assert all(parameter.grad is None for parameter in gan.generator.parameters())


@pytest.mark.parametrize("n", [1, 256, 600])
def test_gradients_with_respect_to_samples(n):
    gan = made()
    x = gan.logits(latents(n))[0]
    logit, slope = gan.score_gradients(x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(gan.discriminator(leaf).sum(), leaf)
    assert torch.allclose(slope, expected, atol=1e-6)
    assert torch.allclose(logit, gan.scores(x), atol=1e-6)


def test_what_comes_back_can_be_trained_on():
    gan = made()
    x, logit = gan.logits(latents(300))
    tensors = (x, logit, gan.scores(x), *gan.gradients(latents(9)), *gan.score_gradients(x))
    assert not any(tensor.is_inference() for tensor in tensors)
    (x.clone().requires_grad_() @ torch.ones(3)).sum().backward()


class Keeping(torch.nn.Module):
    """Keeps a tensor that its first call makes, as rotary embeddings do."""

    scale = None

    def forward(self, z):
        if self.scale is None:
            self.scale = torch.linspace(1.0, 2.0, z.shape[1])
        return z * self.scale


@pytest.mark.parametrize("out", [None, "run"])
def test_what_a_first_call_keeps_serves_a_sampler_of_gradients(tmp_path, out):
    gan = GAN(Keeping(), lambda x: x.square().sum(1), 2)
    for n in (10, 20):
        made = drs.generate(gan, drs.samplers.DDLS(steps=2), n, out=out and tmp_path / out)
        assert len(made.x) == n


def test_what_was_kept_of_a_call_without_gradients_is_explained():
    gan = GAN(Keeping(), lambda x: x.square().sum(1), 2)
    gan.logits(latents(10))
    with pytest.raises(ValueError, match="keeps a tensor of an earlier call"):
        gan.gradients(latents(10))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_whatever_the_caller_switched_off(mode):
    gan = made()
    expected = gan.gradients(latents(9))
    with mode():
        z = latents(9)
        found = gan.gradients(z)
        slopes = gan.score_gradients(gan.logits(z)[0])
    assert all(map(torch.equal, found, expected))
    assert slopes[1].abs().sum() > 0


def test_gradients_of_networks_that_write_to_their_input():
    first, second = networks()

    def generator(z):
        return first(z.mul_(2.0))

    def discriminator(x):
        return second(x.add_(1.0))

    z = latents(300)
    before = z.clone()
    gan = GAN(generator, discriminator, 2, block=256)
    plain = GAN(lambda z: first(2.0 * z), lambda x: second(x + 1.0), 2, block=256)
    for found, expected in zip(gan.gradients(z), plain.gradients(z), strict=True):
        assert torch.equal(found, expected)
    x = gan.logits(z)[0]
    kept = x.clone()
    assert torch.equal(gan.score_gradients(x)[1], plain.score_gradients(x)[1])
    assert torch.equal(x, kept)
    assert torch.equal(z, before)


def test_a_row_without_a_finite_logit_spoils_no_other_gradient():
    gan = GAN(lambda z: z, lambda x: torch.log(x[:, 0]), 1, block=256)
    z = torch.tensor([[-1.0], [2.0], [0.0], [4.0]])
    _, logit, slope = gan.gradients(z)
    assert torch.isnan(logit[0])
    assert slope[[1, 3], 0].tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("generator", "discriminator"),
    [
        (lambda z: z, lambda x: torch.zeros(len(x))),
        (lambda z: z.detach(), nn.Linear(3, 1)),
        (torch.no_grad()(lambda z: z * 2), nn.Linear(3, 1)),
        (lambda z: z, lambda x: x.detach().sum(dim=1)),
    ],
)
def test_networks_without_a_gradient_are_refused(generator, discriminator):
    gan = GAN(generator, discriminator, 3, block=256)
    with pytest.raises(ValueError, match="follows the logit's gradient, but there is none"):
        gan.gradients(latents(5, 3))


def test_links_are_differentiated():
    first, second = networks()
    gan = GAN(first, lambda x: torch.sigmoid(second(x)), 2, link="probability", block=256)
    plain = GAN(first, second, 2, block=256)
    z = latents(50)
    assert torch.allclose(gan.gradients(z)[2], plain.gradients(z)[2], atol=1e-4)


def test_labels_reach_the_gradients():
    gan = GAN(lambda z, y: z * y[:, None], lambda x, y: x[:, 0] + y, 2, labels=4, block=256)
    y = torch.tensor([0, 3])
    x, logit, slope = gan.gradients(torch.ones(2, 2), y)
    assert slope.tolist() == [[0.0, 0.0], [3.0, 0.0]]
    assert logit.tolist() == [0.0, 6.0]
    assert gan.score_gradients(x, y)[1].tolist() == [[1.0, 0.0], [1.0, 0.0]]
    assert gan.scores(x, y).tolist() == [0.0, 6.0]
    with pytest.raises(ValueError, match="this GAN has 4 classes"):
        gan.scores(x)


def test_real_samples():
    x, y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(made(real=x).real_samples(4)[0], x[:4])
    assert len(made(real=x).real_samples(100)[0]) == 6
    asked = []
    gan = made(real=lambda n: asked.append(n) or x[:n])
    assert torch.equal(gan.real_samples(5)[0], x[:5])
    assert asked == [5]
    both = GAN(lambda z, y: z, lambda x, y: x[:, 0], 2, labels=3, real=(x, y))
    found = both.real_samples(2)
    assert torch.equal(found[0], x[:2])
    assert torch.equal(found[1], y[:2])


@pytest.mark.parametrize(
    ("real", "message"),
    [
        (None, r"real samples are needed, got none; build GAN\(\.\.\., real="),
        (torch.zeros(0, 2), "must give a tensor of samples"),
        (lambda n: [1, 2], "must give a tensor of samples .*got list"),
        (np.array(["a"]), "of a type that PyTorch has, got an array of <U1"),
        (torch.tensor(1.0), r"must give a tensor of samples .*got \(\) float32"),
        ((torch.zeros(3, 2),), "with labels .* got a tuple of 1"),
        ((torch.zeros(3, 2), 1, 2), "with labels .* got a tuple of 3"),
        (
            (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)),
            "got y, but this GAN has no",
        ),
    ],
)
def test_real_samples_that_are_none(real, message):
    with pytest.raises(ValueError, match=message):
        made(real=real).real_samples(10)


def test_another_discriminator():
    gan = made(real=torch.ones(4, 3))
    other = gan.judged(nn.Linear(3, 1).train(), "hinge")
    assert not other.discriminator.training
    assert (other.energy, gan.energy) == (True, False)
    assert other.sha256() != gan.sha256()
    assert other.generator is gan.generator
    assert other.real is gan.real
    x = gan.logits(latents(5))[0]
    assert torch.allclose(other.scores(x), other.discriminator(x)[:, 0], atol=1e-6)
    shifted = gan.judged(link=lambda score: score + 1.0)
    assert shifted.discriminator is gan.discriminator
    assert torch.equal(shifted.scores(x), gan.scores(x) + 1.0)


def test_another_discriminator_is_the_one_that_runs():
    gan = made().changed(lambda network: network)
    assert torch.equal(
        gan.judged(lambda x: x[:, 0]).logits(latents(3))[1], gan.logits(latents(3))[0][:, 0]
    )


def test_a_module_as_link_is_in_the_sha256_and_moves_and_is_put_in_eval_mode():
    class Scale(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(scale))

        def forward(self, score):
            return score * self.scale

    gan = made()
    one, two = gan.judged(link=Scale(1.0)), gan.judged(link=Scale(2.0))
    assert one.sha256() != two.sha256()
    assert not one.link.training
    assert torch.equal(two.logits(latents(4))[1], 2.0 * gan.logits(latents(4))[1])


@pytest.mark.parametrize("link", ENERGIES)
@pytest.mark.parametrize("name", ["DRS"])
def test_an_energy_is_no_ratio(link, name):
    gan = made(link=link)
    with pytest.raises(ValueError, match=f"a {link} critic: make it one with drs.calibrate"):
        drs.generate(gan, getattr(drs.samplers, name)(), 5)


def test_every_link_takes_scores_and_keeps_their_order():
    score = torch.linspace(-0.999, -0.001, 50)
    for name, link in LINKS.items():
        inside = score + 1.0 if name in ("probability", "least squares") else score
        logit = link(inside)
        assert torch.isfinite(logit).all(), name
        assert (logit.diff() > 0).all(), name


@pytest.mark.parametrize("wrong", [-1, 3, 10**12])
def test_labels_that_no_class_has_are_refused(wrong):
    gan = GAN(lambda z, y: z, lambda x, y: x[:, 0], 2, labels=3, block=256)
    y, message = torch.tensor([0, wrong, 2]), rf"y must be labels in \[0, 3\), got {wrong}"
    for call in (gan.logits, gan.samples, gan.scores, gan.gradients, gan.score_gradients):
        with pytest.raises(ValueError, match=message):
            call(latents(3), y)
    gan.real = (latents(3), y)
    with pytest.raises(ValueError, match=message):
        gan.real_samples(1)
    assert gan.scores(latents(3), torch.tensor([0, 1, 2])).shape == (3,)


def raising(error):
    def function(rows):
        raise error

    return function


class Mute(Exception):
    """Its message cannot be read."""

    def __str__(self):
        raise TypeError("no message")


SHAPES = "; check latent_dim=2 and labels=None .*"
RAISED = [
    (KeyError("ema"), "KeyError: 'ema'"),
    (AttributeError("no layer"), "AttributeError: no layer"),
    (ZeroDivisionError(), "ZeroDivisionError: "),
    (FileNotFoundError(2, "No such file"), r"FileNotFoundError: \[Errno 2\] No such file"),
    (NotImplementedError("later"), "NotImplementedError: later"),
    (Mute(), "Mute, whose message cannot be read"),
    (IndexError("9"), f"IndexError: 9{SHAPES}"),
    (RuntimeError("mat1 and mat2"), f"RuntimeError: mat1 and mat2{SHAPES}"),
    (TypeError("takes 1"), f"TypeError: takes 1{SHAPES}"),
]


@pytest.mark.parametrize(("error", "said"), RAISED, ids=[said for _, said in RAISED])
def test_whatever_a_network_raises_names_the_network(error, said):
    message = f"failed on .*128, 2.* {said}$"
    with pytest.raises(ValueError, match=f"generator {message}"):
        GAN(raising(error), lambda x: x[:, 0], 2, block=256).logits(latents(3))
    with pytest.raises(ValueError, match=f"discriminator {message}") as caught:
        GAN(lambda z: z, raising(error), 2, block=256).logits(latents(3))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), MemoryError(), KeyboardInterrupt(), SystemExit(1)]
)
def test_what_is_no_fault_of_a_network_goes_through(error):
    with pytest.raises(type(error)):
        GAN(raising(error), lambda x: x[:, 0], 2, block=256).logits(latents(3))


@pytest.mark.parametrize("y", [[0, 1, 2], torch.tensor(1), torch.zeros(2).long(), torch.zeros(3)])
def test_labels_of_real_samples_that_are_none(y):
    gan = GAN(lambda z, y: z, lambda x, y: x[:, 0], 2, labels=3, real=(torch.zeros(3, 2), y))
    with pytest.raises(ValueError, match=r"y must be \(3,\) int64, got"):
        gan.real_samples(2)


def test_a_gan_is_shown_in_words():
    assert repr(made(name="mine")) == (
        f"<GAN mine: latent_dim 2, prior normal, link logit, cpu, block 256, fp32, "
        f"{sum(p.numel() for net in networks() for p in net.parameters()):,} parameters>"
    )
    shared = nn.Linear(3, 3)
    gan = GAN(shared, nn.Sequential(shared, nn.Linear(3, 1)), 3, prior=doubled, link=nn.Identity())
    assert repr(gan.labelled(None)) == (
        "<GAN Linear and Sequential: latent_dim 3, prior doubled, link Identity, cpu, block 4096, "
        "fp32, 16 parameters>"
    )
    labelled = GAN(lambda z, y: z, lambda x, y: x[:, 0], 2, labels=5, link="probability")
    assert "link probability, 5 labels, cpu" in repr(labelled.on(precision="bf16"))
    assert "bf16, 0 parameters>" in repr(labelled.on(precision="bf16"))


def doubled(normals):
    return 2.0 * normals


def test_the_title_of_a_gan_names_what_was_given_not_what_is_around_it():
    class Critic(torch.nn.Linear):
        pass

    class Generator(torch.nn.Linear):
        pass

    given = {"pack": 2, "companions": torch.zeros(9, 2), "noise": "rows"}
    gan = drs.GAN(drs.wrap(Generator(2, 2)), Critic(2, 1), 2, **given)
    assert drs.where(gan, lambda x: x[:, 0] > 0).title == "Generator and Critic"
