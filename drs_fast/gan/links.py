"""Maps from a critic's output to a log density ratio, one for each loss the critic may have.

A map is exact at the loss's optimum. A trained critic is only near it, so calibrate it as well.
Hinge and Wasserstein critics are not functions of the density ratio: use them as energies, or turn
them into a ratio with drs.calibrate or drs.keep_train. Relativistic critics need means over both
kinds of samples: see drs.relativistic. The data critic of an alpha-GAN judged real samples against
generated and reconstructed ones together, so its logit is log p_data/(p_model + p_reconstructed).
No map turns that into p_data/p_model; use drs.keep_train first.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

Link = Callable[[Tensor], Tensor]
ENERGIES = ("hinge", "wasserstein")
MARGIN = 2.0**-20  # of the distance between the targets: a critic outside them is at 13.9 nats


def identity(score: Tensor) -> Tensor:
    return score


def probability(score: Tensor) -> Tensor:
    """log p - log(1 - p), of a critic that ends in a sigmoid."""
    wide = score.double()
    return torch.log(wide) - torch.log1p(-wide)


def least_squares(
    score: Tensor, *, fake: float | Tensor = 0.0, real: float | Tensor = 1.0
) -> Tensor:
    """log (C - fake) / (real - C), with C kept between the two targets.

    Source: Mao et al., Least squares generative adversarial networks (2017), equation 5.
    """
    share = ((score.double() - fake) / (real - fake)).clamp(MARGIN, 1.0 - MARGIN)
    return torch.log(share) - torch.log1p(-share)


def kullback_leibler(score: Tensor) -> Tensor:
    """T - 1, of an f-GAN critic with conjugate exp(T - 1).

    Source: Nowozin, Cseke and Tomioka, f-GAN (2016), tables 2 and 6.
    """
    return score - 1.0


def reverse_kullback_leibler(score: Tensor) -> Tensor:
    """-log(-T), of an f-GAN critic T < 0 with conjugate -1 - log(-T); invalid where T >= 0."""
    return -torch.log(-score.double())


def chi_square(score: Tensor) -> Tensor:
    """log(T / 2 + 1), of an f-GAN critic with conjugate T^2 / 4 + T; -inf where T <= -2."""
    return torch.log((score.double() / 2.0 + 1.0).clamp(min=0.0))


LINKS: dict[str, Link] = {
    "logit": identity,
    "probability": probability,
    "least squares": least_squares,
    "least squares -1 1": functools.partial(least_squares, fake=-1.0, real=1.0),
    "kl": kullback_leibler,
    "reverse kl": reverse_kullback_leibler,
    "chi-square": chi_square,
    **dict.fromkeys(ENERGIES, identity),
}


def check(link: object) -> None:
    """ValueError unless it is a link, or the name of one."""
    if not (callable(link) or (isinstance(link, str) and link in LINKS)):
        raise ValueError(f"link must be one of {tuple(LINKS)} or a callable, got {link!r}")


class Chain(nn.Module):
    """Two links in sequence. A module, so that their tensors move along with the GAN."""

    def __init__(self, first: Link, then: Link) -> None:
        super().__init__()
        self.first, self.then = first, then

    def forward(self, score: Tensor) -> Tensor:
        return self.then(self.first(score))


def after(first: str | Link, then: Link) -> Link:
    """The link that applies `first`, then `then`."""
    own = LINKS[first] if isinstance(first, str) else first
    return then if own is identity else Chain(own, then)
