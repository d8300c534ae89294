"""Critics that judge several samples together, as people have them."""

import torch
from torch import nn

import drs_fast as drs

SIZE = 3  # numbers in a sample


class Deviation(nn.Module):
    """A column with the standard deviation of a row's group; members are n / group apart."""

    def __init__(self, group=4):
        super().__init__()
        self.group = group

    def forward(self, x):
        size = min(self.group or len(x), len(x))
        spread = x.view(size, -1, x.shape[1]).var(dim=0, correction=0).add(1e-8).sqrt().mean(dim=1)
        return torch.cat([x, spread.repeat(size)[:, None]], dim=1)


class Similarity(nn.Module):
    """Minibatch discrimination: how near a row is to all others of the call."""

    def __init__(self, width, kernels=2, dims=3):
        super().__init__()
        self.kernels = nn.Linear(width, kernels * dims, bias=False)
        self.shape = kernels, dims

    def forward(self, x):
        rows = self.kernels(x).view(len(x), *self.shape)
        near = (rows[:, None] - rows).abs().sum(dim=3).neg().exp().sum(dim=1) - 1.0
        return torch.cat([x, near], dim=1)


class Critic(nn.Module):
    def __init__(self, between, more, labels=None):
        super().__init__()
        self.first, self.between, self.last = nn.Linear(SIZE, 8), between, nn.Linear(8 + more, 1)
        self.offset = None if labels is None else nn.Embedding(labels, 8)

    def forward(self, x, *y):
        hidden = self.first(x) if self.offset is None else self.first(x) + self.offset(y[0])
        return self.last(self.between(hidden.tanh()))


class Pac(nn.Module):
    """One score for `pac` rows that follow each other; its dropout is off in eval mode."""

    def __init__(self, pac=10):
        super().__init__()
        self.pac = pac
        self.layers = nn.Sequential(
            nn.Linear(SIZE * pac, 16), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(16, 1)
        )

    def forward(self, x):
        assert len(x) % self.pac == 0
        return self.layers(x.view(-1, SIZE * self.pac))


class Convolutional(nn.Module):
    """For images (3, 8, 8), with batch norm in eval mode, and a deviation for each group of 4."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2)
        )
        self.deviation, self.last = Deviation(), nn.Linear(8 * 16 + 1, 1)

    def forward(self, x):
        return self.last(self.deviation(self.body(x).flatten(1)))


def sharp(make):
    """A network with fixed weights, large enough to tell samples apart."""
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        network = make()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(2.0)
    return network


# How each is made, the pack that GAN takes, and the layout of its groups.
CRITICS = {
    "minibatch deviation": (lambda: Critic(Deviation(), 1), "minibatch-std", "strided"),
    "deviation, groups of 8": (lambda: Critic(Deviation(8), 1), 8, "strided"),
    "deviation of the whole batch": (lambda: Critic(Deviation(None), 1), 6, "alone"),
    "minibatch discrimination": (lambda: Critic(Similarity(8), 2), 6, "alone"),
    "batch norm without statistics": (
        lambda: Critic(nn.BatchNorm1d(8, track_running_stats=False), 0), 16, "alone"),
    "pac of 10": (Pac, 10, "contiguous"),
}  # fmt: skip


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, z, *y):
        return self.linear(z) if not y else self.linear(z) + 0.1 * y[0][:, None]


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIZE, 3 * 8 * 8)

    def forward(self, z):
        return self.linear(z).tanh().view(-1, 3, 8, 8)


def real(n=64):
    return torch.linspace(-1.9, 2.0, n * SIZE).sin().view(n, SIZE) * torch.tensor([1.0, 2.0, 0.5])


def packed(name="minibatch deviation", **settings):
    make, pack, _ = CRITICS[name]
    given = {"pack": pack, "companions": real(), **settings}
    return drs.GAN(sharp(Scaled), sharp(make), SIZE, **given)


def unpacked(name):
    return drs.GAN(sharp(Scaled), sharp(CRITICS[name][0]), SIZE)
