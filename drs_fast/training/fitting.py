"""Shared by all training: named random numbers, the GAN game, and keep-training."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from drs_fast import ops
from drs_fast.core import FITTING, Rng
from drs_fast.core.arguments import describe
from drs_fast.gan import GAN

SURE = 4.0  # standard errors: one false positive in 16,000 sound models, for a two-sided check
Say = Callable[[str], object]
Function = TypeVar("Function", bound=Callable[..., Any])
Network = TypeVar("Network", bound=nn.Module)
Rows = TypeVar("Rows")  # whatever the discriminator takes


def of_gan(function: Function) -> Function:
    """Decorates a function of a GAN, so that it can take gradients even inside no_grad."""

    @functools.wraps(function)
    def wrapped(gan: GAN, *given: Any, **named: Any) -> Any:
        if not isinstance(gan, GAN):
            raise ValueError(f"gan must be a drs.GAN, got {describe(gan)}; use drs.load")
        with torch.inference_mode(False):  # also switches gradients on
            return function(gan, *given, **named)

    return cast(Function, wrapped)


class Draws:
    """Random numbers in order: every call takes the next rows of the fitting stream."""

    def __init__(self, seed: int, row: int = 0) -> None:
        self.rng = Rng(seed, row)

    def _rows(self, n: int) -> Rng:
        rng = self.rng
        self.rng = rng.at(rng.row + n)
        return rng

    def normal(self, n: int, d: int) -> Tensor:
        """Standard normals (n, d) float32."""
        return ops.normal(self._rows(n), n, d, stream=FITTING)

    def uniform(self, n: int) -> Tensor:
        """Uniforms (n,) float64 in [0, 1)."""
        return ops.uniform(self._rows(n), n, stream=FITTING)

    def integers(self, n: int, high: int) -> Tensor:
        """Integers (n,) int64 in [0, high)."""
        return (self.uniform(n) * high).long()

    def permutation(self, n: int) -> Tensor:
        """A random permutation (n,) int64."""
        return self.uniform(n).argsort(stable=True)

    def jitter(self, x: Tensor, sd: float) -> Tensor:
        """x plus Gaussian noise."""
        return x + sd * self.normal(len(x), x[0].numel()).view_as(x)

    def build(self, kind: Callable[[], Network]) -> Network:
        """A new network: weights and biases uniform within 1/sqrt(fan in), layer by layer."""
        with torch.device("meta"):  # torch's own initialisation would use its global random state
            network = kind().float()  # whatever torch's default dtype is
        network.to_empty(device="cpu")
        self.initialise(network)
        return network

    @torch.no_grad()
    def initialise(self, network: nn.Module) -> None:
        """Gives every linear or convolutional layer new weights and biases."""
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in (layer.weight, layer.bias):
                    if parameter is not None:
                        u = self.uniform(parameter.numel()).view_as(parameter)
                        parameter.copy_(bound * (2 * u - 1))


class Dropout(nn.Module):
    """Dropout of whole channels (n, c, ...) with masks from `draws`; the identity in eval mode."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draws: Draws | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.draws is None:
            raise RuntimeError("dropout in train mode needs draws; call use_draws(module, draws)")
        n, channels = x.shape[:2]
        kept = self.draws.uniform(n * channels) >= self.rate
        return x * kept.to(x.device).view(n, channels, *[1] * (x.ndim - 2)) / (1 - self.rate)


def use_draws(module: nn.Module, draws: Draws) -> None:
    """Makes the module's dropout use these draws."""
    for layer in module.modules():
        if isinstance(layer, Dropout):
            layer.draws = draws


def logistic_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Mean loss of logits; log(2) = 0.6931 if they say nothing."""
    return (softplus(-real).mean() + softplus(generated).mean()) / 2


def area_under_curve(real: Tensor, generated: Tensor) -> float:
    """Probability that a real sample's logit is above a generated one's; ties count half."""
    order = generated.sort().values
    below, up_to = torch.searchsorted(order, real), torch.searchsorted(order, real, right=True)
    return float((below + up_to).double().mean()) / (2 * len(generated))


def area_error(m: int, n: int) -> float:
    """Standard error of the area under the curve of m against n samples, if it is 1/2."""
    return math.sqrt((m + n + 1) / (12 * m * n))


class Game:
    """The non-saturating GAN game; a step trains each player once. `average` is the one to keep.

    average: exponential moving average of the generator's weights.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        *,
        generator_rate: float,
        critic_rate: float,
        beta2: float = 0.999,
        decay: float = 0.998,
    ) -> None:
        self.generator, self.critic, self.decay = generator, critic, decay
        self.average = copy.deepcopy(generator)
        betas = (0.5, beta2)
        self.to_fool = torch.optim.Adam(generator.parameters(), generator_rate, betas)
        self.to_tell = torch.optim.Adam(critic.parameters(), critic_rate, betas)

    def step(self, real: Tensor, z: Tensor, noise: Callable[[Tensor], Tensor]) -> None:
        """Trains each player once. `noise` is added to what the critic sees, real or generated."""
        x = self.generator(z)
        loss = logistic_loss(self.critic(noise(real)), self.critic(noise(x.detach())))
        descend(self.to_tell, loss)
        descend(self.to_fool, softplus(-self.critic(noise(x))).mean())
        with torch.no_grad():
            for kept, now in zip(
                self.average.parameters(), self.generator.parameters(), strict=True
            ):
                kept.lerp_(now, 1 - self.decay)


@torch.no_grad()
def held_out_loss(discriminator: nn.Module, real: Rows, generated: Rows) -> float:
    """Logistic loss in eval mode; the module's mode is restored."""
    mode = discriminator.training
    discriminator.eval()
    loss = float(logistic_loss(discriminator(real), discriminator(generated)))
    discriminator.train(mode)
    return loss


def keep_train(
    discriminator: nn.Module,
    batch: Callable[[], tuple[Rows, Rows]],
    held_out: tuple[Rows, Rows],
    *,
    rate: float,
    every: int,
    patience: int,
    decays: int = 3,
    weight_decay: float = 0.0,
    max_steps: int = 100_000,
    say: Say = lambda line: None,
) -> float:
    """Trains on, with the generator frozen, until the held-out loss stops falling.

    batch: draws (real, generated). held_out: (real, generated), never trained on.
    The held-out loss is computed every `every` steps. After `patience` of them without a new best,
    the best weights are restored and the rate falls fourfold; training ends after `decays` falls.
    Leaves the best weights, in eval mode; returns their held-out loss.
    """

    def restart(rate: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(discriminator.parameters(), rate, weight_decay=weight_decay)

    optimizer = restart(rate)
    best, since = held_out_loss(discriminator, *held_out), 0
    weights = copy.deepcopy(discriminator.state_dict())
    discriminator.train()
    for step in range(1, max_steps + 1):
        real, generated = batch()
        descend(optimizer, logistic_loss(discriminator(real), discriminator(generated)))
        if step % every:
            continue
        loss = held_out_loss(discriminator, *held_out)
        say(f"  discriminator step {step}: held-out loss {loss:.5f} (best {min(best, loss):.5f})")
        since += 1
        if loss < best:
            best, since, weights = loss, 0, copy.deepcopy(discriminator.state_dict())
        if since == patience:
            if decays == 0:
                break
            decays, since, rate = decays - 1, 0, rate / 4
            discriminator.load_state_dict(weights)
            optimizer = restart(rate)
    discriminator.load_state_dict(weights)
    discriminator.eval()
    return best


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, *, steepest: float = math.inf) -> None:
    """One step down the loss, with the gradient clipped to length `steepest`."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if steepest < math.inf:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, steepest)
    optimizer.step()
