"""The compiled extensions, which are used only if they fit the Python that calls them."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

ABI = 1  # of csrc/shared/constants.h
STALE = "built from older sources; run pip install -e . again"


def loaded(name: str, called: str, compiler: str) -> tuple[ModuleType | None, str | None]:
    """The extension, or why it cannot be used."""
    try:
        found = importlib.import_module(f"drs_fast.{name}")
    except ImportError as error:
        return None, f"{called} not built ({error}); reinstall where {compiler} is on PATH"
    if vars(found).get("ABI") != ABI:
        return None, STALE
    vars(found)["__getattr__"] = _missing(name)
    return found, None


def _missing(name: str) -> Callable[[str], NoReturn]:
    """What a module calls for a name that it does not have."""

    def missing(attribute: str) -> NoReturn:
        raise AttributeError(
            f"drs_fast.{name} has no {attribute}: {STALE}; who adds it to the sources raises ABI "
            "in csrc/shared/constants.h and drs_fast/backends/extensions.py"
        )

    return missing
