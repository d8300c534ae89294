"""A generator or a discriminator that is called, or answers, in another way."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any, Self

import torch
from torch import Tensor, nn

from drs_fast.core.arguments import describe, integer, one_of
from drs_fast.gan import results
from drs_fast.gan.around import Around

LABELS = ("index", "onehot", "none")
REDUCTIONS = ("mean", "sum", "label")
USUAL: dict[str, Any] = {
    "labels": "index",
    "classes": None,
    "embed": None,
    "listed": False,
    "output": None,
    "reduce": None,
    "args": (),
}


def line(name: str, options: Mapping[str, str]) -> str:
    """A call of drs.wrap, to be copied. options: as they are written."""
    return f"drs.wrap({', '.join([name, *(f'{key}={value}' for key, value in options.items())])})"


class Unfit(ValueError):
    """The module returned something that the options of its wrap do not fit.

    options: those that would, as they are written.
    """

    def __init__(self, seen: str, options: Mapping[str, str]) -> None:
        self.seen, self.options = seen, options
        super().__init__(f"module {seen}; {line('module', options)}")


class Wrapped(Around):
    """What `drs.wrap` returns: module(rows [, label], *args, **keywords), as one tensor.

    options: the keyword arguments of `drs.wrap`.
    """

    def __init__(self, module: Callable[..., Any], options: Mapping[str, Any]) -> None:
        super().__init__()
        given = USUAL | dict(options)
        self.module = module
        self.labels, self.classes, self.embed, self.listed, self.output, self.reduce, self.args = (
            given.pop(name) for name in USUAL
        )
        self.keywords = given
        self._check()

    def _check(self) -> None:
        if not callable(self.module):
            raise ValueError(f"module must be callable, got {describe(self.module)}")
        one_of("labels", self.labels, LABELS)
        if self.classes is not None:
            self.classes = integer("classes", self.classes, 1)
        if self.labels == "onehot" and self.classes is None:
            raise ValueError('labels="onehot" needs classes=, the number of classes')
        if self.embed is not None and (self.labels == "none" or not callable(self.embed)):
            raise ValueError(
                "embed must be a function of the labels, such as G.shared, and they must be "
                f"passed on, got embed={describe(self.embed)}, labels={self.labels!r}"
            )
        if isinstance(self.output, bool) or not (
            self.output is None or isinstance(self.output, (int, str)) or callable(self.output)
        ):
            raise ValueError(
                "output must be a place in a tuple, a key of a dict or a function of what the "
                f"module returns, got {describe(self.output)}"
            )
        if self.reduce is not None and not callable(self.reduce):
            one_of("reduce", self.reduce, REDUCTIONS)
        if not isinstance(self.args, tuple):
            raise ValueError(f"args must be a tuple such as (None,), got {describe(self.args)}")
        # A list of its own, because Python may use one tuple, which is hashed once, in many places.
        self.arguments = list(self.args)
        del self.args

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that differ from the defaults."""
        given = {name: getattr(self, name) for name in USUAL if name != "args"}
        given["args"] = tuple(self.arguments)
        given = {name: value for name, value in given.items() if value != USUAL[name]}
        return given | self.keywords

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """The same module, wrapped with these options beside its own."""
        return type(self)(self.module, self.options | dict(options))

    def written(self, name: str = "module") -> dict[str, str]:
        """The options as they are written where the module is called `name`."""
        return {key: self._written(value, name) for key, value in self.options.items()}

    def _written(self, value: Any, name: str) -> str:
        if isinstance(value, nn.Module) and isinstance(self.module, nn.Module):
            for part_name, part in self.module.named_modules():
                if part is value:
                    return f"{name}.{part_name}" if part_name else name
        return written(value)

    def extra_repr(self) -> str:
        """The options, as they are written."""
        return ", ".join(f"{name}={value}" for name, value in self.written().items())

    def train(self, mode: bool = True) -> Self:
        """As of any module, but an exported module keeps the only mode it has."""
        self.training = mode
        for child in self.children():
            with contextlib.suppress(NotImplementedError):
                child.train(mode)
        return self

    @property
    def inner(self) -> Callable[..., Any] | None:
        return self.module

    def forward(self, rows: Tensor, *label: Tensor) -> Any:
        """One tensor for rows (n, ...), unless options are missing."""
        return self.made(self.result(rows, *label), len(rows), *label)

    def result(self, rows: Tensor, *label: Tensor) -> Any:
        """What the module itself returns."""
        args = (_beside(rows, value) for value in self.arguments)
        keywords = {name: _beside(rows, value) for name, value in self.keywords.items()}
        given: Any = [rows] if self.listed else rows
        return self.module(given, *self._label(*label), *args, **keywords)

    def made(self, result: Any, n: int, *label: Tensor) -> Any:
        """What `output` and `reduce` make of a result for n rows."""
        return self._reduced(self._chosen(result, n), n, *label)

    def _label(self, *label: Tensor) -> tuple[Any, ...]:
        if self.labels == "none" or not label:
            return ()
        y = label[0]
        if self.labels == "onehot":
            y = (y[:, None] == torch.arange(self.classes, device=y.device)).float()
        return (y,) if self.embed is None else (self.embed(y),)

    def _chosen(self, result: Any, n: int) -> Any:
        if self.output is None:
            several = (tuple,) if self.reduce is not None else (tuple, list)
            return result[0] if isinstance(result, several) and result else result
        if callable(self.output):
            return self.output(result)
        if isinstance(result, (tuple, list)) and isinstance(self.output, int):
            if -len(result) <= self.output < len(result):
                return result[self.output]
        elif isinstance(result, Mapping) and self.output in result:
            return result[self.output]
        raise self._unfit(f"returned {results.described(result)}", result, n, "output")

    def _reduced(self, result: Any, n: int, *label: Tensor) -> Any:
        if self.reduce is None:
            return result
        if callable(self.reduce):
            return self.reduce(result)
        maps = list(_tensors(result))
        fits = all(each.shape[:1] == (n,) and each.numel() for each in maps)
        if not maps or not fits or (self.reduce == "label" and len(maps) > 1):
            seen = f"must return tensors with {n} rows, got {results.described(result)}"
            raise self._unfit(seen, result, n, "reduce")
        if self.reduce == "label":
            return self._of_label(maps[0], *label)
        sums = torch.stack([_reduction(each, self.reduce) for each in maps])
        return sums.mean(dim=0) if self.reduce == "mean" else sums.sum(dim=0)

    def _of_label(self, scores: Tensor, *label: Tensor) -> Tensor:
        if not label:
            raise ValueError('reduce="label" needs a GAN with labels; build GAN(..., labels=K)')
        return scores.flatten(1).gather(1, label[0][:, None])[:, 0]

    def _unfit(self, seen: str, result: Any, n: int, wrong: str) -> Unfit:
        kept = {name: value for name, value in self.written().items() if name != wrong}
        return Unfit(f"{seen}, for {self.extra_repr()}", kept | (results.score(result, n) or {}))


def written(value: Any) -> str:
    """A value as code; a function that has no name as `...`."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, FunctionType) and value.__name__ != "<lambda>":
        return value.__name__
    plain = value is None or isinstance(value, (bool, int, float))
    if plain or (isinstance(value, tuple) and "..." not in map(written, value)):
        return repr(value)
    return "..."


def _beside(rows: Tensor, value: Any) -> Any:
    """The value; if it is a tensor, on the device of the rows."""
    return value.to(rows.device) if isinstance(value, Tensor) else value


def _tensors(result: Any) -> Iterator[Tensor]:
    """The tensors in nested lists; nothing if there is anything else."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from _tensors(part)


def _reduction(scores: Tensor, how: str) -> Tensor:
    """The mean or the sum (n,) over all numbers of a row, in float32 or more."""
    flat = scores.flatten(1)
    dtype = torch.promote_types(flat.dtype, torch.float32)
    return flat.mean(dim=1, dtype=dtype) if how == "mean" else flat.sum(dim=1, dtype=dtype)
