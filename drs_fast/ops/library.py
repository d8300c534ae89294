"""The decorator that makes an op an operator of torch.library as well.

Eager calls run the op's body. torch.compile and torch.export record a call of the operator, and do
not look inside. An operator takes tensors and numbers only: an Rng as `seed`, which is signed, and
`row`; a Ring as `seed`, `batch` and its tensors; a Compacted as its tensors; and a threshold as a
tensor, even where it is a number.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling

from drs_fast.core import Rng
from drs_fast.core.compacted import Compacted, Ring

ROWS = "SymInt seed, SymInt row, Tensor? ids"
COUNTER = "SymInt stream, SymInt draw, Device device"
THRESHOLD = "Tensor log_m, Tensor gamma, float eps"

P = ParamSpec("P")
R = TypeVar("R")

_library: Any = torch.library.Library("drs_fast", "DEF")  # type: ignore[no-untyped-call]


def _none(**arguments: Any) -> None:
    return None


def operator(
    schema: str, empty: Callable[..., Any] = _none, tags: tuple[torch.Tag, ...] = ()
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Registers the decorated op as torch.ops.drs_fast.<its name>, which graphs call instead.

    schema: the operator's arguments, which bear the names of the op's, and results.
    empty: makes an uninitialised result from the operator's arguments by name. It stands for the
    result while a graph is traced, or is the `out` that a traced call was not given.
    """

    def decorate(body: Callable[P, R]) -> Callable[P, R]:
        name, spec = body.__name__, inspect.getfullargspec(body)
        positional, defaults = spec.args, spec.kwonlydefaults or {}
        writes = "(a!)" in schema

        def run(*given: Any) -> Any:
            named = _whole(dict(zip(parameters, given, strict=False)))
            first = [named.pop(each) for each in positional]
            result = body(*first, *named.pop("rows", ()), **named)
            return None if writes else result

        def fake(*given: Any) -> Any:
            return None if writes else empty(**dict(zip(parameters, given, strict=False)))

        _library.define(name + schema, tags=tags)
        _library.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"drs_fast::{name}", fake, lib=_library)
        registered = getattr(torch.ops.drs_fast, name)
        parameters = [argument.name for argument in registered.default._schema.arguments]

        def traced(*given: Any, **named: Any) -> Any:
            named = {**defaults, **dict(zip(positional, given, strict=False)), **named}
            # Also where there are too many, so that the operator says so.
            if spec.varargs or len(given) > len(positional):
                named["rows"] = given[len(positional) :]
            if "out" in named and named["out"] is None:
                named["out"] = empty(**named)
            result = registered(**_flat(**named))
            return named.get("out", named.get("ring")) if writes else result

        @functools.wraps(body)
        def door(*given: P.args, **named: P.kwargs) -> R:
            return traced(*given, **named) if is_compiling() else body(*given, **named)

        return door

    return decorate


def _flat(**named: Any) -> dict[str, Any]:
    """An op's arguments as its operator takes them."""
    if "rng" in named:
        rng = named.pop("rng")
        named |= {"seed": rng.signed_seed, "row": rng.row}
    if "ring" in named:
        ring = named["ring"]
        named |= {"seed": Rng(ring.seed).signed_seed, "batch": ring.batch, "ring": ring.tensors()}
    if "out" in named:
        named["out"] = named["out"].tensors()
    if "device" in named:
        named["device"] = torch.device(named["device"])
    for name in ("log_m", "gamma"):
        value = named.get(name)
        if value is not None and not isinstance(value, Tensor):
            device = named["logit"].device
            named[name] = torch.full((), value, dtype=torch.float64, device=device)
    return named


def _whole(named: dict[str, Any]) -> dict[str, Any]:
    """An operator's arguments as the op takes them."""
    seed = named.pop("seed", 0) % 2**64
    if "row" in named:
        named["rng"] = Rng(seed, named.pop("row"))
    if "ring" in named:
        named["ring"] = Ring.of(seed, named.pop("batch"), named["ring"])
    if "out" in named:
        named["out"] = Compacted.of(named["out"])
    return named
