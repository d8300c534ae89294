"""Two small networks, with dropout, and weights that never change."""

from dataclasses import replace

import torch
from torch import nn

from drs_fast import Compacted, Rng, ops


def networks(d=2, out=3, seed=0):
    generator = nn.Sequential(nn.Linear(d, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, out))
    discriminator = nn.Sequential(nn.Linear(out, 16), nn.Tanh(), nn.Linear(16, 1))
    for k, parameter in enumerate([*generator.parameters(), *discriminator.parameters()]):
        values = ops.normal(Rng(seed), parameter.numel(), 1, stream=7, draw=k)
        parameter.data.copy_(values.view_as(parameter) * 0.5)
    return generator, discriminator


def out(**changes):
    scalar = [torch.tensor(0) for _ in range(3)]
    good = Compacted((torch.zeros(8, 3),), torch.zeros(8).long(), torch.zeros(8), *scalar)
    return replace(good, **changes)
