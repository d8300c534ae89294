"""GANs with nothing wrong: their logit is the log ratio, or near it, of a decent generator.

Every entry of HEALTHY maps a seed, that of the real samples, to a GAN.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import drs_fast as drs
from benchmarks.common import oracle
from drs_fast.core import REAL

N = 4096
Judge = Callable[[Tensor], Tensor]


def normals(seed: int, n: int, d: int) -> Tensor:
    return drs.ops.normal(drs.Rng(5000 + seed), n, d, stream=REAL)


def uniforms(seed: int, n: int, d: int = 1) -> Tensor:
    return torch.special.ndtr(normals(seed, n, d).double()).float()


def log_normal(x: Tensor, mean: float, sd: float) -> Tensor:
    """Log density of the first coordinate, up to a common constant."""
    return -((x[:, 0].double() - mean) / sd).square() / 2 - math.log(sd)


def shifted(seed, by=1.0, d=2, unit=1.0, n=N, then=lambda logit: logit, **settings):
    """N(0, I) made, N((by, 0, ...), I) real, both times `unit`."""
    real = normals(seed, n, d)
    real[:, 0] += by
    return drs.GAN(
        lambda z: unit * z,
        lambda x: then(by * x[:, 0] / unit - by * by / 2),
        d,
        **{"real": unit * real, **settings},
    )


def scaled(seed, sd=0.65, d=1):
    """N(0, I) made, N(0, sd^2 I) real."""

    def judge(x):
        return x.double().square().sum(dim=1) * (1 - sd**-2) / 2 - d * math.log(sd)

    return drs.GAN(lambda z: z, judge, d, real=sd * normals(seed, N, d))


def all_shifted(seed, by, d):
    return drs.GAN(
        lambda z: z, lambda x: (by * x - by * by / 2).sum(dim=1), d, real=normals(seed, N, d) + by
    )


def mixture(seed, shares, means, sd):
    """N(0, 1.3^2) made, a mixture real."""
    part = torch.bucketize(uniforms(seed + 7, N)[:, 0], torch.tensor(shares).cumsum(0)[:-1])
    real = (torch.tensor(means)[part] + sd * normals(seed, N, 1)[:, 0])[:, None]

    def judge(x):
        each = [math.log(p) + log_normal(x, m, sd) for p, m in zip(shares, means, strict=True)]
        return torch.logsumexp(torch.stack(each), dim=0) - log_normal(x, 0.0, 1.3)

    return drs.GAN(lambda z: 1.3 * z, judge, 1, real=real)


def one_of_two(seed):
    """Both coordinates differ, and D looks at one of them alone."""
    return shifted(seed, 0.7, real=normals(seed, N, 2) + 0.7)


def labelled(seed, classes=4, shares=None, joint=False, n=N):
    """Class y is around y; D is of p(x|y), or of p(x, y) with uniform labels made."""
    shares = torch.full((classes,), 1 / classes) if shares is None else torch.tensor(shares)
    y = torch.bucketize(uniforms(seed + 7, n)[:, 0], shares.cumsum(0)[:-1])
    frequency = (shares * classes).log() if joint else torch.zeros(classes)

    def judge(x, y):
        by = 0.5 + y % 3 / 2
        return by * (x[:, 0] - y) - by.square() / 2 + frequency[y]

    real = normals(seed, n, 2)
    real[:, 0] += y + 0.5 + y % 3 / 2
    return drs.GAN(lambda z, y: z + y[:, None], judge, 2, labels=classes, real=(real, y))


def pictures(seed, activation, inverse, channels=3, by=0.1):
    """Pixels are activation(normal), with a brighter mean in the real ones."""
    shape, d = (channels, 8, 8), channels * 64

    def judge(x):
        pre = inverse(x.flatten(1).double())
        return (by * pre - by * by / 2).sum(dim=1)

    def make(z):
        return activation(z).view(-1, *shape)

    return drs.GAN(make, judge, d, real=make(normals(seed, N // 2, d) + by))


def of_uniforms(seed, judge, quantile, low=0.0, **settings):
    """U(low, 1) made, quantile(U(0, 1)) real."""
    return drs.GAN(
        lambda u: u if low < 0 else (u + 1) / 2,
        lambda x: judge(x[:, 0]),
        1,
        prior="uniform",
        **{"real": quantile(uniforms(seed, N)), **settings},
    )


def exponential_tilt(u):
    """Quantiles of the density exp(x)/(e - 1) on [0, 1]."""
    return torch.log1p(u * (math.e - 1))


def stairs(seed, heights):
    """The real density is a stair on [0, 1]."""
    shares = torch.tensor(heights) / sum(heights)
    steps = len(heights)
    part = torch.bucketize(uniforms(seed + 7, N)[:, 0], shares.cumsum(0)[:-1])
    real = (part[:, None] + uniforms(seed, N)) / steps

    def judge(x):
        return (shares * steps).log()[(x * steps).long().clamp(0, steps - 1)]

    return of_uniforms(seed, judge, lambda u: u, real=real)


def truncated(seed, slope=0.7):
    """The truncated normal made, times exp(slope x) real: a normal of mean `slope`, truncated."""
    low, high = torch.special.ndtr(torch.tensor([-2.0 - slope, 2.0 - slope]).double())
    u = low + (high - low) * uniforms(seed, N).double()
    real = (torch.special.ndtri(u) + slope).float().clamp(-2.0, 2.0)
    return drs.GAN(lambda z: z, lambda x: slope * x[:, 0], 1, prior="truncated normal", real=real)


def log_normals(seed):
    """Positive, with a heavy tail."""
    return drs.GAN(
        torch.exp, lambda x: 0.5 * x[:, 0].log() - 0.125, 1, real=(normals(seed, N, 1) + 0.5).exp()
    )


def cauchy(seed):
    """Samples so far out that they have no mean; the real ones are normal."""

    def make(z):
        return torch.tan(math.pi * (torch.special.ndtr(z.double()) - 0.5)).float()

    def judge(x):
        wide = x[:, 0].double()
        return log_normal(x, 0.0, 1.0) + torch.log1p(wide.square()) + math.log(math.pi / 2) / 2

    return drs.GAN(make, judge, 1, real=normals(seed, N, 1))


def exponentials(seed, rate=1.5):
    def make(z):
        return -torch.log(torch.special.ndtr(-z.double())).float()

    return drs.GAN(
        make,
        lambda x: (1 - rate) * x[:, 0] + math.log(rate),
        1,
        real=make(normals(seed, N, 1)) / rate,
    )


def half_of_it(seed, slope=0.7):
    """Real samples are made ones above -1, with weights exp(slope x); below, logits are -inf."""
    low = torch.special.ndtr(torch.tensor(-1.0 - slope).double())
    u = low + (1 - low) * uniforms(seed, N).double()
    real = (torch.special.ndtri(u) + slope).float().clamp(min=-1.0)

    def judge(x):
        return torch.where(x[:, 0] >= -1.0, slope * x[:, 0], -torch.inf)

    return drs.GAN(lambda z: z, judge, 1, real=real)


def least_squares_relativistic(seed):
    """RLSGAN's optimum: C = s/(1 - E_g s) with s the sigmoid of the log ratio."""
    z = normals(seed + 9, 50_000, 1)[:, 0]
    share = float(torch.sigmoid(z - 0.5).mean())
    return drs.relativistic(
        shifted(seed, then=lambda logit: torch.sigmoid(logit) / (1 - share)), "RLSGAN"
    )


def calibrated(seed, method, then, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return drs.calibrate(shifted(seed, then=then, n=2 * N, **settings), method, seed=seed + 1)


class Network(nn.Module):
    """x_0 - 1/2, after layers that change nothing in eval mode."""

    def __init__(self, *before: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*before, nn.Linear(2, 1))
        self.layers[-1].weight.data.copy_(torch.tensor([[1.0, 0.0]]))
        self.layers[-1].bias.data.fill_(-0.5)

    def forward(self, x):
        return self.layers(x)


def batch_norm():
    """Running statistics whose effect the affine weights undo."""
    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(0.5)
    norm.running_var.fill_(2.0)
    norm.weight.data.fill_(math.sqrt(2.0 + norm.eps))
    norm.bias.data.fill_(0.5)
    return norm


def spectral(kind):
    """Converged; without real samples, because its verdict on them means nothing."""
    torch.manual_seed(0)
    layers = [nn.Linear(2, 64), nn.ReLU(), kind(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 1)]
    network = nn.Sequential(*layers)
    for _ in range(50):
        network(torch.zeros(2, 2))
    return shifted(0, real=None).judged(network)


def known_ratio(seed):
    gan = oracle.gan()
    gan.real = drs.load("25gaussians").real
    return gan


def steep(logit):
    return 3.0 * logit


def ripple(logit):
    return logit + 0.15 * torch.sin(3 * logit)


HEALTHY = {
    "shift of 1 sd": shifted,
    "shift of 0.3 sd": lambda seed: shifted(seed, 0.3),
    "shift of 2 sd": lambda seed: shifted(seed, 2.0),
    "strong D": lambda seed: shifted(seed, 2.5),
    "weak D, because G is good": lambda seed: shifted(seed, 0.05),
    "weak D, which sees half": one_of_two,
    "shift of all of 5": lambda seed: all_shifted(seed, 0.8, 5),
    "shift of all of 256": lambda seed: all_shifted(seed, 0.06, 256),
    "in hundreds": lambda seed: shifted(seed, unit=100.0),
    "in hundredths": lambda seed: shifted(seed, unit=0.01),
    "one dimension": lambda seed: shifted(seed, d=1),
    "512 dimensions": lambda seed: shifted(seed, d=512),
    "sd 0.65": scaled,
    "sd 0.65 in 4 dimensions": lambda seed: scaled(seed, d=4),
    "sd 0.3": lambda seed: scaled(seed, 0.3),
    "sd 1.2": lambda seed: scaled(seed, 1.2),
    "sd 0.97 in 256 dimensions": lambda seed: scaled(seed, 0.97, 256),
    "two modes": lambda seed: mixture(seed, (0.5, 0.5), (-1.0, 1.0), 0.5),
    "a rare mode": lambda seed: mixture(seed, (0.97, 0.03), (0.0, 2.5), 0.4),
    "25gaussians": lambda seed: drs.load("25gaussians"),
    "digits": lambda seed: drs.load("digits"),
    "25gaussians, known ratio": known_ratio,
    "stairs of two": lambda seed: stairs(seed, (3.0, 1.0)),
    "stairs of eight": lambda seed: stairs(seed, (1.0, 4.0, 2.0, 3.0, 1.5, 0.7, 2.5, 3.5)),
    "exponentials": exponentials,
    "log-normals": log_normals,
    "Cauchy's tails": cauchy,
    "a part of what G makes": half_of_it,
    "uniform prior": lambda seed: of_uniforms(
        seed,
        lambda x: torch.log1p(0.8 * x),
        lambda u: ((1 - 1.6 + 0.64 + 3.2 * u).sqrt() - 1) / 0.8,
        low=-1.0),
    "truncated normal prior": truncated,
    "a prior of one's own": lambda seed: shifted(seed, prior=lambda z: -z),
    "uniform, logits in [0, 1]": lambda seed: of_uniforms(seed, lambda x: x, exponential_tilt),
    "logits in [0, 1], no real samples": lambda seed: of_uniforms(
        seed, lambda x: x, exponential_tilt, real=None),
    "logits in [0.4, 0.6]": lambda seed: of_uniforms(
        seed, lambda x: 0.4 + 0.2 * x, lambda u: torch.log1p(u * math.expm1(0.2)) / 0.2),
    "probabilities": lambda seed: shifted(seed, then=torch.sigmoid, link="probability"),
    "LSGAN": lambda seed: shifted(seed, then=torch.sigmoid, link="least squares"),
    "LSGAN, -1 and 1": lambda seed: shifted(
        seed, then=lambda logit: torch.tanh(logit / 2), link="least squares -1 1"),
    "f-GAN, KL": lambda seed: shifted(seed, then=lambda logit: logit + 1, link="kl"),
    "f-GAN, reverse KL": lambda seed: shifted(
        seed, then=lambda logit: -torch.exp(-logit), link="reverse kl"),
    "f-GAN, chi-square": lambda seed: shifted(
        seed, then=lambda logit: 2 * torch.expm1(logit), link="chi-square"),
    "RSGAN, with a constant": lambda seed: shifted(seed, then=lambda logit: logit + 3.0),
    "RLSGAN": least_squares_relativistic,
    "hinge, calibrated": lambda seed: calibrated(
        seed, "platt", lambda logit: 0.4 * logit - 1.0, link="hinge"),
    "steep, calibrated": lambda seed: calibrated(seed, "platt", steep),
    "steep, isotonic": lambda seed: calibrated(seed, "isotonic", steep),
    "a little steep": lambda seed: shifted(seed, then=lambda logit: 1.2 * logit + 0.2),
    "a little flat": lambda seed: shifted(seed, then=lambda logit: 0.8 * logit),
    "a little rippled": lambda seed: shifted(seed, then=ripple),
    "labels": labelled,
    "ten labels": lambda seed: labelled(seed, 10),
    "rare labels, of p(x|y)": lambda seed: labelled(seed, shares=(0.7, 0.1, 0.1, 0.1)),
    "rare labels, of p(x, y)": lambda seed: labelled(seed, shares=(0.7, 0.1, 0.1, 0.1), joint=True),
    "a very rare label, of p(x, y)": lambda seed: labelled(
        seed, 2, shares=(0.98, 0.02), joint=True),
    "labels, few real": lambda seed: labelled(seed, n=60),
    "pictures behind a tanh": lambda seed: pictures(seed, torch.tanh, torch.atanh),
    "pictures in [0, 1]": lambda seed: pictures(seed, torch.sigmoid, torch.logit, 1),
    "pictures in [0, 255]": lambda seed: pictures(
        seed, lambda z: 255 * torch.sigmoid(z), lambda x: torch.logit(x / 255)),
    "pictures without bounds": lambda seed: pictures(seed, lambda z: 0.5 * z, lambda x: x / 0.5),
    "12 real samples": lambda seed: shifted(seed, n=12),
    "50 real samples": lambda seed: shifted(seed, n=50),
    "50 real samples, strong D": lambda seed: shifted(seed, 2.5, n=50),
    "300 real samples": lambda seed: shifted(seed, n=300),
    "no real samples": lambda seed: shifted(seed, real=None),
    "batch norm and dropout": lambda seed: shifted(seed).judged(
        Network(batch_norm(), nn.Dropout(0.5))),
    "spectral norm": lambda seed: spectral(spectral_norm),
    "spectral norm, parametrized": lambda seed: spectral(parametrizations.spectral_norm),
    "float64 inside": lambda seed: shifted(seed, then=lambda logit: logit.double()),
    "G of a few values": lambda seed: drs.GAN(
        lambda z: (z > 0).float(), lambda x: x[:, 0] - x[:, 1], 2),
}  # fmt: skip
