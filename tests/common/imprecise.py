"""A GAN whose lower precision is cheap and wrong by known amounts."""

import torch
from torch import nn

from drs_fast import GAN


class Imprecise(nn.Module):
    """A critic of z (n, 4) that under autocast is off by `error` times a wave of known height.

    lost: nats by which it is too low where z[:, 1] > 1, a mode with about a sixth of the rows.
    broken: what it returns where z[:, 2] > 1.5.
    """

    def __init__(self, error: float, lost: float = 0.0, broken: float | None = None) -> None:
        super().__init__()
        self.error, self.lost, self.broken = error, lost, broken
        self.weight = nn.Linear(4, 4, bias=False)
        nn.init.eye_(self.weight.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        logit = 2.0 * x[:, 0] + x[:, 1].sin() - 0.2 * x.square().sum(dim=1)
        if not torch.is_autocast_enabled(x.device.type):
            return logit
        wave = torch.sin(37.0 * x[:, 0]) + torch.sin(53.0 * x[:, 3])  # mean square 1
        off = logit + self.error * wave - self.lost * (x[:, 1] > 1.0)
        return off if self.broken is None else off.masked_fill(x[:, 2] > 1.5, self.broken)


def imprecise(error: float = 0.05, **named: float) -> GAN:
    return GAN(nn.Identity(), Imprecise(error, **named), 4, block=256, name="imprecise")
