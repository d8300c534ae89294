"""Critics trained with other losses on N(1, 1) against N(0, 1), where the best line is known."""

import math

import pytest
import torch

import drs_fast as drs
from benchmarks.common import critics
from drs_fast.training.fitting import Draws


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.linear(x).squeeze(1)


@pytest.fixture(scope="module")
def gan():
    real = Draws(0, row=2**62).normal(critics.SPARED + critics.POOL, 1) + 1
    return drs.GAN(lambda z: z, Draws(1).build(Line), 1, real=real)


def hinge_slope():
    """Slope a of a x - a / 2: with c = 1/a - 1/2, its derivative is 0 where phi(c) = Phi(c) / 2."""
    low, high = 0.0, 2.0
    while high - low > 1e-9:
        c = (low + high) / 2
        density = math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
        low, high = (c, high) if density > math.erfc(-c / math.sqrt(2)) / 4 else (low, c)
    return 1 / (low + 0.5)


@pytest.mark.parametrize(
    ("make", "link", "slope"),
    [
        (critics.rsgan, "logit", 1.0),
        (critics.wgan, "wasserstein", 1 + 1 / (2 * critics.PENALTY)),
        (critics.hinge, "hinge", hinge_slope()),
    ],
)
def test_the_best_line_is_found(gan, make, link, slope):
    """Seed 3 starts near the answer; a start on the other side would need more steps."""
    own = gan.discriminator.linear.weight.clone()
    state = torch.get_rng_state()
    judged = make(gan, 3, steps=1_500)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(gan.discriminator.linear.weight, own), "the GAN is left as it was"
    assert judged.generator is gan.generator
    assert judged.link == link
    assert judged.energy == (link != "logit")
    assert not judged.discriminator.training
    scores = judged.scores(torch.tensor([[0.0], [1.0]]))
    assert float(scores[1] - scores[0]) == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("make", [critics.rsgan, critics.wgan, critics.hinge])
def test_a_critic_is_a_function_of_its_seed(gan, make):
    first, again, other = (make(gan, seed, steps=3).sha256() for seed in (0, 0, 1))
    assert first == again != other


def test_only_toys_are_taken(gan):
    with pytest.raises(ValueError, match="normal latents"):
        critics.rsgan(drs.GAN(lambda z: z, lambda x: x, 1, real=gan.real))
