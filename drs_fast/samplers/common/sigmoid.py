"""Detects whether the values a discriminator returns as logits come from a sigmoid."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from drs_fast import ops
from drs_fast.core import BURN_IN_ROW, Rng
from drs_fast.gan import GAN

SIGMOIDS = {
    torch.sigmoid,
    torch.sigmoid_,
    Tensor.sigmoid,
    Tensor.sigmoid_,
    torch.special.expit,
    torch.softmax,
    Tensor.softmax,
    functional.softmax,
}

ROUNDING = 2.0**-9  # of a bfloat16 below 1


def ends_in_sigmoid(gan: GAN) -> bool:
    """Whether D's scores for a block are the output of its last sigmoid or softmax, or a rounding.

    Calls are watched, so both modules and functions are seen. A script, or a formula such as
    1 / (1 + exp(-s)), is not seen.
    """
    rng = Rng(0, BURN_IN_ROW)
    y = ops.labels(gan, rng, gan.block)
    x = gan.samples(ops.latents(gan, rng, gan.block), y)
    with _Watch() as watch:
        score = gan.scores(x, y)
    last = watch.last
    if last is None or last.shape[:1] != score.shape:
        return False
    columns = last.float().reshape(len(score), -1)
    return bool(((columns - score[:, None]).abs() <= ROUNDING).all(dim=0).any())


class _Watch(TorchFunctionMode):
    """Keeps the output of the last sigmoid or softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        given: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        result = function(*given, **(named or {}))
        if function in SIGMOIDS:
            self.last = result
        return result
