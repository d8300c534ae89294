"""Rejection that tries a bound of the latent before it runs G and D."""

from drs_fast.squeeze.sampler import Squeeze

__all__ = ["Squeeze"]
