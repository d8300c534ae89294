"""Chooses the backend that runs an op."""

import functools
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from drs_fast import backends
from drs_fast.backends import extensions
from drs_fast.core.arguments import usable

_forced: ContextVar[str | None] = ContextVar("drs_fast_backend", default=None)


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Forces one backend within the block (None: the best); RuntimeError if it cannot run."""
    if name is not None and name not in backends.NAMES:
        raise ValueError(f"backend must be one of {backends.NAMES}, got {name!r}")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def available(device: torch.device | str) -> dict[str, str | None]:
    """Every backend, with the reason why it cannot run on the device (None if it can)."""
    where = usable(device)
    return {name: _module(name).refuses(where) for name in backends.NAMES}


def _module(name: str) -> Any:
    return importlib.import_module(f"drs_fast.backends.{name}")


def call(op: str, device: torch.device) -> Any:
    return _dispatch(op, device, _forced.get())


@functools.cache
def _dispatch(op: str, device: torch.device, forced: str | None) -> Any:
    reasons = []
    # On the CPU Triton is an interpreter, for those who ask for it.
    names = [name for name in backends.NAMES if (name, device.type) != ("triton", "cpu")]
    for name in names if forced is None else (forced,):
        module = _module(name)
        reason = module.refuses(device)
        if reason is None:
            if hasattr(module, op):
                return getattr(module, op)
            reason = f"has no {op}()"
        if reason == extensions.STALE:
            _warn(name)
        reasons.append(f"  {name}: {reason}")
    raise RuntimeError("\n".join([f"no backend can run {op}() on {device.type}:", *reasons]))


@functools.cache
def _warn(backend: str) -> None:
    warnings.warn(f"the {backend} backend is not used: {extensions.STALE}", stacklevel=4)
