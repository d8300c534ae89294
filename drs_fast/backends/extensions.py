"""The compiled extensions, which are used only if they fit the Python that calls them."""

import importlib
from types import ModuleType

ABI = 1  # of csrc/shared/constants.h
STALE = "built from older sources; run pip install -e . again"


def loaded(name: str, called: str, compiler: str) -> tuple[ModuleType | None, str | None]:
    """The extension, or why it cannot be used."""
    try:
        found = importlib.import_module(f"drs_fast.{name}")
    except ImportError as error:
        return None, f"{called} not built ({error}); reinstall where {compiler} is on PATH"
    return (found, None) if vars(found).get("ABI") == ABI else (None, STALE)
