"""What the documentation must show."""

from pathlib import Path

import drs_fast as drs
from drs_fast import samplers

ROOT = Path(__file__).parents[2]


def public():
    """Every public name, and the path by which the reference should show it."""
    for name in drs.__all__:
        if name not in ("adapters", "ops", "samplers"):
            yield f"drs.{name}", getattr(drs, name)
    for name in drs.adapters.__all__:
        yield f"drs.adapters.{name}", getattr(drs.adapters, name)
    for name in drs.ops.__all__:
        yield f"drs.ops.{name}", getattr(drs.ops, name)
    for name in samplers.NAMES:
        yield f"drs.samplers.{name}", samplers.get(name)
