"""Turns other people's GANs, and other sources, into a `GAN`."""
