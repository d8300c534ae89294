"""A generator, its discriminator, and how to read them."""

from drs_fast.gan.blocks import BLOCK_MULTIPLE, SMALLEST, block_rows
from drs_fast.gan.gan import GAN, PRIORS, Real
from drs_fast.gan.precision import PRECISIONS

__all__ = ["BLOCK_MULTIPLE", "GAN", "PRECISIONS", "PRIORS", "SMALLEST", "Real", "block_rows"]
