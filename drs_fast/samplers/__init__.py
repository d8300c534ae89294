"""One file per algorithm. A file's name in upper case is its sampler's name.

A sampler's *law* is the distribution its samples follow: `sampler.law` says it in words.
"""

import importlib
import pkgutil
from typing import Any

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def get(name: str) -> Any:
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


def __getattr__(name: str) -> Any:
    if name.lower() in NAMES and get(name.lower()).__name__ == name:
        return get(name.lower())
    known = ", ".join(get(each).__name__ for each in NAMES)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; samplers: {known}")


def __dir__() -> list[str]:
    return sorted([*globals(), *(get(name).__name__ for name in NAMES)])
