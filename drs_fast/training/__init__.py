"""Trains small networks: random draws, optimiser, data."""
