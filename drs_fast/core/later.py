"""Names of a package that are imported when they are asked for, as PEP 562 has it.

The command line answers `--help` and `status` before PyTorch, which takes seconds, is imported.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def later(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    names: the module of each name, without the package's own name; "module:other" where the
    module calls it otherwise; "" where it is a module itself.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, other = names[name].partition(":")
        if not module:
            return importlib.import_module(f"{package}.{name}")
        value = getattr(importlib.import_module(f"{package}.{module}"), other or name)
        setattr(sys.modules[package], name, value)
        return value

    return get
