"""What a GAN's `decode` makes of the samples that are kept, in blocks of one shape.

Every call gets the same number of rows, so that a row's bits do not depend on how many rows were
kept together with it. Missing rows are copies of the first one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain
from drs_fast.gan import calls

ROWS = 256  # in a call, or fewer where G and D get fewer
WANTED = "a tensor with one row for each sample"


class NoTensor(ValueError):
    """What `decode` makes cannot be a run's samples."""


def decoded(call: Callable[[Tensor], Any], x: Tensor, rows: int) -> Tensor:
    """What `call` makes of samples x (n, ...), in calls of so many rows; NoTensor otherwise."""
    made: list[Tensor] = []
    # Inference mode marks what the function keeps of a call, which is how fingerprints know it.
    with torch.inference_mode():
        for start in range(0, max(1, len(x)), rows):
            size = min(rows, len(x) - start)
            found = call(_filled(x.narrow(0, start, size), rows))
            if not isinstance(found, Tensor):
                raise NoTensor(
                    f"decode must return {WANTED} in a run, got {describe(found)}; draw the "
                    "samples as they are, batch = drs.generate(gan.undecoded(), ...), and then "
                    "gan.decoded(batch.x) returns it"
                )
            own = plain("decode", found, WANTED, "return")
            if own.shape[:1] != (rows,):
                raise ValueError(
                    f"decode must return {WANTED}, got {describe(own)} for {rows} samples"
                )
            with torch.inference_mode(False):
                own = own.detach()[:size].clone(memory_format=torch.contiguous_format)
            if made and not calls.alike(own, made[0]):
                raise ValueError(
                    "decode must return samples of one shape and dtype on one device, got "
                    f"{describe(own[:1])}, and before that {describe(made[0][:1])}"
                )
            made.append(own)
    return made[0] if len(made) == 1 else torch.cat(made)


def _filled(own: Tensor, rows: int) -> Tensor:
    """A copy of these rows and, for the missing ones, of the first."""
    if not len(own):
        return own.new_zeros((rows, *own.shape[1:]))
    return torch.cat([own, own[:1].expand(rows - len(own), *own.shape[1:])])
