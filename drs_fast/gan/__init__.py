"""A generator, its discriminator, and how to read them."""

from drs_fast.gan.gan import BLOCK_MULTIPLE, GAN, PRECISIONS, PRIORS, SMALLEST, Real, block_rows

__all__ = ["BLOCK_MULTIPLE", "GAN", "PRECISIONS", "PRIORS", "SMALLEST", "Real", "block_rows"]
