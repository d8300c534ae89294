"""Loads a GAN by name, its weights, and real samples: from the zoo, files and modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from drs_fast import zoo
from drs_fast.adapters import files
from drs_fast.core.arguments import told
from drs_fast.core.sources import imported
from drs_fast.gan import GAN, Real
from drs_fast.gan.gan import UNNAMED


def load(name: str) -> GAN:
    """Loads the GAN with this name.

    name: a zoo name such as "25gaussians", or "file.py:function" or "package.module:function"
    whose function takes no arguments and returns a drs.GAN.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"model must be a name, got {name!r}")
    if ":" not in name:
        if name not in zoo.NAMES:
            fault = files.fault(Path(name)) or "it is a file"
            what = "" if fault == files.ABSENT else f", but {fault}"
            raise ValueError(
                f"model must be one of {', '.join(zoo.NAMES)}, or 'file.py:function', or "
                "'package.module:function' with a function that returns a drs.GAN, got "
                f"{name!r}{what}"
            )
        return zoo.load(name)
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        missing = "function after the colon" if source else "file or module before the colon"
        raise ValueError(
            f"model must be 'file.py:function' or 'package.module:function', got {name!r}, with no "
            f"{missing}"
        )
    function = getattr(_module(source), attribute, None)
    if function is None:
        raise ValueError(f"{source} has no function {attribute!r}")
    with _blamed(name):
        gan = function() if callable(function) and not isinstance(function, GAN) else function
    if not isinstance(gan, GAN):
        raise ValueError(f"{name} must return a drs.GAN, got {type(gan).__name__}")
    gan.name = Path(name).name if gan.name == UNNAMED else gan.name
    return gan


def weights(path: str | Path) -> dict[str, Any]:
    """Reads a state dict from a safetensors or torch file, without running code.

    A pickle that needs more is refused, because loading it would run whatever code it carries.
    """
    file = Path(path)
    state = files.read(file, "weights")
    if not isinstance(state, dict):
        raise ValueError(
            f"{file} must hold a state dict, got {files.content(state)}; samples go to --real or "
            "GAN(real=...)"
        )
    return state


def real_samples(file: Path) -> Real:
    """Reads real samples, or (samples, labels), from a file; nothing in it is run."""
    found = files.read(file, "samples")
    held = files.content(found)
    if isinstance(found, dict):
        x = next(iter(found.values())) if len(found) == 1 else found.get("x")
        found = (x, found["y"]) if "y" in found else x
    if isinstance(found, (tuple, list)) and len(found) == 2:
        return found[0], found[1]
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"{file} must hold a tensor of samples, or x and its labels y, got {held}")
    return found


def _module(source: str) -> ModuleType:
    file, is_python = Path(source), source.endswith(".py")
    if is_python or len(file.parts) > 1:  # else it is a module, even where a folder is called so
        fault = files.fault(file) or (None if is_python else "its name does not end in .py")
        if fault:
            raise ValueError(f"no file {source} to import: {fault}")
    with _blamed(source):
        return imported(source)


@contextmanager
def _blamed(source: str) -> Iterator[None]:
    """Turns whatever goes wrong in the user's file into an error that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{source} could not be loaded: {told(error)}") from error
