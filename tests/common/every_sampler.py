"""Every sampler with fields for quick tests, and a small GAN that can be differentiated."""

import torch
from torch import nn

from drs_fast import GAN, samplers
from drs_fast.training.fitting import Draws

NAMES = samplers.NAMES


def weigh(z, y=None):
    return -z[:, 0].abs()


# What a sampler needs that no default can know.
NEEDED = {"latent": {"critic": weigh}}


# For tests that take many samples; what else has a default keeps it.
QUICK = {
    "collaborative": {"steps": 4, "chain_length": 16},
    "ddls": {"steps": 8, "burn_in": 256},
    "dot": {"steps": 8},
    "ex2mcmc": {"steps": 4, "burn_in": 64},
    "flex2mcmc": {"steps": 4, "burn_in": 64, "rounds": 5},
    "isir": {"candidates": 8, "steps": 9},
    "mh": {"chain_length": 64},
    "sir": {"pool": 64, "size": 8},
}


def make(name, **changes):
    return samplers.get(name)(**NEEDED.get(name, {}), **changes)


def quick(name):
    return make(name, **QUICK.get(name, {}))


class Smooth(nn.Module):
    """Half of a small GAN that can be differentiated."""

    def __init__(self, inputs, outputs, classes=0):
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(inputs + classes, 16), nn.Tanh(), nn.Linear(16, outputs)
        )

    def forward(self, rows, y=None):
        if self.classes:
            rows = torch.cat([rows, nn.functional.one_hot(y, self.classes).to(rows.dtype)], dim=1)
        return self.layers(rows)


def smooth(labels=None, **kwargs):
    """A GAN of a 3-d latent and 2-d samples, with real samples that are shifted generated ones."""
    draws, classes = Draws(11), labels or 0
    generator = draws.build(lambda: Smooth(3, 2, classes))
    discriminator = draws.build(lambda: Smooth(2, 1, classes))
    z = draws.normal(500, 3)
    y = torch.arange(500) % classes if classes else None
    with torch.no_grad():
        x = generator(z, y) + 0.1
    real = x if y is None else (x, y)
    return GAN(generator, discriminator, 3, labels=labels, real=real, block=256, **kwargs)
