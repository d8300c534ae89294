"""Maps from logits, or any critic's scores, to calibrated log ratios, and how they are fitted.

With n_r real and n_g generated samples the odds of real are r n_r/n_g: log(n_r/n_g) is taken out.
Infinite scores stay as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from drs_fast.core import BadLogits
from drs_fast.ratio.held_out import Logits, varied

METHODS = ("platt", "temperature", "beta", "isotonic")
NEWTON_STEPS = 100


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
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float64))

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
    """The rising function that fits best, linear between the scores where it is known."""

    score: Tensor
    share: Tensor

    def __init__(self, score: Tensor, share: Tensor, prior: float) -> None:
        super().__init__()
        self.register_buffer("score", score)  # where it is known, rising
        self.register_buffer("share", share)  # chance of being real there, never 0 or 1
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


def fit(method: str, valid: Logits) -> Calibrator:
    """The calibrator that fits these scores, which are finite or -inf."""
    finite = valid.finite()
    if not len(finite.real) or not len(finite.generated):
        raise BadLogits("every real or every generated sample has the logit -inf")
    varied(finite)
    score = torch.cat(finite)
    real = torch.zeros(len(score), dtype=torch.bool)
    real[: len(finite.real)] = True
    prior = math.log(len(valid.real) / len(valid.generated))
    if method == "isotonic":
        return Isotonic(*_isotonic(finite), prior)
    if method == "beta":
        return Beta(_beta(score, real, prior))
    if method == "temperature":
        return Line(float(_logistic(score[:, None], real, prior)), 0.0)
    middle, width = float(score.mean()), float(score.std())
    features = torch.stack([(score - middle) / width, torch.ones_like(score)], dim=1)
    slope, offset = _logistic(features, real, prior).tolist()
    return Line(slope / width, offset - slope * middle / width)


def _beta(score: Tensor, real: Tensor, prior: float) -> Tensor:
    """a, b and c; a or b is 0 where it would be negative, so that the map rises."""
    features = torch.stack([logsigmoid(score), -logsigmoid(-score), torch.ones_like(score)], dim=1)
    used = [0, 1, 2]
    while True:
        found = _logistic(features[:, used], real, prior)
        falling = [
            k for k, weight in zip(used, found.tolist(), strict=True) if k < 2 and weight < 0
        ]
        if not falling:
            return torch.zeros(3, dtype=torch.float64).index_copy(0, torch.tensor(used), found)
        used.remove(falling[0])


def _logistic(features: Tensor, real: Tensor, prior: float) -> Tensor:
    """Weights (k,) of the logistic regression on features (n, k), whose odds include the prior's.

    The targets are Platt's, (n_r + 1)/(n_r + 2) and 1/(n_g + 2), which keep the weights finite
    where a score separates real from generated. Newton's method, halving steps that go too far.
    Source: Platt, Probabilistic outputs for support vector machines (1999), section 2.2.
    """
    n, count = len(real), int(real.sum())
    high, low = (count + 1) / (count + 2), 1 / (n - count + 2)
    target = low + (high - low) * real.double()
    scale = features.square().mean(dim=0).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    x = features / scale
    ridge = 1e-12 * torch.eye(x.shape[1], dtype=torch.float64)

    def loss(weights: Tensor) -> float:
        odds = x @ weights + prior
        return -float((target * logsigmoid(odds) + (1 - target) * logsigmoid(-odds)).mean())

    weights = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        share = torch.sigmoid(x @ weights + prior)
        gradient = x.T @ (share - target) / n
        curvature = (x * (share * (1 - share))[:, None]).T @ x / n
        step = torch.linalg.solve(curvature + ridge, gradient)
        before = loss(weights)
        while loss(weights - step) > before * (1 + 1e-12):
            step = step / 2
        weights = weights - step
        if float(gradient @ step) < 1e-20:
            break
    return weights / scale


def _isotonic(finite: Logits) -> tuple[Tensor, Tensor]:
    """Scores, rising, and the share of real samples there, by pooling adjacent violators.

    Of every plateau the first and the last score. A real sample at the lowest score and a generated
    one at the highest are added, so that k samples of one kind at an end have odds of k, not
    infinite ones, at which a Markov chain would stay for ever.
    """
    ends = torch.cat(finite).aminmax()
    # Real samples first: so they are among equal scores too, which then end in one plateau.
    score = torch.cat([ends.min[None], finite.real, finite.generated, ends.max[None]])
    order = score.argsort(stable=True)
    real = order <= len(finite.real)
    blocks: list[tuple[int, int, float, float]] = []  # real, all, first score, last score
    for last, above in zip(score[order].tolist(), real.long().tolist(), strict=True):
        of, first = 1, last
        while blocks and blocks[-1][0] * of >= above * blocks[-1][1]:
            more, others, first, _ = blocks.pop()
            above, of = above + more, of + others
        blocks.append((above, of, first, last))
    plateaus = [
        (end, above / of)
        for above, of, first, last in blocks
        for end in ((first,) if first == last else (first, last))
    ]
    at, share = torch.tensor(plateaus, dtype=torch.float64).T.contiguous()
    return at, share
