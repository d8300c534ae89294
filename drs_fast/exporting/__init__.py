"""Samples of a run in files that other programs read: one module a format."""
