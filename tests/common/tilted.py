"""GANs with exactly known, log-normal density ratios, and a test of weighted samples.

G(z) = z under a normal prior. p_data is N(TILT, 1), so the ratio exp(TILT z - TILT^2 / 2) has no
largest value. With labels, class k is N(TILTS[k], 1), proposed in the proportions PROPOSED, though
the data has those of DATA.
"""

import torch
from scipy.stats import chi2

import drs_fast as drs

TILT, TILTS = 1.5, torch.tensor([0.5, 1.5, -1.0])
PROPOSED, DATA = (0.6, 0.3, 0.1), torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
CELLS = 8  # of equal chance in the data, of each class


def tilted(**fields):
    return drs.GAN(torch.clone, lambda x: TILT * x[:, 0] - TILT**2 / 2, 1, **fields)


def tilted_classes(**fields):
    offset = (DATA / torch.tensor(PROPOSED, dtype=torch.float64)).log().float()

    def logit(x, y):
        tilt = TILTS[y]
        return tilt * x[:, 0] - tilt.square() / 2 + offset[y]

    return drs.GAN(lambda z, y: z, logit, 1, labels=3, label_weights=PROPOSED, **fields)


class Pooled:
    """Whether samples with weights follow the data, run by run and all together.

    W_c, the weight in cell c, is a sum over samples, and so is W_c - pi_c W, whose mean is 0. Its
    covariance is estimated by the sum of products: a test by Wald, good where every cell has many
    samples. It holds for quotas too: there the weights of a class are known up to how soon its
    quota was full, and this varies as a Poisson number of samples would.
    """

    def __init__(self):
        self.off, self.covariance, self.p_values = 0.0, 0.0, []

    def add(self, batch, weight):
        cell, expected = cells(batch)
        weight = weight / weight.sum()  # each run has its own log_m
        total, square = (
            torch.zeros_like(expected).index_add_(0, cell, w)[:-1]
            for w in (weight, weight.square())
        )
        expected = expected[:-1]
        mixed = torch.outer(expected, square)
        off, covariance = total - expected, square.diag() - mixed - mixed.T
        covariance += float(weight.square().sum()) * torch.outer(expected, expected)
        self.off, self.covariance = self.off + off, self.covariance + covariance
        self.p_values.append(p_value(off, covariance))

    @property
    def together(self):
        return p_value(self.off, self.covariance)

    @property
    def rejected(self):
        """Runs whose p value is below 5 %."""
        return sum(p < 0.05 for p in self.p_values)


def p_value(off, covariance):
    return float(chi2.sf(float(off @ torch.linalg.solve(covariance, off)), len(off)))


def cells(batch):
    """The cell of every sample, and the chances of all cells in the data."""
    x = batch.x[:, 0].double()
    if batch.y is None:
        cell, expected = torch.special.ndtr(x - TILT), torch.ones(1, dtype=torch.float64)
    else:
        cell, expected = torch.special.ndtr(x - TILTS[batch.y]), DATA
    cell = (cell * CELLS).long().clamp(max=CELLS - 1)
    if batch.y is not None:
        cell += CELLS * batch.y
    return cell, (expected / CELLS).repeat_interleave(CELLS)


def weighted_or_not(gan, sampler, n, seeds):
    """The tests of weighted and of unweighted samples."""
    weighted, unweighted = Pooled(), Pooled()
    for seed in range(seeds):
        batch = drs.generate(gan, sampler, n, seed=seed)
        weighted.add(batch, batch.weight)
        unweighted.add(batch, torch.ones_like(batch.weight))
    return weighted, unweighted
