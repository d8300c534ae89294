"""Shared by speed and quality benchmarks."""
