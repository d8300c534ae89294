"""Benchmarks: `python -m benchmarks.ops`, `.toy25` and `.gpu`, and `pytest benchmarks`."""
