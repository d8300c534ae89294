"""One file per algorithm. A file's name in upper case is its sampler's name.

A sampler's *law* is the distribution its samples follow: `sampler.law` says it in words.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from drs_fast.core import Sampler
from drs_fast.core.sampler import list_samplers

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def get(name: str) -> type[Sampler]:
    """The sampler class of a name such as "drs"."""
    if name not in NAMES:
        raise ValueError(f"sampler must be one of {', '.join(NAMES)}, got {name!r}")
    module = importlib.import_module(f"{__name__}.{name}")
    (sampler,) = (
        value
        for key, value in vars(module).items()
        if key.lower() == name and isinstance(value, type)
    )
    return sampler


def kinds() -> Iterator[type[Sampler]]:
    """All sampler classes."""
    return (get(name) for name in NAMES)


list_samplers(kinds)


def __getattr__(name: str) -> Any:
    if name.lower() in NAMES and get(name.lower()).__name__ == name:
        return get(name.lower())
    known = ", ".join(kind.__name__ for kind in kinds())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; samplers: {known}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(kind.__name__ for kind in kinds())])
