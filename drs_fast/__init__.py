"""Samples of a trained GAN that its discriminator believes in, fast and exact."""

__version__ = "0.1.0"

from drs_fast import ops, samplers
from drs_fast.compacted import Compacted, Ring
from drs_fast.core import BadLogits, Batch, Rng, Starvation
from drs_fast.engine import generate, stream
from drs_fast.gan import GAN
from drs_fast.load import load, weights
from drs_fast.ops import backend
from drs_fast.store import open_run as open

__all__ = [
    "GAN",
    "BadLogits",
    "Batch",
    "Compacted",
    "Ring",
    "Rng",
    "Starvation",
    "backend",
    "generate",
    "load",
    "open",
    "ops",
    "samplers",
    "stream",
    "weights",
]
