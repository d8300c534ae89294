"""Rejection that asks a bound of the latent before it asks G and D."""

from drs_fast.squeeze.sampler import Squeeze

__all__ = ["Squeeze"]
