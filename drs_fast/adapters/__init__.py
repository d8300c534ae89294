"""Turns other people's GANs, and other sources, into a `GAN`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drs_fast.adapters.sequences import timegan
    from drs_fast.adapters.tables import ctgan

# Imported when they are asked for, because some need a package that few have.
LATER = {
    "ctgan": "tables",
    "timegan": "sequences",
}

__all__ = ["ctgan", "timegan"]


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{LATER[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
