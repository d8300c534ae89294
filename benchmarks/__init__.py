"""Benchmarks: `python -m benchmarks.ops`, `python -m benchmarks.toy25`, `pytest benchmarks`."""
