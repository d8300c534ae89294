"""Density ratio estimation in a feature space (DRE-F), for GANs with any critic or none.

Source: Ding, Wang and Welch, Subsampling generative adversarial networks: density ratio estimation
in feature space with softplus loss, IEEE Transactions on Signal Processing 68 (2020).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from drs_fast.core.arguments import flag, integer, number, one_of, positive
from drs_fast.core.rows import MASK_ROW, WEIGHT_ROW
from drs_fast.gan import GAN, links
from drs_fast.ratio.losses import LOSSES, PENALTIES, Loss
from drs_fast.training import frozen, taps
from drs_fast.training.fitting import Draws, Dropout, descend, of_gan, use_draws
from drs_fast.training.frozen import Given, Learned, Material, OnRows, Rows


@dataclass(frozen=True)
class Report:
    """How well a density ratio R was learned."""

    loss: str
    penalty: float  # the chosen one
    held_out_mean: float  # mean R over held-out real samples
    generated_mean: float  # mean R over fresh generated samples; 1 for a true ratio
    ks_p: float  # Kolmogorov-Smirnov p value: is R alike on held-out and on trained real samples?
    tried: tuple[tuple[float, float], ...]  # every penalty with its held_out_mean


def report(gan: GAN) -> Report:
    """How well the ratio of a GAN from density_ratio was learned."""
    return frozen.report_of(gan, Report, "drs.density_ratio")


@of_gan
def density_ratio(
    gan: GAN,
    features: str | Callable[[Tensor], Tensor] | None = None,
    loss: str = "softplus",
    penalty: float | Sequence[float] | None = None,
    width: int = 256,
    depth: int = 3,
    epochs: int | None = None,
    paper: bool = False,
    *,
    samples: int = 20_000,
    batch: int = 512,
    rate: float | None = None,
    seed: int = 0,
) -> GAN:
    """The GAN with critic log R; R >= 0 is a network on features that estimates p_data/p_model.

    The GAN's own critic is not used, unless features names a part of it. The given modules are not
    changed, but those that a function uses are put in eval mode.

    features: a function of samples [and labels], (n, ...) -> (n, d), such as a classifier's layer;
        the dotted name of a part of the critic; "before-minibatch-std", as in drs.keep_train; None:
        the samples themselves, flattened. With labels, R is given the label too.
    loss: "softplus", "ulsif", "barr", or "dskl", which has no minimiser.
    penalty: lambda, the weight of mean R = 1 over generated samples. Of several, the one with the
        largest mean R on held-out real samples is chosen. None: the paper's seven, 1 for "barr", 0
        for "dskl".
    width, depth: of the network's hidden layers. epochs: 50, each with fresh generated samples.
    paper: use the paper's network and training instead: five hidden layers from 2048 to 128 with
        group norm and dropout, 200 epochs on features and 400 on samples. Slow without a GPU.
    samples: real samples to use; a fifth of them is held out.
    batch: rows per step, both real and generated.
    rate: learning rate of Adam; it falls to 0 along a cosine, or as in the paper.
    """
    one_of("loss", loss, tuple(LOSSES))
    if penalty is None:
        penalty = PENALTIES[loss]
    given = penalty if isinstance(penalty, Sequence) else (penalty,)
    penalties = [number("penalty", value, 0.0, math.inf) for value in given]
    if not penalties:
        raise ValueError("penalty must be a number or several, got none; give one, or None")
    batch = integer("batch", batch, 1)
    plan = Plan.of(features, loss, width, depth, epochs, flag("paper", paper), rate)
    if loss == "dskl":
        warnings.warn(
            "the dskl loss has no minimiser: the longer R is trained, the further it runs away "
            "from the density ratio; use softplus or ulsif except for comparisons",
            stacklevel=3,
        )
    material = Material(gan, samples, seed)
    take: nn.Module = Given(links.identity)
    if features == taps.BEFORE:
        take, _ = taps.found(material, taps.BEFORE)
    elif features is not None:
        take = taps.taken(gan, features)
    seen, encode = material.frozen(take)
    held_out = encode(material.held_out)
    networks = [plan.network(held_out[0].shape[1], seed).to(gan.device) for _ in penalties]
    train(networks, penalties, LOSSES[loss], material, encode, batch, plan)

    judges = [OnRows(network, gan.block) for network in networks]
    with torch.no_grad():
        means = [float(judge(held_out).double().mean()) for judge in judges]
        best = max(range(len(means)), key=lambda i: -math.inf if math.isnan(means[i]) else means[i])
        judge, real = judges[best], judges[best](held_out)
        fresh = judge(encode(material.generated(material.held_out))).double()
        check(LOSSES[loss], penalties[best], real.double(), fresh, plan.rate)
        ks_p = same_law(judge(encode(material.training)), real)
    found = Report(
        loss=loss,
        penalty=penalties[best],
        held_out_mean=means[best],
        generated_mean=float(fresh.mean()),
        ks_p=ks_p,
        tried=tuple(zip(penalties, means, strict=True)),
    )
    network = nn.Sequential(networks[best], Logarithm())
    return gan.judged(frozen.reporting(Learned(seen, network), found))


@dataclass(frozen=True)
class Plan:
    """The network and how to train it."""

    widths: tuple[int, ...]
    epochs: int
    rate: float
    weight_decay: float
    factor: Callable[[float], float]  # factor of the rate, given the share of training done
    paper: bool

    @classmethod
    def of(
        cls,
        features: object,
        loss: str,
        width: int,
        depth: int,
        epochs: int | None,
        paper: bool,
        rate: float | None,
    ) -> "Plan":
        widths: tuple[int, ...] = (2048, 1024, 512, 256, 128)
        if not paper:
            widths = (integer("width", width, 1),) * integer("depth", depth, 1)
            usual, first, factor = 50, 3e-3, cosine
        elif features is None:
            usual, first, factor = 400, 1e-3 if loss == "softplus" else 1e-5, constant
        else:
            usual, first, factor = 200, 1e-4, halfway
        return cls(
            widths,
            integer("epochs", usual if epochs is None else epochs, 1),
            positive("rate", first if rate is None else rate),
            1e-4 if paper and features is not None else 0.0,
            factor,
            paper,
        )

    def network(self, inputs: int, seed: int) -> nn.Module:
        """A new network: features (n, inputs) -> R (n,)."""

        def kind() -> nn.Sequential:
            layers: list[nn.Module] = []
            for before, after in pairwise([inputs, *self.widths]):
                layers.append(nn.Linear(before, after))
                layers += [nn.GroupNorm(4, after)] if self.paper else []
                layers.append(nn.ReLU())
                layers += [Dropout(0.2)] if self.paper else []
            layers.append(nn.Linear(self.widths[-1], 1))
            layers.append(nn.ReLU() if self.paper else nn.Softplus())
            return nn.Sequential(*layers, nn.Flatten(0))

        network = Draws(seed, WEIGHT_ROW).build(kind)
        for layer in network:
            if isinstance(layer, nn.GroupNorm):
                layer.reset_parameters()
        use_draws(network, Draws(seed, MASK_ROW))
        return network


def constant(way: float) -> float:
    return 1.0


def halfway(way: float) -> float:
    return 1.0 if way < 0.5 else 0.1


def cosine(way: float) -> float:
    return (1.0 + math.cos(math.pi * way)) / 2


def train(
    networks: Sequence[nn.Module],
    penalties: Sequence[float],
    loss: Loss,
    material: Material,
    encode: Callable[[Rows], Rows],
    batch: int,
    plan: Plan,
) -> None:
    """Trains all networks on the same batches, each with its penalty; leaves them in eval mode."""
    optimizers = [
        torch.optim.Adam(
            network.parameters(), plan.rate, (0.5, 0.999), weight_decay=plan.weight_decay
        )
        for network in networks
    ]
    batches = material.batches(batch, encode)
    n = len(material.training[0])
    steps = plan.epochs * (n // min(batch, n))
    for network in networks:
        network.train()
    for step in range(steps):
        (real,), (generated,) = next(batches)
        for network, penalty, optimizer in zip(networks, penalties, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = plan.rate * plan.factor(step / steps)
            descend(optimizer, loss(network(real), network(generated), penalty))
    for network in networks:
        network.eval()


def check(
    loss: Loss,
    penalty: float,
    real: Tensor,
    generated: Tensor,
    rate: float,
) -> None:
    """RuntimeError if these held-out R are not finite; warns if R = 1 would do as well."""
    reached, nothing = (
        float(loss(one, other, penalty))
        for one, other in ((real, generated), (torch.ones_like(real), torch.ones_like(generated)))
    )
    if not math.isfinite(reached):
        raise RuntimeError(
            f"training diverged: the held-out loss is {reached}; use a smaller rate than {rate:g}"
        )
    if reached >= nothing:
        warnings.warn(
            f"too little was learned: the held-out loss is {reached:.4f}, and {nothing:.4f} for "
            f"R = 1; use another rate than {rate:g}, other features, or more epochs",
            stacklevel=4,
        )


class Logarithm(nn.Module):
    """log R, where R is at least the smallest normal number."""

    def forward(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(min=torch.finfo(ratio.dtype).tiny).log()


def same_law(a: Tensor, b: Tensor) -> float:
    """p value of the two-sample Kolmogorov-Smirnov test, in the limit of many samples."""
    a, b = a.sort().values, b.sort().values
    points = torch.cat([a, b])
    below = [torch.searchsorted(x, points, right=True).double() / len(x) for x in (a, b)]
    distance = float((below[0] - below[1]).abs().max())
    scaled = distance * math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    if scaled < 0.2:  # the series converges slowly here, and 1 - p is below 1e-12
        return 1.0
    series = sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 51))
    return float(min(1.0, 2 * series))
