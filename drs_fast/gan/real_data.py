"""Checks real samples, wherever they come from."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import STANDARD, WHOLE, plain
from drs_fast.gan import calls, classes


class Unusable(calls.Refused):
    """Real samples that nothing can be learned from."""


def chosen(
    given: Any, labels: int | None, n: int, rows: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Up to n samples of those given, the first ones or these rows, and their labels.

    Unusable, or another ValueError, if they are not what a GAN with so many classes can use.
    """
    x, y = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    x, y = samples(array(x)), array(y, whole=True)
    classes.check(labels, y, len(x))
    x, y = x[:n], None if y is None else y[:n]
    if rows is not None:
        x, y = picked(x, y, rows)
    check_finite(x)
    return x, y


def array(given: Any, whole: bool = False) -> Any:
    """A NumPy array as a tensor, integers as int64 if `whole`; anything else as it is."""
    if not isinstance(given, np.ndarray):
        return given
    try:
        found = torch.from_numpy(given.astype(given.dtype.newbyteorder("=")))
    except TypeError:
        raise Unusable(
            f"real must give numbers of a type that PyTorch has, got an array of {given.dtype}; "
            "give x.astype(numpy.float32)"
        ) from None
    return found.long() if whole and found.dtype in WHOLE else found


def samples(x: Any) -> Tensor:
    """The samples (n, ...) as a plain tensor."""
    try:
        dense = plain("real", x) if isinstance(x, Tensor) else None
    except ValueError as error:
        raise Unusable(str(error)) from None
    if dense is None or not dense.ndim or not len(dense):
        what = f"a tuple of {len(x)}" if isinstance(x, tuple) else describe(x)
        raise Unusable(
            "real must give a tensor of samples (n, ...), or with labels (samples, y), "
            f"got {what}; torch.as_tensor converts a list"
        )
    if dense.dtype not in STANDARD:
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
