"""Checks real samples, wherever they come from."""

from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain

KINDS = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
)  # fmt: skip
WHOLE = (
    torch.bool, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


class Unusable(ValueError):
    """Real samples that nothing can be learned from."""


def samples(x: Any) -> Tensor:
    """The samples (n, ...) as a plain tensor."""
    if not isinstance(x, Tensor) or (not x.is_nested and (not x.ndim or not len(x))):
        what = f"a tuple of {len(x)}" if isinstance(x, tuple) else describe(x)
        raise Unusable(
            "real must give a tensor of samples (n, ...), or with labels (samples, y), "
            f"got {what}; torch.as_tensor converts an array or a list"
        )
    try:
        dense = plain("real", x)
    except ValueError as error:
        raise Unusable(str(error)) from None
    if dense.dtype not in (*KINDS, *WHOLE):
        raise Unusable(f"real must give numbers of a standard dtype, got {describe(x)}; x.float()")
    return dense.detach()


def picked(x: Tensor, y: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """These rows of the samples and labels; ValueError if there are fewer than that."""
    if len(rows) and int(rows.max()) >= len(x):
        raise ValueError(
            f"real must give the same samples on every call, got {len(x):,}, fewer than before"
        )
    return x[rows.to(x.device)], None if y is None else y[rows.to(y.device)]


def check_finite(x: Tensor) -> None:
    """Unusable if a sample holds NaN or an infinite value."""
    if x.dtype in WHOLE or bool(torch.isfinite(x).all()):
        return
    bad = ~torch.isfinite(x.reshape(len(x), -1)).all(dim=1)
    raise Unusable(
        f"real samples must be finite, got NaN or infinite values in {int(bad.sum()):,} of "
        f"{len(x):,}, {describe(x)}, the first at {int(bad.nonzero()[0])}; drop them, "
        "x[x.isfinite().reshape(len(x), -1).all(dim=1)], or find where they come from"
    )


def alike(real: Tensor, made: Tensor) -> None:
    """ValueError unless real samples (n, ...) have the shape and dtype of G's samples."""
    if real.shape[1:] != made.shape[1:] or real.is_floating_point() != made.is_floating_point():
        raise ValueError(
            f"real samples must be like generated ones, {describe(made[:1])} each, got "
            f"{describe(real)}; give GAN(..., real=) samples as the discriminator sees them"
        )
