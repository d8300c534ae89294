"""Links from critics to log ratios, each on a critic at the optimum of its loss.

The model is 8 points, so that a critic is a table and its loss is minimised to rounding.
"""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import functional
from torch.nn.functional import logsigmoid, softplus

from drs_fast import GAN, BadLogits, Rng, ops
from drs_fast.gan import links
from drs_fast.gan.links import ENERGIES, LINKS
from drs_fast.ratio.held_out import Logits
from drs_fast.ratio.relativistic import LOSSES, link_of, relativistic

IN_DATA = torch.tensor([12, 9, 10, 8, 14, 6, 4, 1])
IN_MODEL = torch.tensor([1, 2, 4, 8, 9, 10, 12, 18])
DATA, MODEL = IN_DATA / 64, IN_MODEL / 64
P_D, P_G = DATA.double(), MODEL.double()
LOG_RATIO = torch.log(P_D / P_G)


def real(values):
    return (P_D * values).sum()


def generated(values):
    return (P_G * values).sum()


def pairs(values):
    """Mean of values (8, 8) over pairs of a real sample, first, and a generated one."""
    return P_D @ values @ P_G


def apart(critic):
    return critic[:, None] - critic[None, :]


# What each kind of critic is trained to make small, as a function of its 8 outputs.
LOSS = {
    "logit": lambda c: real(softplus(-c)) + generated(softplus(c)),
    "probability": lambda c: -real(torch.log(c)) - generated(torch.log1p(-c)),
    "least squares": lambda c: real((c - 1) ** 2) + generated(c**2),
    "least squares -1 1": lambda c: real((c - 1) ** 2) + generated((c + 1) ** 2),
    "kl": lambda t: generated(torch.exp(t - 1)) - real(t),
    "reverse kl": lambda t: generated(-1 - torch.log(-t)) - real(t),
    "chi-square": lambda t: generated(t**2 / 4 + t) - real(t),
    "RSGAN": lambda c: pairs(softplus(-apart(c))),
    "RaSGAN": lambda c: real(softplus(generated(c) - c)) + generated(softplus(c - real(c))),
    "RLSGAN": lambda c: pairs((apart(c) - 1) ** 2),
    "RaLSGAN": lambda c: real((c - generated(c) - 1) ** 2) + generated((c - real(c) + 1) ** 2),
    # Early code, whose fake term has the generated mean and the real samples again.
    "early RaSGAN": lambda c: real(softplus(generated(c) - c)) + real(softplus(generated(c) - c)),
    "early RaLSGAN": lambda c: (
        real((c - generated(c) - 1) ** 2) + real((generated(c) - c + 1) ** 2)
    ),
}
# Outputs that a loss restricts, as functions of free numbers.
RANGE = {"probability": torch.sigmoid, "reverse kl": lambda free: -torch.exp(-free)}


@functools.cache
def optimum(name):
    """The 8 outputs of the critic that minimises the loss, by Newton's method."""
    outputs = RANGE.get(name, lambda free: free)

    def loss(free):
        return LOSS[name](outputs(free))

    free = torch.zeros(8, dtype=torch.float64)
    for _ in range(200):
        gradient = functional.jacobian(loss, free)
        step = torch.linalg.pinv(functional.hessian(loss, free), hermitian=True) @ gradient
        while loss(free - step) > loss(free) + 1e-15:
            step = step / 2
        free = free - step
        if gradient.abs().max() < 1e-13:
            break
    assert gradient.abs().max() < 1e-12, f"{name} did not converge"
    return outputs(free)


def drawn(critic):
    """The critic's outputs for 64 real and 64 generated samples with exactly the two laws."""
    return Logits(critic.repeat_interleave(IN_DATA), critic.repeat_interleave(IN_MODEL))


def error(logit):
    """How far this is from the log ratio plus any constant."""
    return float((logit - LOG_RATIO).std())


@pytest.mark.parametrize("name", [name for name in LINKS if name not in ENERGIES])
def test_link_at_the_optimum_is_the_log_ratio(name):
    assert torch.allclose(LINKS[name](optimum(name)), LOG_RATIO, atol=1e-9, rtol=0)


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_relativistic_link_at_the_optimum_is_the_log_ratio(loss):
    critic = optimum(loss) + 3.0  # these losses leave the offset free
    assert torch.allclose(link_of(loss, drawn(critic))(critic), LOG_RATIO, atol=1e-9, rtol=0)
    assert error(critic) > 0.1


def test_rsgan_is_the_log_ratio_up_to_an_offset():
    assert error(optimum("RSGAN")) < 1e-9


@pytest.mark.parametrize("relative", [False, True])
def test_hinge_critics_give_many_ratios_one_output(relative):
    """The optimum, by linear programming: 2 or 3 outputs for 7 ratios that are not 1."""
    from scipy.optimize import linprog

    # Losses a of real and b of generated samples are at least 0, a >= 1 - C [+ m_g], and
    # b >= 1 + C [- m_d]; the unknowns are C, a and b.
    unit = torch.eye(8, dtype=torch.float64)
    mean_d, mean_g = (torch.ones(8, 1) * p * relative for p in (P_D, P_G))
    none = torch.zeros(8, 8)
    least = torch.cat(
        [
            torch.cat([-unit + mean_g, -unit, none], dim=1),
            torch.cat([unit - mean_d, none, -unit], dim=1),
        ]
    )
    cost = torch.cat([torch.zeros(8), P_D, P_G])
    bounds = [(None, None)] * 8 + [(0, None)] * 16
    found = linprog(cost.numpy(), A_ub=least.numpy(), b_ub=-np.ones(16), bounds=bounds)
    assert found.status == 0
    critic = torch.tensor(found.x[:8])
    known = critic[LOG_RATIO != 0]
    assert critic[LOG_RATIO > 0].min() >= critic[LOG_RATIO < 0].max()
    assert len(set((known.round(decimals=6) + 0.0).tolist())) == (3 if relative else 2)


@pytest.mark.parametrize("loss", ["RaSGAN", "RaLSGAN"])
def test_early_code_trained_no_ratio(loss):
    critic = optimum(f"early {loss}")
    assert error(link_of(loss, drawn(critic))(critic)) > 0.1


@pytest.mark.parametrize("trained", LOSSES)
@pytest.mark.parametrize("taken", LOSSES[1:])
def test_the_map_of_another_loss_is_seen(trained, taken):
    if trained == taken:
        return
    critic = optimum(trained)
    try:
        logit = link_of(taken, drawn(critic))(critic)
    except ValueError as failure:
        assert "is this the right loss?" in str(failure)  # noqa: PT017
    else:
        assert error(logit) > 0.02


def test_where_a_critic_leaves_its_range():
    beyond = torch.tensor([-3.0, 3.0])
    assert LINKS["least squares"](beyond).tolist() == pytest.approx([-13.863, 13.863], abs=1e-3)
    assert LINKS["least squares -1 1"](beyond).tolist() == pytest.approx(
        [-13.863, 13.863], abs=1e-3
    )
    assert LINKS["chi-square"](beyond)[0] == -math.inf
    assert not LINKS["reverse kl"](torch.tensor([0.0, 0.5])).isfinite().any()
    assert LINKS["probability"](torch.tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf]
    bounded = link_of("RaLSGAN", drawn(optimum("RaLSGAN")))(100 * beyond)
    assert bounded.tolist() == pytest.approx([-13.863, 13.863], abs=1e-3)
    steep = link_of("RaSGAN", drawn(optimum("RaSGAN")))(1e6 * beyond)
    assert steep.isfinite().all()


class Table(nn.Module):
    """A critic of the 8 points."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x, *label):
        return self.outputs[x[:, 0].long()]


def generator(z, *label):
    """z (n, 1) normals -> points (n, 1) that follow the model."""
    edges = torch.special.ndtri(P_G.cumsum(0)[:-1])
    return torch.bucketize(z.double(), edges).float()


def gan(loss, link="logit", times=150, **settings):
    points = torch.arange(8.0)[:, None].repeat_interleave(IN_DATA, dim=0).repeat(times, 1)
    return GAN(generator, Table(optimum(loss)), 1, link=link, real=points, block=512, **settings)


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_relativistic_gan(loss):
    raw = gan(loss)
    made = relativistic(raw, loss)
    x, logit = made.logits(ops.latents(raw, Rng(0), 500))
    # Means over 9,600 generated samples: an error of 0.05 is at least 5 sd away for each loss.
    assert torch.allclose(logit, LOG_RATIO.float()[x[:, 0].long()], atol=0.05, rtol=0)
    assert not torch.allclose(logit, raw.scores(x), atol=0.2, rtol=0)
    assert made.sha256() != raw.sha256()
    assert made.sha256() == relativistic(raw, loss).sha256()
    assert made.sha256() != relativistic(raw, loss, seed=1).sha256()
    assert made.generator is raw.generator
    assert raw.link == "logit"
    assert isinstance(made.link, nn.Module)
    assert torch.equal(made.scores(x), made.on(block=256).scores(x))


def test_rsgan_is_taken_as_it_is():
    raw = gan("RSGAN")
    x = raw.real_samples(64)[0]
    raw.real = None
    assert torch.equal(relativistic(raw, "RSGAN").scores(x), raw.scores(x))
    mere = raw.judged(link="hinge")
    assert (mere.energy, relativistic(mere, "RSGAN").energy) == (True, False)


def test_a_link_of_the_users_own_comes_first():
    upside = gan("RaLSGAN").judged(Table(-2.0 * optimum("RaLSGAN")), lambda score: score / -2.0)
    x = torch.arange(8.0)[:, None]
    expected = relativistic(gan("RaLSGAN"), "RaLSGAN").scores(x)
    assert torch.allclose(relativistic(upside, "RaLSGAN").scores(x), expected, atol=1e-5)


def test_relativistic_with_labels():
    raw = gan("RaSGAN")
    x = raw.real_samples(9600)[0]
    y = torch.arange(len(x)) % 3
    labelled = GAN(generator, raw.discriminator, 1, labels=3, real=(x, y), block=512)
    assert torch.equal(
        relativistic(labelled, "RaSGAN").scores(x, y), relativistic(raw, "RaSGAN").scores(x)
    )


def test_outputs_between_0_and_1_are_no_probabilities_here():
    raw = gan("RaLSGAN").judged(Table(0.5 + 0.1 * optimum("RaLSGAN")))
    assert raw.scores(torch.arange(8.0)[:, None]).min() > 0.0
    relativistic(raw, "RaLSGAN")


@pytest.mark.parametrize(
    ("loss", "link", "message"),
    [
        ("RaHinge", "logit", r"no map turns it into a ratio; use drs.keep_train\(gan\)"),
        ("rasgan", "logit", r"loss must be one of \('RSGAN', 'RaSGAN'"),
        ("RaSGAN", "least squares", "link='least squares'; build it with link='logit'"),
    ],
)
def test_relativistic_user_errors(loss, link, message):
    with pytest.raises(ValueError, match=message):
        relativistic(gan("RaSGAN", link), loss)


def test_relativistic_needs_what_it_takes_means_over():
    raw = gan("RaSGAN")
    raw.real = None
    with pytest.raises(ValueError, match="real samples are needed"):
        relativistic(raw, "RaSGAN")
    with pytest.raises(ValueError, match="n must be an integer >= 1, got 0"):
        relativistic(gan("RaSGAN"), "RaSGAN", n=0)
    with pytest.raises(ValueError, match=r"further apart .* is this the right loss\?"):
        relativistic(gan("RSGAN"), "RaLSGAN")


def test_relativistic_needs_samples_and_a_critic_that_tells_them_apart():
    few = gan("RaSGAN")
    few.real = few.real[:1]
    with pytest.raises(ValueError, match=r"at least 10 real and .* in each part, got 1;"):
        relativistic(few, "RaSGAN")
    for loss in LOSSES[1:]:
        same = gan("RaSGAN").judged(Table(torch.full((8,), 2.0)))
        with pytest.raises(BadLogits, match="gives every sample the same score"):
            relativistic(same, loss)
    with pytest.raises(ValueError, match=r"gan must be a drs\.GAN, got 'RaSGAN'"):
        relativistic("RaSGAN")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_relativistic_whatever_the_caller_switched_off(mode):
    raw = gan("RaSGAN")
    with mode():
        found = relativistic(raw, "RaSGAN")
    assert found.sha256() == relativistic(raw, "RaSGAN").sha256()
    assert not any(buffer.is_inference() for buffer in found.link.buffers())


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.register_buffer("by", torch.tensor(by))

    def forward(self, score):
        return self.by * score


def test_links_in_a_row():
    assert links.after("hinge", links.probability) is links.probability
    both = links.after("probability", Scaled(2.0))
    score = torch.tensor([0.2, 0.7])
    assert torch.allclose(both(score), 2.0 * (logsigmoid_of(score)))
    inner, outer = Scaled(2.0), Scaled(3.0)
    chain = links.after(inner, outer)
    assert chain(score).tolist() == (3.0 * (2.0 * score)).tolist()
    assert [buffer.item() for buffer in chain.buffers()] == [2.0, 3.0]


def logsigmoid_of(share):
    logit = torch.logit(share.double())
    return logsigmoid(logit) - logsigmoid(-logit)
