"""Finds what is wrong with a GAN, and says how to fix it."""
