"""Modules by name or by file."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def imported(source: str) -> ModuleType:
    """The module of a name such as "package.module", or of a file "model.py"; runs its code.

    A file is run at every call, and may import what lies beside it.
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
