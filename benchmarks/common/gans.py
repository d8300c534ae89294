"""GANs of common sizes with random weights, for speed only."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

import drs_fast as drs
from benchmarks.common import stylegan2 as of_stylegan2

LATENT_DIM = 128


def mlp(width: int = 512, features: int = 128) -> drs.GAN:
    """z (n, 128) -> rows of 128 features."""

    def layers(inputs: int, outputs: int) -> nn.Sequential:
        hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        return nn.Sequential(*hidden, nn.Linear(width, outputs))

    return _gan("MLP", 200.0, lambda: layers(LATENT_DIM, features), lambda: layers(features, 1))


def dcgan(width: int = 64, pixels: int = 32) -> drs.GAN:
    """z (n, 128) -> images (3, pixels, pixels)."""
    side = pixels // 8

    def up(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    def down(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]

    def generator() -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(LATENT_DIM, 8 * width * side**2),
            nn.Unflatten(1, (8 * width, side, side)),
            *up(8 * width, 4 * width),
            *up(4 * width, 2 * width),
            *up(2 * width, width),
            nn.Conv2d(width, 3, 3, padding=1),
            nn.Tanh(),
        )

    def discriminator() -> nn.Sequential:
        return nn.Sequential(
            *down(3, width),
            *down(width, 2 * width),
            *down(2 * width, 4 * width),
            nn.Flatten(),
            nn.Linear(4 * width * side**2, 1),
        )

    return _gan(f"DCGAN {pixels}x{pixels}", 5000.0, generator, discriminator)


class Residual(nn.Module):
    """Two convolutions and a shortcut; scale 2 doubles the sides, 0.5 halves them."""

    def __init__(self, inputs: int, outputs: int, scale: float, norm: bool) -> None:
        super().__init__()
        self.scale = scale
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(n) if norm else nn.Identity() for n in (inputs, outputs)
        )
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.short = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, short = functional.relu(self.norms[0](x)), x
        if self.scale > 1:
            h, short = (functional.interpolate(t, scale_factor=2) for t in (h, short))
        h = self.second(functional.relu(self.norms[1](self.first(h))))
        if self.scale < 1:
            h, short = (functional.avg_pool2d(t, 2) for t in (h, short))
        return h + self.short(short)


class Attention(nn.Module):
    """Self-attention over the positions of an image, with keys and values at half resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = (nn.Conv2d(channels, inner, 1) for _ in range(2))
        self.value = nn.Conv2d(channels, channels // 2, 1)
        self.out = nn.Conv2d(channels // 2, channels, 1)
        self.share = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2).transpose(1, 2)
        key, value = (functional.max_pool2d(t(x), 2).flatten(2) for t in (self.key, self.value))
        weights = torch.softmax(query @ key, dim=2)
        seen = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.share * self.out(seen)


def sagan(width: int = 64) -> drs.GAN:
    """z (n, 128) -> images (3, 128, 128), attention at 32 x 32."""
    up = [16 * width, 16 * width, 8 * width, 4 * width, 2 * width, width]
    down = [3, width, 2 * width, 4 * width, 8 * width, 16 * width]

    def generator() -> nn.Sequential:
        blocks: list[nn.Module] = [Residual(a, b, 2, True) for a, b in pairwise(up)]
        blocks.insert(3, Attention(up[3]))
        head = [nn.Linear(LATENT_DIM, up[0] * 16), nn.Unflatten(1, (up[0], 4, 4))]
        tail = [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1), nn.Tanh()]
        return nn.Sequential(*head, *blocks, *tail)

    def discriminator() -> nn.Sequential:
        blocks: list[nn.Module] = [Residual(a, b, 0.5, False) for a, b in pairwise(down)]
        blocks.insert(2, Attention(down[2]))
        tail = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(down[-1], 1)]
        return nn.Sequential(*blocks, *tail)

    return _gan("SAGAN 128x128", 10_000.0, generator, discriminator)


def stylegan2(width: int = 256, pixels: int = 64) -> drs.GAN:
    """z (n, 128) -> images (3, pixels, pixels)."""
    return he(
        _gan(
            f"StyleGAN2 {pixels}x{pixels}",
            1.0,
            lambda: of_stylegan2.Generator(LATENT_DIM, width, pixels),
            lambda: of_stylegan2.discriminator(width, pixels),
        )
    )


def he(gan: drs.GAN, scale: float = 1.0) -> drs.GAN:
    """The GAN, untrained, with weights that keep the variance of a signal, and no biases.

    As PyTorch makes weights, each layer passes on a sixth of it, so that all logits are nearly
    equal: those of a SAGAN then differ by less than bf16 rounds them. scale: of the last weights.
    Source: He et al., arXiv 1502.01852, equation (10).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in (*gan.generator.modules(), *gan.discriminator.modules()):
            if not isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                continue
            inputs = module.weight[0].numel()
            if isinstance(module, nn.ConvTranspose2d):  # (inputs, outputs, ...)
                inputs = module.weight[:, 0].numel() // math.prod(module.stride)
            module.weight.data.normal_(0.0, math.sqrt(2.0 / inputs))
            if module.bias is not None:
                module.bias.data.zero_()
        gan.discriminator[-1].weight.data.mul_(scale)
    return gan


def _gan(name: str, scale: float, *networks: Callable[[], nn.Module]) -> drs.GAN:
    """scale: a factor that gives the untrained logits a spread of about 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator, discriminator = (network() for network in networks)
        discriminator[-1].weight.data.mul_(scale)
    return drs.GAN(generator, discriminator, LATENT_DIM, name=name)
