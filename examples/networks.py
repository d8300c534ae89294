"""A small image GAN as you may have one: data, networks, training. It knows nothing of drs_fast.

The examples need what `pip install -e '.[demo,zoo]'` installs.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import relu, softplus

LATENT_DIM, HELD_OUT = 32, 600


def images():
    """1,797 handwritten digits (n, 1, 8, 8) in [-1, 1] and their labels, in one random order."""
    digits, order = load_digits(), torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    return x[order], torch.from_numpy(digits.target)[order]


class Generator(nn.Module):
    """z (n, 32) [, y (n,)] -> images in [-1, 1]. Batch norm makes eval mode matter."""

    def __init__(self, labels=None):
        super().__init__()
        self.label = nn.Embedding(labels or 1, LATENT_DIM)
        self.layers = nn.Sequential(
            *(nn.Linear(LATENT_DIM, 256), nn.Unflatten(1, (64, 2, 2)), nn.BatchNorm2d(64)),
            *(nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32)),
            *(nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()),
        )

    def forward(self, z, y=None):
        return self.layers(z if y is None else z + self.label(y))


class Discriminator(nn.Module):
    """Images [, y (n,)] -> one score per image, with no sigmoid."""

    def __init__(self, labels=None):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(0.2)),
            *(nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Flatten()),
        )
        self.score, self.label = nn.Linear(256, 1), nn.Embedding(labels or 1, 256)
        nn.init.zeros_(self.label.weight)

    def forward(self, x, y=None):
        features = self.layers(x)
        score = self.score(features).squeeze(1)
        return score if y is None else score + (self.label(y) * features).sum(dim=1)


def train(folder, labels=None, hinge=False, steps=350):
    """Plays the GAN game, logistic or hinge, and saves G.safetensors and D.safetensors."""
    torch.manual_seed(0)
    (x, y), g, d = (t[HELD_OUT:] for t in images()), Generator(labels), Discriminator(labels)
    to_fool = torch.optim.Adam(g.parameters(), 2e-3, (0.5, 0.99), fused=True)
    to_tell = torch.optim.Adam(d.parameters(), 2e-3, (0.5, 0.99), fused=True)
    for _ in range(steps):
        pick = torch.randint(len(x), (64,))
        label = [] if labels is None else [y[pick]]
        fake = g(torch.randn(64, LATENT_DIM), *label)
        real, made = d(x[pick], *label), d(fake.detach(), *label)
        loss = relu(1 - real) + relu(1 + made) if hinge else softplus(-real) + softplus(made)
        to_tell.zero_grad()
        loss.mean().backward()
        to_tell.step()
        score = d(fake, *label)
        to_fool.zero_grad()
        (-score if hinge else softplus(-score)).mean().backward()
        to_fool.step()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(g.state_dict(), f"{folder}/G.safetensors")
    save_file(d.state_dict(), f"{folder}/D.safetensors")
