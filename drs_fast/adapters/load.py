"""Loads a GAN by name, its weights, and real samples: from the zoo, files and modules."""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from drs_fast import zoo
from drs_fast.adapters import checkpoints, files
from drs_fast.core.arguments import told
from drs_fast.core.sources import imported
from drs_fast.core.words import did_you_mean
from drs_fast.gan import GAN, Real
from drs_fast.gan.gan import UNNAMED

# The folder of the file that defines the model that is being loaded.
_beside: ContextVar[Path | None] = ContextVar("beside", default=None)


def load(name: str, /, **arguments: Any) -> GAN:
    """Loads the GAN with this name.

    name: a zoo name such as "25gaussians", or "file.py:function" or "package.module:function"
        whose function returns a drs.GAN.
    arguments: given to that function, as `drs-fast generate ... --arg path=ckpt.pt` does.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"model must be a name, got {name!r}")
    if ":" not in name:
        if name not in zoo.NAMES:
            fault = files.fault(Path(name)) or "it is a file"
            meant = did_you_mean(name, zoo.NAMES)
            what = meant if fault == files.ABSENT else f", but {fault}"
            raise ValueError(
                f"model must be one of {', '.join(zoo.NAMES)}, or 'file.py:function', or "
                "'package.module:function' with a function that returns a drs.GAN, got "
                f"{name!r}{what}"
            )
        if arguments:
            given = ", ".join(arguments)
            raise ValueError(f"the zoo's {name} takes no arguments, got {given}")
        return zoo.load(name)
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        missing = "function after the colon" if source else "file or module before the colon"
        raise ValueError(
            f"model must be 'file.py:function' or 'package.module:function', got {name!r}, with no "
            f"{missing}"
        )
    with _loading(Path(source)):
        module = _module(source)
        function = getattr(module, attribute, None)
        if function is None:
            functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
            meant = did_you_mean(attribute, functions)
            raise ValueError(f"{source} has no function {attribute!r}{meant}")
        calls = callable(function) and not isinstance(function, GAN)
        if calls or arguments:
            _check_arguments(name, function, arguments)
        with _loading(Path(getattr(module, "__file__", None) or source)), _blamed(name):
            gan = function(**arguments) if calls else function
    if not isinstance(gan, GAN):
        raise ValueError(f"{name} must return a drs.GAN, got {type(gan).__name__}")
    gan.name = Path(name).name + _noted(arguments) if gan.name == UNNAMED else gan.name
    return gan


def weights(
    path: str | Path,
    *,
    key: str | None = None,
    strip: str = "",
    allow: Sequence[Any] = (),
    trust_sha256: str | None = None,
) -> dict[str, Any]:
    """Reads a state dict from a safetensors or torch file, without running code.

    path: if relative, it is looked for in the current folder, and then next to the file that
        defines the model.
    key: where a checkpoint keeps the weights, such as "g_ema" or "state.model"; without it, all
        that the file holds is returned.
    strip: a beginning that all names lose, such as "module." of DataParallel.
    allow: classes that the file may hold besides tensors, such as [argparse.Namespace].
    trust_sha256: of a file of live code, such as a StyleGAN pickle. It is loaded only if its bytes
        have this sha256, and then whatever code it carries is run.

    A pickle that needs more is refused, because loading it would run whatever code it carries.
    """
    caller = Path(sys._getframe(1).f_code.co_filename)
    folders = [folder for folder in (_beside.get(), caller.parent) if folder is not None]
    file = files.located(Path(path), folders)
    held = files.read(file, "weights", allow=allow, trust_sha256=trust_sha256)
    return checkpoints.chosen(held, file, key, strip)


def _check_arguments(name: str, function: Any, arguments: Mapping[str, Any]) -> None:
    """ValueError unless the function takes these arguments."""
    if not callable(function) or isinstance(function, GAN):
        raise ValueError(f"{name} is no function, so it takes no arguments, got {[*arguments]}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built-in functions nothing is known
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        unknown = [given for given in arguments if given not in signature.parameters]
        meant = did_you_mean(unknown[0], signature.parameters) if unknown else ""
        raise ValueError(
            f"{name} takes {signature}: {error}{meant}; give arguments as "
            "drs.load(name, path=...) or --arg path=..."
        ) from None


def _noted(arguments: Mapping[str, Any]) -> str:
    """The arguments as part of a model's name; of a path the last part, as of the file itself."""
    if not arguments:
        return ""
    short = {
        name: Path(value).name if isinstance(value, (str, Path)) else value
        for name, value in arguments.items()
    }
    return f"({', '.join(f'{name}={value!r}' for name, value in short.items())})"


@contextmanager
def _loading(file: Path) -> Iterator[None]:
    token = _beside.set(file.absolute().parent)
    try:
        yield
    finally:
        _beside.reset(token)


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
