"""A generator or a discriminator that is called, or answers, in another way."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from drs_fast.gan.wrapped import Wrapped


def wrap(
    module: Callable[..., Any],
    *,
    labels: str = "index",
    classes: int | None = None,
    embed: Callable[[Tensor], Any] | None = None,
    listed: bool = False,
    output: int | str | Callable[[Any], Any] | None = None,
    reduce: str | Callable[[Any], Tensor] | None = None,
    args: tuple[Any, ...] = (),
    **keywords: Any,
) -> nn.Module:
    """A generator or discriminator as drs.GAN takes it, made of one with another interface.

    It calls module(rows [, label], *args, **keywords) and returns one tensor.
    labels: how the module takes them: "index" (n,) int64, "onehot" (n, classes) float32, or "none",
        which leaves them out.
    classes: how many, for "onehot".
    embed: makes what the module takes in place of a label, such as `G.shared`.
    listed: whether the module takes a list that holds the rows, [z].
    output: which of several results counts: a place in a tuple or list, a key of a dict, or a
        function of what the module returns. None: the tensor, or the first of several.
    reduce: turns several numbers a sample into one: "mean" or "sum" over patches, steps or
        channels; "label", the number of the sample's own class; or a function. Lists of maps, also
        nested, are reduced together: "mean" is the mean of the maps' means. With reduce, only of a
        tuple is the first taken.
    args, keywords: tensors among them are moved to the rows' device.
    ValueError where the module returns something that these do not fit, with the line that does.
    """
    options = {
        "labels": labels, "classes": classes, "embed": embed, "listed": listed, "output": output,
        "reduce": reduce, "args": args,
    }  # fmt: skip
    return Wrapped(module, options | keywords)
