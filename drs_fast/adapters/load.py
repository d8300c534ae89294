"""Loads a GAN by name, its weights, and real samples: from the zoo, files and modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from drs_fast import zoo
from drs_fast.adapters import files
from drs_fast.core.sources import imported
from drs_fast.gan import GAN, Real


def load(name: str) -> GAN:
    """Loads the GAN with this name.

    name: a zoo name such as "25gaussians", or "file.py:function" or "package.module:function"
    whose function takes no arguments and returns a drs.GAN.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"model must be a name, got {name!r}")
    if ":" not in name:
        if name not in zoo.NAMES:
            raise ValueError(
                f"model must be one of {', '.join(zoo.NAMES)}, or 'file.py:function', "
                f"or 'package.module:function' with a function that returns a drs.GAN, got {name!r}"
            )
        return zoo.load(name)
    source, _, attribute = name.rpartition(":")
    function = getattr(_module(source), attribute, None)
    if function is None:
        raise ValueError(f"{source} has no function {attribute!r}")
    with _blamed(name):
        gan = function() if callable(function) and not isinstance(function, GAN) else function
    if not isinstance(gan, GAN):
        raise ValueError(f"{name} must return a drs.GAN, got {type(gan).__name__}")
    gan.name = Path(name).name if gan.name == "custom" else gan.name
    return gan


def weights(path: str | Path) -> dict[str, Any]:
    """Reads a state dict from a safetensors or torch file, without running code.

    A pickle that needs more is refused, because loading it would run whatever code it carries.
    """
    file = Path(path)
    state = files.read(file, "weights")
    if not isinstance(state, dict):
        raise ValueError(f"{file} must hold a state dict, got a {type(state).__name__}")
    return state


def real_samples(file: Path) -> Real:
    """Reads real samples, or (samples, labels), from a file; nothing in it is run."""
    found = files.read(file, "samples")
    if isinstance(found, dict):
        x = next(iter(found.values())) if len(found) == 1 else found.get("x")
        found = (x, found["y"]) if "y" in found else x
    if isinstance(found, (tuple, list)) and len(found) == 2:
        return found[0], found[1]
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"{file} must hold a tensor of samples, or x and its labels y")
    return found


def _module(source: str) -> ModuleType:
    if source.endswith(".py") and not Path(source).is_file():
        raise ValueError(f"no file {source}")
    with _blamed(source):
        return imported(source)


@contextmanager
def _blamed(source: str) -> Iterator[None]:
    """Turns whatever goes wrong in the user's file into an error that names the file."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{source} could not be loaded: {type(error).__name__}: {error}"
        ) from error
