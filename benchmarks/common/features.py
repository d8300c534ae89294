"""How well generated digits follow real ones, in the feature space of a small classifier.

The classifier is trained on the training digits only. Frechet: squared Frechet distance between
Gaussians fitted to the features. Precision: share of generated samples inside the manifold of the
real ones; recall: the reverse. The manifold is the union of balls that reach to each sample's third
nearest neighbour. Balance: total variation distance of the predicted classes.

All of them are biased in small samples: between n and m samples of one law with d independent
features of variance v, the Frechet distance is about v d (d + 5) (1/n + 1/m) / 4, not 0, and
precision and recall depend on both counts. So compare only figures with equal counts, and put as
many real training digits in the same table, as a floor.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from drs_fast.core.rows import CLASSIFIER_ROW
from drs_fast.core.threads import one_thread
from drs_fast.training.fitting import Draws, Dropout, use_draws
from drs_fast.zoo import digits

CLASSES = 10
NEIGHBOURS = 3
SEED = 0


class Classifier(nn.Module):
    """Digits x (n, 1, 8, 8) -> scores (n, 10), through 32 features in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            Dropout(0.2),
            nn.Flatten(),
            nn.Linear(1024, 32),
            nn.Tanh(),
        )
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores


def labels() -> tuple[Tensor, Tensor]:
    """Labels of digits.split(): (training labels, held-out labels)."""
    from sklearn.datasets import load_digits

    order = Draws(digits.SPLIT_SEED).permutation(len(digits.images()))
    target = torch.from_numpy(load_digits().target)[order]
    return target[digits.HELD_OUT :], target[: digits.HELD_OUT]


@cache
@one_thread()
def classifier(seed: int = SEED, *, steps: int = 600) -> Classifier:
    """Trained on the training digits; the same network for the same seed."""
    draws = Draws(seed, row=CLASSIFIER_ROW)
    images, truth = digits.split()[0], labels()[0]
    network = draws.build(Classifier)
    use_draws(network, draws)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
        rows = draws.integers(64, len(images))
        loss = cross_entropy(network(images[rows]), truth[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


class Space:
    """Features of real digits (default: the held-out ones), to compare generated ones with."""

    def __init__(self, real: Tensor | None = None) -> None:
        self.network = classifier()
        self.real, self.shares = self._seen(digits.split()[1] if real is None else real)

    def quality(self, x: Tensor) -> dict[str, float]:
        """frechet, precision, recall and imbalance of digits x (n, 1, 8, 8)."""
        features, shares = self._seen(x)
        precision, recall = precision_recall(features, self.real)
        return {
            "frechet": frechet(features, self.real),
            "precision": precision,
            "recall": recall,
            "imbalance": total_variation(shares, self.shares),
        }

    @torch.inference_mode()
    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, 32) and shares of the predicted classes."""
        features = self.network.body(x)
        return features.double(), balance(self.network.head(features))


def frechet(x: Tensor, y: Tensor) -> float:
    """Frechet distance of Gaussians fitted to x (n, d) and y (m, d); covariances over n - 1."""
    for features in (x, y):
        if len(features) < 2 or features.ndim != 2:
            raise ValueError(f"features must be (n, d) with n >= 2, got {tuple(features.shape)}")
    return frechet_of_gaussians(
        x.double().mean(0), covariance(x), y.double().mean(0), covariance(y)
    )


def covariance(x: Tensor) -> Tensor:
    centred = x.double() - x.double().mean(dim=0)
    return centred.T @ centred / (len(x) - 1)


def frechet_of_gaussians(mean: Tensor, spread: Tensor, mean2: Tensor, spread2: Tensor) -> float:
    """|mean - mean2|^2 + tr(A + B - 2 (A B)^(1/2)), of covariances A and B in float64.

    The last trace is the sum of the singular values of A^(1/2) B^(1/2). This avoids the root of a
    product, whose small eigenvalues are rounding errors.
    """
    between = torch.linalg.svdvals(root(spread) @ root(spread2)).sum()
    return float((mean - mean2).square().sum() + spread.trace() + spread2.trace() - 2 * between)


def root(spread: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix, which may have low rank."""
    values, vectors = torch.linalg.eigh(spread)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def precision_recall(
    generated: Tensor, real: Tensor, neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Precision and recall of features (n, d) and (m, d).

    Source: Kynkaanniemi et al., Improved precision and recall metric (2019), equations 1 and 2.
    """
    for features in (generated, real):
        if len(features) <= neighbours:
            raise ValueError(f"{neighbours} neighbours need more samples than {len(features)}")
    return inside(generated, real, neighbours), inside(real, generated, neighbours)


def inside(x: Tensor, of: Tensor, neighbours: int) -> float:
    """Share of x inside some ball around a sample of `of` that reaches to its k-th neighbour."""
    radius = (
        distances(of, of).kthvalue(neighbours + 1, dim=1).values
    )  # the first is the sample itself, at 0
    return float((distances(x, of) <= radius).any(dim=1).double().mean())


def distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def balance(scores: Tensor) -> Tensor:
    """Shares (classes,) of the classes predicted by scores (n, classes)."""
    counts = torch.bincount(scores.argmax(dim=1), minlength=scores.shape[1])
    return counts.double() / len(scores)


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum() / 2)
