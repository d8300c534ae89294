"""Chooses the backend that runs an op."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from drs_fast import backends
from drs_fast.core import Rng
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
    return _dispatch(op, device.type, _forced.get())


@functools.cache
def _dispatch(op: str, device_type: str, forced: str | None) -> Any:
    reasons = []
    # On a CPU Triton is only an interpreter, used if it is asked for.
    names = [name for name in backends.NAMES if (name, device_type) != ("triton", "cpu")]
    for name in names if forced is None else (forced,):
        module = _module(name)
        reason = module.refuses(torch.device(device_type))
        if reason is None:
            if hasattr(module, op):
                return getattr(module, op)
            reason = f"has no {op}()"
        reasons.append(f"  {name}: {reason}")
    raise RuntimeError("\n".join([f"no backend can run {op}() on {device_type}:", *reasons]))


def operator(name: str, *arguments: Any) -> Any:
    """Calls an operator of torch.library, as the public functions do while a graph is traced."""
    return getattr(torch.ops.drs_fast, name)(*arguments)


def traced(rng: Rng) -> tuple[int, int]:
    """Seed (as a signed integer) and row, as an operator of torch.library takes them."""
    return rng.signed_seed, rng.row


def tensor(value: float | Tensor, logit: Tensor) -> Tensor:
    """A number in the form such an operator takes it."""
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=torch.float64, device=logit.device)
