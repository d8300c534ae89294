"""A normalising flow: an invertible network of latents with a known density.

Source: Dinh, Sohl-Dickstein and Bengio, Density estimation using real NVP, ICLR 2017.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad, relu
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from drs_fast.core.threads import one_thread
from drs_fast.gan import GAN
from drs_fast.training.fitting import Draws

COUPLINGS = 6
WIDTH = 64  # width of hidden layers, if not twice the latent's
STEEPEST = 2.0  # largest log scale of a coupling
SLICE = 1024  # rows per call of the flow: always the same number, so that bits do not vary


class Coupling(nn.Module):
    """Scales and shifts every other number by a function of the numbers in between."""

    def __init__(self, d: int, classes: int, first: int) -> None:
        super().__init__()
        width = max(WIDTH, 2 * d)
        self.classes, self.moves = classes, slice(first, d, 2)
        self.hidden = nn.Linear(d + classes, width, dtype=torch.float32)
        self.last = nn.Linear(width, 2 * len(range(first, d, 2)), dtype=torch.float32)

    def forward(self, rows: Tensor, y: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        given, moved = rows.clone(), rows.clone()
        given[:, self.moves] = 0.0
        if y is not None:
            given = torch.cat([given, one_hot(y, self.classes).to(rows.dtype)], dim=1)
        scale, shift = self.last(relu(self.hidden(given))).chunk(2, dim=1)
        scale = STEEPEST * torch.tanh(scale / STEEPEST)
        own = rows[:, self.moves]
        moved[:, self.moves] = (
            (own - shift) * (-scale).exp() if inverse else own * scale.exp() + shift
        )
        return moved, scale.sum(dim=1)


class Flow(nn.Module):
    """Normals (n, d) [, labels (n,)] to latents (n, d), or back; with the log determinant (n,)."""

    def __init__(self, d: int, classes: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(
            Coupling(d, classes, i % min(d, 2)) for i in range(COUPLINGS)
        )

    def forward(
        self, rows: Tensor, y: Tensor | None, inverse: bool = False
    ) -> tuple[Tensor, Tensor]:
        """In both directions, the determinant is that of the map from normals to latents."""
        total = torch.zeros_like(rows[:, 0])
        for coupling in reversed(self.couplings) if inverse else self.couplings:
            rows, log_det = coupling(rows, y, inverse)
            total = total + log_det
        return rows, total

    @one_thread()
    @torch.no_grad()
    def of(self, rows: Tensor, y: Tensor | None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The same for any number of rows, without an autograd graph."""
        moved, total = torch.empty_like(rows), torch.empty_like(rows[:, 0])
        for start in range(0, len(rows), SLICE):
            own = slice(start, start + SLICE)
            size = len(rows[own])
            label = None if y is None else pad(y[own], (0, SLICE - size))
            part = self(pad(rows[own], (0, 0, 0, SLICE - size)), label, inverse)
            moved[own], total[own] = part[0][:size], part[1][:size]
        return moved, total


def build(gan: GAN, draws: Draws) -> Flow:
    """A new flow, which maps normals to themselves."""
    flow = draws.build(lambda: Flow(gan.latent_dim, gan.labels or 0))
    for name, parameter in flow.named_parameters():
        if ".last." in name:
            nn.init.zeros_(parameter)
    return flow.to(gan.device)


def packed(flow: Flow) -> Tensor:
    """All weights of the flow as one vector."""
    return parameters_to_vector(flow.parameters()).detach()


@torch.inference_mode(False)
def unpacked(gan: GAN, weights: Tensor) -> Flow:
    """The flow whose weights were given by `packed`."""
    with torch.device("meta"):
        flow = Flow(gan.latent_dim, gan.labels or 0)
    flow.to_empty(device=weights.device)
    vector_to_parameters(weights, flow.parameters())
    return flow
