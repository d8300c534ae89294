"""Weights w(z) >= 0 of latents for which w(z) p0(z), sent through G, is nearer to the data.

Source: Issenhuth, Tanielian, Picard and Mary, Latent reweighting, an almost free improvement for
GANs, WACV 2022.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu, softplus

from drs_fast import ops
from drs_fast.core import HELD_OUT_ROW, TRAINING_ROW, Rng
from drs_fast.core.arguments import describe, integer, number, one_of, positive
from drs_fast.core.rows import WEIGHT_ROW
from drs_fast.gan import GAN
from drs_fast.gan.real_data import alike
from drs_fast.ratio.contrastive import Critic
from drs_fast.ratio.features import cosine
from drs_fast.samplers.common import moving
from drs_fast.samplers.common.burn_in import check
from drs_fast.training import frozen
from drs_fast.training.fitting import Draws, descend, of_gan
from drs_fast.training.frozen import Rows

TARGETS = ("wasserstein", "ratio")
WIDTHS = (400, 400, 400)
BETAS = (0.5, 0.5)
LOW = -15.0  # below it, log softplus(a) is a to within 2e-7
REPORTED = 10_000  # latents
NEAR_ONE = 2.0  # largest accepted factor between the mean weight and 1


@dataclass(frozen=True)
class Report:
    """How good the weights are on latents they were not trained on."""

    mean_weight: float  # 1 for a density
    largest_weight: float
    effective_share: float  # (E w)^2 / E w^2; 1 if all weights are alike


class LatentWeights(nn.Module):
    """A network z (n, latent_dim) [, y (n,)] -> log weights (n,), the form samplers.Latent takes.

    widths: of the hidden layers. All it learned is in its state dict.
    """

    def __init__(
        self, latent_dim: int, labels: int | None = None, widths: Sequence[int] = WIDTHS
    ) -> None:
        super().__init__()
        self.labels = labels
        sizes = (latent_dim + (labels or 0), *widths)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, dtype=torch.float32), nn.ReLU()]
        layers += [nn.Linear(sizes[-1], 1, dtype=torch.float32), nn.Flatten(0)]
        self.layers = nn.Sequential(*layers)
        self._report: Report | None = None  # its name begins with _, so it is not in the sha256

    def forward(self, z: Tensor, *y: Tensor) -> Tensor:
        a = self._activation(z, *y)
        return torch.where(a < LOW, a, softplus(a.clamp(min=LOW)).log())

    def weights(self, z: Tensor, *y: Tensor) -> Tensor:
        """(n,), softplus of the last layer: the paper's ReLU would cut off its own gradients."""
        return softplus(self._activation(z, *y))

    def _activation(self, z: Tensor, *y: Tensor) -> Tensor:
        if self.labels is not None:
            z = torch.cat([z, one_hot(y[0], self.labels).to(z)], dim=1)
        found: Tensor = self.layers(z)
        return found


def report(critic: LatentWeights) -> Report:
    """How good the weights from latent_weights are."""
    if not isinstance(critic, LatentWeights) or critic._report is None:
        raise ValueError(
            "this critic was not made by drs.latent_weights, or was loaded from a file"
        )
    return critic._report


@of_gan
def latent_weights(
    gan: GAN,
    target: str = "wasserstein",
    *,
    largest: float = 3.0,
    balance: float = 10.0,
    excess: float = 3.0,
    penalty: float = 10.0,
    widths: Sequence[int] = WIDTHS,
    steps: int = 2000,
    critic_steps: int = 1,
    batch: int = 256,
    rate: float = 3e-4,
    critic_rate: float = 4e-4,
    reals: int = 50_000,
    seed: int = 0,
) -> LatentWeights:
    """A network of log weights for samplers.Latent, which then rejects latents before G runs.

    target: "wasserstein": as in the paper, the weights raise the mean score of G(z) while a copy of
        the critic is trained to tell the weighted samples from real ones. "ratio": the weights are
        fitted to exp(logit of G(z)) over its mean, without real samples; the GAN's logit must be a
        log density ratio.
    largest, excess: weights above `largest` cost `excess` times their squared distance from it.
    balance: weight of (mean w - 1)^2.
    penalty: weight of the squared excess over 1 of the critic's slope between real and generated
        samples. A slope below 1 costs nothing, or the critic could not turn.
    widths: of the network's hidden layers.
    steps: training steps of the weights, each after critic_steps training steps of the critic.
    batch: latents, and real samples, per step.
    rate, critic_rate: initial learning rates of Adam; they fall to 0 along a cosine.
    reals: real samples to train on.
    With labels, latents take the label of their real partner. `largest` to `penalty`, and all about
    the critic and real samples, apply to "wasserstein" only. Its values of largest, balance,
    excess, widths and critic_rate are those of re-implementations of the paper; the weights' rate
    is three times theirs. Weighted mean scores are divided by the mean weight, so that the critic's
    constant cancels.
    samplers.Latent(critic, cap=math.log(largest)) is the paper's rejection; without a cap, no
    weight of the burn-in is cut.

    Source: Issenhuth et al. (2022).
    """
    one_of("target", target, TARGETS)
    steps, batch = integer("steps", steps, 1), integer("batch", batch, 2)
    rate = positive("rate", rate)
    if not isinstance(widths, Iterable):
        raise ValueError(f"widths must be integers such as {WIDTHS}, got {describe(widths)}")
    hidden = [integer("widths", width, 1) for width in widths]
    network = Draws(seed, WEIGHT_ROW).build(
        lambda: LatentWeights(gan.latent_dim, gan.labels, hidden)
    )
    network.to(gan.device)
    learnt: Ratio | Game
    if target == "ratio":
        learnt = Ratio(gan, batch, seed)
    else:
        prices = Prices(largest, balance, excess, penalty)
        learnt = Game(gan, batch, seed, prices, critic_steps, critic_rate, reals)
    optimizer = torch.optim.Adam(network.parameters(), rate, BETAS)
    for step in range(steps):
        fade = cosine(step / steps)
        optimizer.param_groups[0]["lr"] = rate * fade
        descend(optimizer, learnt.loss(network, fade))
    network.requires_grad_(False).eval()
    network._report = reached(gan, network, seed, rate)
    return network


class Ratio:
    """Fits weights to exp(logit) over its mean, by KL between the two densities of latents."""

    def __init__(self, gan: GAN, batch: int, seed: int) -> None:
        if gan.energy:
            raise ValueError(
                f"target='ratio' needs a density ratio, got a {gan.link} critic; make it one "
                "with drs.calibrate or drs.keep_train, or use target='wasserstein'"
            )
        self.gan, self.batch = gan.on(block=batch), batch
        self.rng = Rng(seed, TRAINING_ROW)
        logit = self._draw(REPORTED)[-1].double()
        check(gan, logit)
        finite = logit[torch.isfinite(logit)]
        self.offset = finite.logsumexp(0) - math.log(len(logit))

    def loss(self, network: LatentWeights, fade: float) -> Tensor:
        *rows, logit = self._draw(self.batch)
        ratio = torch.where(torch.isfinite(logit), (logit - self.offset).exp(), 0.0)
        log_weight: Tensor = network(*rows)
        return (network.weights(*rows) - ratio * log_weight).mean()

    def _draw(self, n: int) -> tuple[Tensor, ...]:
        """z [, y], and the logit of G(z)."""
        z, y = ops.latents(self.gan, self.rng, n), ops.labels(self.gan, self.rng, n)
        self.rng = self.rng.at(self.rng.row + n)
        logit = self.gan.logits(z, y)[1].clone()
        return (z, logit) if y is None else (z, y, logit)


@dataclass(frozen=True)
class Prices:
    """The weights of the loss terms; latent_weights explains them."""

    largest: float
    balance: float
    excess: float
    penalty: float

    def __post_init__(self) -> None:
        for name in ("largest", "balance"):
            positive(name, getattr(self, name))
        for name in ("excess", "penalty"):
            number(name, getattr(self, name), 0.0, math.inf)

    def of_weights(self, weight: Tensor, score: Tensor) -> Tensor:
        """The weights' loss, given the critic's scores of the samples, all (n,)."""
        mean = weight.mean()
        above = relu(weight - self.largest).square().mean()
        loss = self.excess * above + self.balance * (mean - 1).square()
        return loss - weighted(score, weight)

    def of_critic(
        self, critic: nn.Module, real: Tensor, made: Tensor, labels: Rows, weight: Tensor, u: Tensor
    ) -> Tensor:
        """The critic's loss; its slope is taken at shares u (n,) of the way from made to real."""
        between = torch.lerp(made, real, moving.beside(u, made).to(made)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between, *labels).sum(), between, create_graph=True)
        steep = relu(slope.flatten(1).norm(dim=1) - 1).square().mean()
        gap: Tensor = critic(real, *labels).mean() - weighted(critic(made, *labels), weight)
        return self.penalty * steep - gap


class Game:
    """Weights that a critic should not tell from real samples, and the critic that tries to."""

    def __init__(
        self,
        gan: GAN,
        batch: int,
        seed: int,
        prices: Prices,
        critic_steps: int,
        critic_rate: float,
        reals: int,
    ) -> None:
        advice = "or take target='ratio', which only asks it"
        frozen.refuse_where(gan)
        given = frozen.critic_module(gan, f"wrap it in one, {advice}")
        x, y = gan.real_samples(integer("reals", reals, 1))
        discriminator = frozen.trainable(given)
        self.real: Rows = (x,) if y is None else (x, y)
        self.critic = Critic(discriminator, gan.link).requires_grad_()
        self.prices, self.steps = prices, integer("critic_steps", critic_steps, 1)
        self.rate = positive("critic_rate", critic_rate)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), self.rate, BETAS)
        self.gan, self.rng = gan.on(block=batch), Rng(seed, TRAINING_ROW)
        self.batch, self.draws = batch, Draws(seed, TRAINING_ROW)

    def loss(self, network: LatentWeights, fade: float) -> Tensor:
        """The weights' loss, after some training steps of the critic."""
        self.optimizer.param_groups[0]["lr"] = self.rate * fade
        for _ in range(self.steps):
            (real, *labels), z, made = self._draw()
            with torch.no_grad():
                weight = network.weights(z, *labels)
            u = self.draws.uniform(self.batch)
            loss = self.prices.of_critic(self.critic, real, made, tuple(labels), weight, u)
            descend(self.optimizer, loss)
        (_, *labels), z, made = self._draw()
        with torch.no_grad():
            score = self.critic(made, *labels)
        return self.prices.of_weights(network.weights(z, *labels), score)

    def _draw(self) -> tuple[Rows, Tensor, Tensor]:
        """Real samples [and their labels], and fresh latents with G's samples for those labels."""
        own = self.draws.integers(self.batch, len(self.real[0])).to(self.real[0].device)
        real, *labels = rows = tuple(row[own] for row in self.real)
        z = ops.latents(self.gan, self.rng, self.batch)
        self.rng = self.rng.at(self.rng.row + self.batch)
        made = self.gan.samples(z, *labels)
        alike(real, made)
        return rows, z, made


def weighted(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).mean() / weight.mean()


@torch.no_grad()
def reached(gan: GAN, network: LatentWeights, seed: int, rate: float) -> Report:
    """The report; RuntimeError if training went wrong."""
    rng = Rng(seed, HELD_OUT_ROW)
    z, y = ops.latents(gan, rng, REPORTED), ops.labels(gan, rng, REPORTED)
    weight = network.weights(z, *(() if y is None else (y,))).double()
    mean = float(weight.mean())
    if not 1.0 / NEAR_ONE <= mean <= NEAR_ONE:
        raise RuntimeError(
            f"training went wrong: the mean weight is {mean:.4g} and should be 1; use "
            f"another rate than {rate:g}, or more steps"
        )
    return Report(
        mean_weight=mean,
        largest_weight=float(weight.max()),
        effective_share=mean**2 / float(weight.square().mean()),
    )
