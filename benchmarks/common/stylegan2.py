"""The networks of StyleGAN2, without noise inputs and without minibatch statistics.

Source: Karras et al., arXiv 1912.04958, sections 2 and 3.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

GAIN = math.sqrt(2.0)  # a leaky ReLU halves the variance
MAPPED = 8  # layers from z to w
SIDE = 4  # of the constant input


class Blur(nn.Module):
    """The filter 1, 3, 3, 1 along rows and columns, of every channel; `gain` is its sum."""

    def __init__(self, channels: int, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
        kernel = gain * torch.outer(row, row).expand(channels, 1, 4, 4)
        self.register_buffer("kernel", kernel.clone())
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.get_buffer("kernel")
        return functional.conv2d(x, kernel, padding=self.padding, groups=len(kernel))


class Modulated(nn.Module):
    """A convolution whose input channels are scaled by a style, (n, styles), of each row.

    up: it also doubles the sides. demodulated: outputs then get the variance of inputs back.
    Scaling x before and after is the same as scaling the weights of each row.
    """

    def __init__(
        self, styles: int, inputs: int, outputs: int, up: bool = False, demodulated: bool = True
    ) -> None:
        super().__init__()
        self.style = nn.Linear(styles, inputs)
        self.convolution: nn.Conv2d | nn.ConvTranspose2d
        if up:
            self.convolution = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, bias=False)
        else:
            size = 3 if demodulated else 1
            self.convolution = nn.Conv2d(inputs, outputs, size, padding="same", bias=False)
        self.blur = Blur(outputs, padding=1, gain=4.0) if up else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(outputs, 1, 1))
        self.up, self.demodulated = up, demodulated

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        style = 1.0 + self.style(w)
        x = self.blur(self.convolution(x * _of_channels(style, x)))
        if self.demodulated:
            squares = self.convolution.weight.square().sum(dim=(2, 3))  # (outputs, inputs)
            squares = squares.T if self.up else squares
            scale = (functional.linear(style.square(), squares) + 1e-8).rsqrt()
            x = x * _of_channels(scale, x)
        return x + self.bias.to(x.dtype)


def _of_channels(rows: Tensor, x: Tensor) -> Tensor:
    return rows[:, :, None, None].to(x.dtype)


class Generator(nn.Module):
    """z (n, latent) -> images (n, 3, pixels, pixels)."""

    def __init__(self, latent: int, width: int, pixels: int) -> None:
        super().__init__()
        inputs = (latent, *[width] * MAPPED)
        layers = [(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(inputs)]
        self.mapping = nn.Sequential(*(module for pair in layers for module in pair))
        channels = list(_channels(width, pixels).values())
        self.constant = nn.Parameter(torch.randn(1, width, SIDE, SIDE))
        firsts = [Modulated(width, a, b, up=True) for a, b in pairwise(channels)]
        self.firsts = nn.ModuleList(firsts)
        self.seconds = nn.ModuleList(Modulated(width, c, c) for c in channels)
        self.colours = nn.ModuleList(Modulated(width, c, 3, demodulated=False) for c in channels)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt())
        x = self.constant.expand(len(z), -1, -1, -1)
        x = _activated(self.seconds[0](x, w))
        image: Tensor = self.colours[0](x, w)
        for first, second, colour in zip(
            self.firsts, self.seconds[1:], self.colours[1:], strict=True
        ):
            x = _activated(second(_activated(first(x, w)), w))
            # Up-sampling by the filter 1, 3, 3, 1 is bilinear.
            larger = functional.interpolate(image, scale_factor=2, mode="bilinear")
            image = larger + colour(x, w)
        return image


def _activated(x: Tensor) -> Tensor:
    return GAIN * functional.leaky_relu(x, 0.2)


class Residual(nn.Module):
    """Two convolutions and a shortcut, which halve the sides."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1),
            nn.LeakyReLU(0.2),
            Blur(inputs, padding=2),
            nn.Conv2d(inputs, outputs, 3, stride=2),
            nn.LeakyReLU(0.2),
        )
        short = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.short = nn.Sequential(Blur(inputs, padding=1), short)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.short(x)) / GAIN


def discriminator(width: int, pixels: int) -> nn.Sequential:
    """images (n, 3, pixels, pixels) -> logits (n, 1)."""
    channels = list(_channels(width, pixels).values())[::-1]
    return nn.Sequential(
        nn.Conv2d(3, channels[0], 1),
        nn.LeakyReLU(0.2),
        *(Residual(a, b) for a, b in pairwise(channels)),
        nn.Conv2d(width, width, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(width * SIDE**2, width),
        nn.LeakyReLU(0.2),
        nn.Linear(width, 1),
    )


def _channels(width: int, pixels: int) -> dict[int, int]:
    """Channels by side, from 4 on: `width` up to 32, then half as many for twice the side."""
    sides = [SIDE * 2**i for i in range(round(math.log2(pixels / SIDE)) + 1)]
    return {side: min(width, 32 * width // side) for side in sides}
