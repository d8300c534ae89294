"""Bounds for Squeeze that lose a known share of the samples."""

import math
from dataclasses import dataclass

import torch

import drs_fast as drs
from drs_fast import Rng
from drs_fast.squeeze import search
from drs_fast.squeeze import state as states
from drs_fast.squeeze.bounds import latent


def forced(gan, sampler, *, cascade, margin=0.5, audits=-4.0, seed=0):
    """A state with chosen margins, so that a known share is lost."""
    decides = sampler.rejection(gan, sampler.init(gan, Rng(seed)))._replace(free=False)
    found = search.Search(decides, Rng(seed), 0.5, 0.0)
    seen = found.proposals.known()
    networks = tuple(found.fitted(widths, seen) for widths in (latent.TINY, latent.LARGE))
    double = seen.chosen.new_tensor
    return states.SqueezeState(
        *decides.state,
        weights=latent.packed(networks),
        margins=double([margin + 0.5 if cascade else math.inf, margin]),
        audits=double(audits),
        calls=double(0.5),
        high=double(0.5),
        samples=double(100.0),
        checked=torch.empty(0, 3),
        looked=torch.empty(0, dtype=torch.int64),
        spent=torch.tensor(0),
        work=torch.ones(4, dtype=torch.float64),
    )


@dataclass(frozen=True)
class Planted(drs.Squeeze):
    """Uses the bounds of a given state."""

    state: states.SqueezeState | None = None

    def init(self, gan, rng):
        return self.state


def hurry(patch):
    """Small searches whose bounds are used whatever they cost."""
    patch.setattr(search, "ROWS", (1024, 2048))
    patch.setattr(search, "WORTH", math.inf)
    patch.setattr(search, "LEAST_WORK", -math.inf)
    patch.setattr(latent, "EPOCHS", 4)
