"""Keep-training: a sigmoid head on a critic's features, or the whole critic, learns the log ratio.

Source: Azadi, Olsson, Darrell, Goodfellow and Odena, Discriminator rejection sampling, ICLR 2019.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from drs_fast.core.arguments import describe, flag, integer, positive
from drs_fast.core.rows import WEIGHT_ROW
from drs_fast.gan import GAN, links
from drs_fast.gan.calls import one_per_sample
from drs_fast.training import fitting, frozen, taps
from drs_fast.training.fitting import Draws, of_gan
from drs_fast.training.frozen import Learned, Material, OnRows, Rows


@dataclass(frozen=True)
class Report:
    """What keep-training reached on samples it was not trained on."""

    held_out_loss: float  # logistic loss; 0.6931 for a critic that says nothing
    area_under_curve: float
    mean_weight: float  # mean exp(logit) over generated samples; 1 for a true ratio
    steps: int
    features: str = ""  # which part of the critic they are


def report(gan: GAN) -> Report:
    """How well the critic of a GAN from keep_train was trained."""
    return frozen.report_of(gan, Report, "drs.keep_train")


@of_gan
def keep_train(
    gan: GAN,
    features: str | Callable[[Tensor], Tensor] | None = None,
    whole: bool = False,
    *,
    widths: Sequence[int] = (512, 256),
    samples: int = 20_000,
    batch: int = 512,
    rate: float | None = None,
    patience: int = 5,
    max_steps: int = 20_000,
    seed: int = 0,
) -> GAN:
    """The GAN with a critic that estimates the log density ratio, whatever its critic was before.

    A sigmoid head is trained on features of the frozen critic with the logistic loss, and with G
    frozen too, until the loss on held-out samples stops falling; the best weights are kept. Works
    for hinge, Wasserstein and relativistic critics, and for GANs without a critic. The given
    modules are not changed, but those that a function uses are put in eval mode.

    features: the dotted name of the part of the critic whose output is used; or a function of
        samples [and labels], (n, ...) -> (n, d), such as `lambda x: x`; or "before-minibatch-std",
        the input of the part that couples the rows of a batch. None: the input of the part that
        returns the score, else of the Linear or Conv layer that runs last; `report` says which, and
        that large feature maps are averaged over positions. With labels, the head is given the
        label too.
    whole: train a copy of the whole critic instead, in eval mode: batch norm keeps its statistics
        and dropout stays off, as in sampling.
    widths: of the head's hidden layers.
    samples: real samples to use; a fifth of them is held out.
    batch: rows per step, both real and generated.
    rate: initial learning rate of Adam; by default 1e-3, with whole 1e-4.
    patience: hundreds of steps without a new best before the rate falls fourfold; it falls twice.
    """
    batch, max_steps = integer("batch", batch, 1), integer("max_steps", max_steps, 1)
    patience = integer("patience", patience, 1)
    whole = flag("whole", whole)
    rate = positive("rate", (1e-4 if whole else 1e-3) if rate is None else rate)
    if not isinstance(widths, Iterable):
        raise ValueError(f"widths must be integers such as (512, 256), got {describe(widths)}")
    widths = [integer("widths", width, 1) for width in widths]
    if whole and features is not None:
        raise ValueError("got features and whole=True; give one: whole trains the whole critic")
    material = Material(gan, samples, seed)
    what = "the whole critic"
    critic: nn.Module
    network: nn.Module
    if whole:
        critic = network = Whole(gan)
        rows = material.held_out, material.generated(material.held_out)
        batches = material.batches(batch)
    else:
        take, what = _features(gan, material, features)
        seen, encode = material.frozen(take)
        rows = encode(material.held_out), encode(material.generated(material.held_out))
        sizes = [rows[0][0].shape[1], *widths, 1]
        network = Draws(seed, WEIGHT_ROW).build(lambda: head(sizes)).to(gan.device)
        critic = Learned(seen, network)
        batches = material.batches(batch, encode)
    steps = 0

    def pair() -> tuple[Rows, Rows]:
        nonlocal steps
        steps += 1
        return next(batches)

    judge = OnRows(network, gan.block)
    first = fitting.held_out_loss(judge, *rows)
    loss = fitting.keep_train(
        judge,
        pair,
        rows,
        rate=rate,
        every=min(100, max_steps),
        patience=patience,
        decays=2,
        max_steps=max_steps,
    )
    found = reached(judge, rows, loss, steps, what)
    if loss >= first or not tells(judge, rows):
        warnings.warn(
            f"too little was learned: the held-out loss is {loss:.4f}, was {first:.4f} before, and "
            f"a critic that says nothing has 0.6931; use another rate than {rate:g}, other "
            "features, or more steps or samples",
            stacklevel=3,
        )
    return gan.judged(frozen.reporting(critic, found))


def head(sizes: Sequence[int]) -> nn.Sequential:
    """A new network: features (n, d) -> logit (n,)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Flatten(0))


def _features(
    gan: GAN, material: Material, features: str | Callable[..., Tensor] | None
) -> tuple[nn.Module, str]:
    """A module x [, y] -> features, and what they are in words."""
    if features is None or features == taps.BEFORE:
        return taps.found(material, features)
    what = f"the output of {features}" if isinstance(features, str) else "a function"
    return taps.taken(gan, features), what


class Whole(nn.Module):
    """A copy of the GAN's critic and link, always in eval mode."""

    def __init__(self, gan: GAN) -> None:
        super().__init__()
        critic = frozen.critic_module(gan, "pass features=a function x -> (n, d), not whole=True")
        self.critic = frozen.trainable(critic).requires_grad_()
        self.link = links.LINKS[gan.link] if isinstance(gan.link, str) else gan.link

    def train(self, mode: bool = True) -> "Whole":
        return super().train(False)

    def forward(self, x: Tensor, *label: Tensor) -> Tensor:
        n, where = len(x), x.device
        score = one_per_sample("discriminator", self.critic(x, *label), n, where)
        return one_per_sample("link", self.link(score), n, where)


@torch.no_grad()
def tells(judge: nn.Module, rows: tuple[Rows, Rows]) -> bool:
    """Whether the loss is surely below log 2, the loss of a critic that says nothing."""
    real, generated = (judge(part).double() for part in rows)
    gain = math.log(2) - torch.cat([softplus(-real), softplus(generated)])
    return float(gain.mean()) > fitting.SURE * float(gain.std()) / math.sqrt(len(gain))


def reached(
    judge: nn.Module, rows: tuple[Rows, Rows], loss: float, steps: int, what: str
) -> Report:
    """The report on the trained critic."""
    if not math.isfinite(loss):
        raise ValueError(
            f"the held-out loss is {loss}: some samples' logits are infinite or NaN; train a head "
            "on the critic's features instead of the whole critic, or look for overflow in it"
        )
    with torch.no_grad():
        real, generated = (judge(part).double() for part in rows)
    return Report(
        held_out_loss=loss,
        area_under_curve=fitting.area_under_curve(real, generated),
        mean_weight=float(generated.exp().mean()),
        steps=steps,
        features=what,
    )
