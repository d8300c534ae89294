"""Imports modules by name or file."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def imported(source: str) -> ModuleType:
    """Imports "package.module" or a file such as "model.py"; this runs its code.

    A file is run on every call, and may import modules beside it.
    """
    if not source.endswith(".py"):
        return importlib.import_module(source)
    file = Path(source)
    beside = str(file.resolve().parent)
    if beside not in sys.path:
        sys.path.insert(0, beside)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(file.stem, module)
    spec.loader.exec_module(module)
    return module
