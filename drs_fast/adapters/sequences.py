"""Sequences from TimeGAN.

Source: Yoon, Jarrett and van der Schaar, Time-series generative adversarial networks, NeurIPS 2019.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drs_fast.adapters.wrap import wrap
from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain
from drs_fast.gan import GAN

BLOCK = 4096  # sequences in a call of a network


def timegan(
    generator: nn.Module,
    supervisor: nn.Module,
    discriminator: nn.Module,
    recovery: nn.Module,
    latent_shape: Sequence[int],
    *,
    lengths: bool = True,
    embedder: nn.Module | None = None,
    real: Tensor | None = None,
    **options: Any,
) -> GAN:
    """A TimeGAN. It judges hidden sequences, and runs keep what the recovery network makes of them.

    The logit is that of the last step. The discriminator reads forwards, so that its logit at a
    step judges the sequence up to there.

    latent_shape: (steps, numbers a step). Every sequence has all the steps.
    lengths: whether each network takes (x, lengths), with lengths (n,) int64, instead of x alone.
    real: sequences (n, steps, features), which the embedder turns into hidden ones.
    options: of `drs.GAN`. The prior is "uniform01" unless they say otherwise.
    """
    networks = {"generator": generator, "supervisor": supervisor, "discriminator": discriminator}
    for name, network in {**networks, "recovery": recovery, "embedder": embedder}.items():
        if not isinstance(network, nn.Module) and (network is not None or name != "embedder"):
            raise ValueError(f"{name} must be an nn.Module, got {describe(network)}")
    if (embedder is None) != (real is None):
        raise ValueError(
            "give both real sequences and their embedder, or neither, got "
            f"real={describe(real)}, embedder={describe(embedder)}"
        )
    if embedder is not None:
        options["real"] = Whole(embedder.eval(), lengths).applied(plain("real", real))
    settings: dict[str, Any] = {
        "latent_shape": latent_shape,
        "prior": "uniform01",
        "decode": Whole(recovery.eval(), lengths).applied,
        "name": "timegan",
    }
    return GAN(
        nn.Sequential(Whole(generator, lengths), Whole(supervisor, lengths)),
        wrap(Whole(discriminator, lengths), reduce=last),
        **settings | options,
    )


class Whole(nn.Module):
    """A network that is given sequences (n, steps, d) without padding."""

    def __init__(self, network: nn.Module, lengths: bool) -> None:
        super().__init__()
        self.network, self.lengths = network, lengths

    def forward(self, rows: Tensor) -> Any:
        if not self.lengths:
            return self.network(rows)
        # On the CPU, where torch.nn.utils.rnn.pack_padded_sequence wants them.
        return self.network(rows, torch.full(rows.shape[:1], rows.shape[1], device="cpu"))

    @torch.no_grad()
    def applied(self, rows: Tensor) -> Tensor:
        """What the network makes of these rows, block by block, on its device."""
        device = next(self.network.parameters()).device
        return torch.cat([self(part.to(device)) for part in torch.split(rows, BLOCK)])


def last(scores: Tensor) -> Tensor:
    """The last of the scores (n, steps) or (n, steps, 1)."""
    return scores[:, -1]
