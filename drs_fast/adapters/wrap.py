"""A generator or a discriminator that is called, or answers, in another way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drs_fast.core.arguments import describe, integer, one_of

LABELS = ("index", "onehot", "none")
REDUCTIONS = ("mean", "sum")


def wrap(
    module: Callable[..., Any],
    *,
    labels: str = "index",
    classes: int | None = None,
    embed: Callable[[Tensor], Any] | None = None,
    listed: bool = False,
    output: int | str | Callable[[Any], Any] | None = None,
    reduce: str | Callable[[Tensor], Tensor] | None = None,
    args: tuple[Any, ...] = (),
    **keywords: Any,
) -> nn.Module:
    """A generator or discriminator as drs.GAN takes it, made of one with another interface.

    It calls module(rows [, label], *args, **keywords) and returns one tensor.
    labels: how the module takes them: "index" (n,) int64, "onehot" (n, classes) float32, or "none",
        which leaves them out.
    classes: how many, for "onehot".
    embed: what the module takes in place of a label, such as `G.shared`.
    listed: whether the module takes a list that holds the rows, [z].
    output: which of several results counts: a place in a tuple or list, a key of a dict, or a
        function of what the module returns. None: the tensor, or the first of several.
    reduce: turns several numbers a sample into one: "mean" or "sum" over patches, steps or
        channels, or a function of the tensor.
    """
    return Wrapped(module, labels, classes, embed, listed, output, reduce, args, keywords)


class Wrapped(nn.Module):
    """What `wrap` returns."""

    def __init__(
        self,
        module: Callable[..., Any],
        labels: str,
        classes: int | None,
        embed: Callable[[Tensor], Any] | None,
        listed: bool,
        output: int | str | Callable[[Any], Any] | None,
        reduce: str | Callable[[Tensor], Tensor] | None,
        args: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> None:
        super().__init__()
        if not callable(module):
            raise ValueError(f"module must be callable, got {describe(module)}")
        one_of("labels", labels, LABELS)
        if labels == "onehot" and classes is None:
            raise ValueError('labels="onehot" needs classes=, the number of classes')
        if isinstance(reduce, str):
            one_of("reduce", reduce, REDUCTIONS)
        self.module = module
        self.labels = labels
        self.classes = None if classes is None else integer("classes", classes, 1)
        self.embed, self.listed, self.output, self.reduce = embed, listed, output, reduce
        self.args, self.keywords = args, keywords

    def forward(self, rows: Tensor, *label: Tensor) -> Any:
        given: Any = [rows] if self.listed else rows
        result = self.module(given, *self._label(*label), *self.args, **self.keywords)
        return self._reduced(self._chosen(result))

    def _label(self, *label: Tensor) -> tuple[Any, ...]:
        if self.labels == "none" or not label:
            return ()
        if self.embed is not None:
            return (self.embed(label[0]),)
        if self.classes is None or self.labels == "index":
            return label
        numbers = torch.arange(self.classes, device=label[0].device)
        return ((label[0][:, None] == numbers).float(),)

    def _chosen(self, result: Any) -> Any:
        if self.output is None:
            return result[0] if isinstance(result, (tuple, list)) else result
        return self.output(result) if callable(self.output) else result[self.output]

    def _reduced(self, result: Any) -> Any:
        if self.reduce is None:
            return result
        if callable(self.reduce):
            return self.reduce(result)
        flat = result.flatten(1)
        return flat.mean(dim=1) if self.reduce == "mean" else flat.sum(dim=1)
