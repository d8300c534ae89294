"""Maps from logits, or any critic's scores, to calibrated log ratios, and how they are fitted.

With n_r real and n_g generated samples, the odds of real are r n_r/n_g; log(n_r/n_g) is subtracted.
Infinite scores stay as they are.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from drs_fast.core import BadLogits
from drs_fast.core.threads import one_thread
from drs_fast.ratio.held_out import Logits, varied

METHODS = ("platt", "temperature", "beta", "isotonic")
NEWTON_STEPS = 100
PART = 2**14  # samples processed together, so that intermediate results stay in the cache


class Calibrator(nn.Module):
    """A map of scores (n,) to log ratios (n,) float64."""

    def forward(self, score: Tensor) -> Tensor:
        wide = score.double()
        return torch.where(wide.isinf(), wide, self.of_finite(wide))

    def of_finite(self, score: Tensor) -> Tensor:
        raise NotImplementedError


class Line(Calibrator):
    """slope * score + offset: Platt's map, or a temperature, whose offset is 0."""

    slope: Tensor
    offset: Tensor

    def __init__(self, slope: float, offset: float) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64, device="cpu"))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float64, device="cpu"))

    def of_finite(self, score: Tensor) -> Tensor:
        return self.slope * score + self.offset


class Beta(Calibrator):
    """a log D - b log(1 - D) + c, with D = sigmoid(score).

    Source: Kull, Silva Filho and Flach, Beta calibration (2017).
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def of_finite(self, score: Tensor) -> Tensor:
        a, b, c = self.weights.unbind()
        return a * logsigmoid(score) - b * logsigmoid(-score) + c


class Isotonic(Calibrator):
    """The best-fitting rising function, linear between the scores where it is known."""

    score: Tensor
    share: Tensor

    def __init__(self, score: Tensor, share: Tensor, prior: float) -> None:
        super().__init__()
        self.register_buffer("score", score)  # rising scores at which it is known
        self.register_buffer("share", share)  # probability of real there, never 0 or 1
        self.prior = prior

    def of_finite(self, score: Tensor) -> Tensor:
        if score.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "isotonic calibration is made of plateaus, so it has no gradient to follow; "
                "use 'platt', 'temperature' or 'beta' where a sampler needs gradients"
            )
        right = torch.searchsorted(self.score, score.contiguous()).clamp(1, len(self.score) - 1)
        low, high = self.score[right - 1], self.score[right]
        part = ((score - low) / (high - low)).clamp(0.0, 1.0)
        share = torch.lerp(self.share[right - 1], self.share[right], part)
        return torch.logit(share) - self.prior


@one_thread()
def fit(method: str, valid: Logits) -> Calibrator:
    """Fits a calibrator to scores, finite or -inf, on one thread."""
    finite = valid.finite()
    if not len(finite.real) or not len(finite.generated):
        raise BadLogits("every real or every generated sample has the logit -inf")
    varied(finite)
    prior = math.log(len(valid.real) / len(valid.generated))
    if method == "isotonic":
        return Isotonic(*_isotonic(finite), prior)
    score, reals = torch.cat(finite), len(finite.real)
    if method == "beta":
        return Beta(_beta(score, reals, prior))
    if method == "temperature":
        return Line(float(_logistic(score[None], reals, prior)), 0.0)
    middle, width = float(score.mean()), float(score.std())
    features = torch.stack([(score - middle) / width, torch.ones_like(score)])
    slope, offset = _logistic(features, reals, prior).tolist()
    return Line(slope / width, offset - slope * middle / width)


def _beta(score: Tensor, reals: int, prior: float) -> Tensor:
    """a, b and c. A negative a or b is set to 0, so that the map rises."""
    features = torch.stack([logsigmoid(score), -logsigmoid(-score), torch.ones_like(score)])
    used = [0, 1, 2]
    while True:
        found = _logistic(features[used], reals, prior)
        falling = [
            k for k, weight in zip(used, found.tolist(), strict=True) if k < 2 and weight < 0
        ]
        if not falling:
            place = torch.tensor(used, device=found.device)
            return found.new_zeros(3).index_copy(0, place, found)
        used.remove(falling[0])


class Loss(NamedTuple):
    """The mean logistic loss, with its first and second derivatives by the weights."""

    value: float
    gradient: Tensor  # (k,)
    curvature: Tensor  # (k, k)


def _logistic(features: Tensor, reals: int, prior: float) -> Tensor:
    """Weights (k,) of a logistic regression on features (k, n) whose odds include the prior's.

    The first `reals` samples are real. Targets are Platt's, (n_r + 1)/(n_r + 2) and 1/(n_g + 2),
    which keep the weights finite if a score separates real from generated.
    Newton's method, in which steps that go too far are halved.
    Source: Platt, Probabilistic outputs for support vector machines (1999), section 2.2.
    """
    scale = features.square().mean(dim=1).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    ridge = 1e-12 * torch.eye(len(scale), dtype=torch.float64, device=scale.device)
    weights = torch.zeros_like(scale)
    loss = _loss(weights, features, reals, prior)
    for _ in range(NEWTON_STEPS):
        curvature = loss.curvature / (scale * scale[:, None])
        step = torch.linalg.solve(curvature + ridge, loss.gradient / scale) / scale
        left = float(loss.gradient @ step)
        after = _loss(weights - step, features, reals, prior)
        while after.value > loss.value * (1 + 1e-12):
            step = step / 2
            after = _loss(weights - step, features, reals, prior)
        weights, loss = weights - step, after
        if left < 1e-16:  # twice the possible fall of the loss; a step leaves about its square
            break
    return weights


def _loss(weights: Tensor, features: Tensor, reals: int, prior: float) -> Loss:
    """Loss of the log odds m that a sample is of its own kind, with target 1 - miss.

    That is softplus(-m) + miss m.
    """
    value, gradient = 0.0, torch.zeros_like(weights)
    curvature = weights.new_zeros(len(weights), len(weights))
    for sign, kind in ((1.0, features[:, :reals]), (-1.0, features[:, reals:])):
        miss = 1 / (kind.shape[1] + 2)
        for x in torch.split(kind, PART, dim=1):
            m = sign * (weights @ x + prior)
            value += float((miss * m - m.clamp(max=0.0) + torch.exp(-m.abs()).log1p()).sum())
            wrong = torch.sigmoid(-m)
            gradient += sign * (x @ (miss - wrong))
            curvature += (x * (wrong * (1 - wrong))) @ x.T
    n = features.shape[1]
    return Loss(value / n, gradient / n, curvature / n)


def _isotonic(finite: Logits) -> tuple[Tensor, Tensor]:
    """Rising scores, and the share of real samples there: the first and last of every plateau.

    Plot the number of real samples up to a score against the number of all samples up to it. The
    slopes of its greatest convex minorant are the shares. A point on or above the line between two
    others is not a corner of the minorant, so such points are removed until none is left.
    A real sample is added at the lowest score and a generated one at the highest. So k samples of
    one kind at an end have odds of k instead of infinite ones, where a Markov chain would stay for
    ever.
    Source: Robertson, Wright and Dykstra, Order restricted statistical inference (1988), 1.2.
    """
    real, generated = (logit.numpy() for logit in finite)
    lowest = min(real.min(), generated.min())
    highest = max(real.max(), generated.max())
    real = np.sort(np.append(real, lowest))
    both = np.sort(np.concatenate([real, generated, [highest]]))
    last = np.flatnonzero(np.append(both[1:] != both[:-1], True))  # of equal scores
    score = both[last]
    samples = np.append(0, last + 1)
    reals = np.append(0, np.searchsorted(real, score, side="right"))
    corners = np.arange(len(samples))
    while True:
        run, rise = np.diff(samples[corners]), np.diff(reals[corners])
        below = rise[:-1] * run[1:] < rise[1:] * run[:-1]
        if below.all():
            break
        corners = corners[np.concatenate([[True], below, [True]])]
    ends = np.stack([corners[:-1], corners[1:] - 1], axis=1).ravel()
    known = np.append(True, ends[1:] != ends[:-1])
    share = np.repeat(rise / run, 2)
    return torch.from_numpy(score[ends[known]]), torch.from_numpy(share[known])
