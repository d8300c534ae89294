"""Benchmarks: `python -m benchmarks.speed.ops`, `.toy25` and `.gpu`, and `pytest benchmarks`."""
