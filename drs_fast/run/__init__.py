"""Runs a sampler over the rows of one seed, in memory and to disk."""
