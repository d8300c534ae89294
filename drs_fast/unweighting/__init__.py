"""Accepts or rejects rows that come with log weights: arrays in memory, and tables on disk."""
