"""What a generator or a discriminator returned, in words, and the options of drs.wrap for it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from drs_fast.core.arguments import describe

MOST = 8  # parts that are named
LAST_OF_EACH = "lambda scales: [maps[-1] for maps in scales]"


def described(result: Any) -> str:
    """The result and its parts, with their shapes."""
    return describe(result) if isinstance(result, Tensor) else _part(result, 2)


def _part(result: Any, deep: int) -> str:
    if isinstance(result, Tensor):
        return f"{tuple(result.shape)} {str(result.dtype).removeprefix('torch.')}"
    parts = _fields(result) if _is_record(result) else result
    if not isinstance(parts, (Mapping, tuple, list)) or not deep or not parts:
        return describe(result)
    named = parts.items() if isinstance(parts, Mapping) else (("", part) for part in parts)
    said = [
        (f"{key!r} " if key != "" else "") + _part(part, deep - 1)
        for key, part in list(named)[:MOST]
    ]
    more = ", ..." if len(parts) > MOST else ""
    return f"a {type(result).__name__} of {', '.join(said)}{more}"


def score(result: Any, n: int, labels: int | None = None) -> dict[str, str] | None:
    """The options that make one number a sample of what a discriminator returned for n samples.

    They are as they are written; none if it is that already. None: nothing is known to help.
    """
    if isinstance(result, Tensor):
        return _of_scores(result, n, labels)
    if _is_record(result):
        return _keyed(_fields(result), n, labels, "lambda found: found.{}")
    if isinstance(result, Mapping):
        return _keyed({f'"{key}"': value for key, value in result.items()}, n, labels, "{}")
    if isinstance(result, list) and result:
        exact = isinstance(result[0], Tensor) and score(result[0], n) == {}
        return {} if exact else _of_maps(result, n, labels)
    return _placed(result, n, labels) if isinstance(result, tuple) and result else None


def samples(result: Any, n: int) -> dict[str, str] | None:
    """The options that make a tensor of n samples of what a generator returned."""
    if isinstance(result, Tensor):
        return {} if result.shape[:1] == (n,) else None
    if _is_record(result):
        parts, pattern = _fields(result), "lambda found: found.{}"
    elif isinstance(result, Mapping):
        parts, pattern = {f'"{key}"': value for key, value in result.items()}, "{}"
    elif isinstance(result, (tuple, list)):
        parts, pattern = {str(i): value for i, value in enumerate(result)}, "{}"
    else:
        return None
    sizes = {
        name: part.numel()
        for name, part in parts.items()
        if isinstance(part, Tensor) and part.shape[:1] == (n,)
    }
    if not sizes:
        return None
    # Of several, images have more numbers than the latents that come with them, and come first.
    name = (
        next(iter(sizes)) if pattern == "{}" and "0" in sizes else max(sizes, key=sizes.__getitem__)
    )
    return {"output": pattern.format(name)}


def _of_scores(scores: Tensor, n: int, labels: int | None) -> dict[str, str] | None:
    if scores.shape[:1] != (n,) or not scores.numel() or not scores.is_floating_point():
        return None
    if scores.numel() == n:
        return {}
    own = labels is not None and scores.numel() == n * labels
    return {"reduce": '"label"' if own else '"mean"'}


def _keyed(
    parts: Mapping[str, Any], n: int, labels: int | None, pattern: str
) -> dict[str, str] | None:
    """The named part that is one number a sample, or else the smallest that can be made so."""
    found = {name: score(part, n, labels) for name, part in parts.items()}
    usable = {name: options for name, options in found.items() if options is not None}
    if not usable:
        return None
    best = min(usable, key=lambda name: _size(parts[name]))
    return {"output": pattern.format(best), **usable[best]}


def _placed(parts: Sequence[Any], n: int, labels: int | None) -> dict[str, str] | None:
    """The first of several parts, which counts anyway, or else a later one that fits better."""
    found = [score(part, n, labels) for part in parts]
    if found[0] == {}:
        return {}
    for i, options in enumerate(found):
        if options == {}:
            return {"output": str(i)}
    if found[0] is not None:
        return found[0]
    later = next((i for i, options in enumerate(found) if options is not None), None)
    return None if later is None else {"output": str(later), **(found[later] or {})}


def _of_maps(parts: Sequence[Any], n: int, labels: int | None) -> dict[str, str] | None:
    """A list of maps, or of a list of maps for each scale."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        if any(part.shape[:1] != (n,) for part in tensors):
            return _placed(parts, n, labels)
        channels = [part.shape[1] if part.ndim > 1 else 1 for part in tensors]
        if channels[-1] == 1 and max(channels) > 1:  # what led to the last is there too
            return {"output": "-1", **(score(tensors[-1], n, labels) or {})}
        return {"reduce": '"mean"'}
    if all(isinstance(part, (list, tuple)) and part for part in parts):
        last = [score(part[-1], n) for part in parts]
        if None in last:
            return None
        several = any(len(part) > 1 for part in parts)
        return {"output": LAST_OF_EACH, "reduce": '"mean"'} if several else {"reduce": '"mean"'}
    return _placed(parts, n, labels)


def _size(part: Any) -> float:
    return part.numel() if isinstance(part, Tensor) else math.inf


def _is_record(result: Any) -> bool:
    return dataclasses.is_dataclass(result) and not isinstance(result, (type, Mapping))


def _fields(result: Any) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
