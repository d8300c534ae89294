"""A GAN whose target has two narrow modes of unequal mass, between which nothing lies.

G(z) = z under a normal prior; p_data is N(0, 1) in every coordinate but the first, where it is
N(-2.5, SD^2) and, with the chance RIGHT, N(2.5, SD^2).
"""

import math

import torch

import drs_fast as drs

PLACE, SD, RIGHT = 2.5, 0.3, 0.7


def log_normal(z, mean, sd):
    return -((z - mean) / sd).square() / 2 - math.log(sd)


def logit(x):
    first = x[:, 0]
    modes = torch.stack([log_normal(first, -PLACE, SD), log_normal(first, PLACE, SD)], dim=1)
    shares = torch.tensor([1 - RIGHT, RIGHT])
    return torch.logsumexp(modes + shares.log(), dim=1) - log_normal(first, 0.0, 1.0)


def two_modes(d=2, **fields):
    return drs.GAN(torch.clone, logit, d, block=1024, **fields)


def right(batch):
    """Share of the samples in the mode on the right."""
    return float((batch.z[:, 0] > 0).double().mean())


def far_from(batch):
    """How far the mean square around the modes is from SD^2, in sd."""
    off = (batch.z[:, 0].double().abs() - PLACE) / SD
    return float(off.square().mean() - 1) / math.sqrt(2 / len(off))
