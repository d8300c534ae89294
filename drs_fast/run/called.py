"""The sha256 of a sampler's functions, as they were before a run called them.

A call may leave something behind, in a dict or a list that a function remembers results in. The
same command must find its run again, so this process remembers what its own runs have left behind.
Whatever else has changed since then, by the user's hand or in a module's weights, counts.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from drs_fast.core import Sampler, fingerprint

Functions = Sequence[Callable[..., Any]]
_before: dict[str, str] = {}  # sha256 after the calls of a run: sha256 before them


def sha256(functions: Functions) -> str:
    found = fingerprint.sha256(*functions)
    return _before.get(found, found)


@contextmanager
def remembered(sampler: Sampler) -> Iterator[None]:
    """What the sampler's functions leave behind within the block does not count afterwards."""
    there = [(given, sha256(given), fingerprint.weights(*given)) for given in _functions(sampler)]
    try:
        yield
    finally:
        for given, before, weights in there:
            after = fingerprint.sha256(*given)
            if after != before and fingerprint.weights(*given) == weights:
                _before[after] = before


def _functions(sampler: Sampler) -> Iterator[Functions]:
    """The functions of the sampler, if it has any, and those of samplers within it."""
    if sampler.functions:
        yield sampler.functions
    for field in dataclasses.fields(sampler):
        inner = getattr(sampler, field.name)
        if isinstance(inner, Sampler):
            yield from _functions(inner)
