"""Samples of a trained GAN that its discriminator believes in."""
