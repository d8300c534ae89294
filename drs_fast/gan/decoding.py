"""What a GAN's `decode` makes of the samples that are kept, in blocks of one shape.

A row's bits may depend on how many rows are in a call, and on its place among them. So every call
gets the same number of rows, and row r is always at place r modulo that. The other places hold
copies of one of the rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from drs_fast.core.arguments import describe
from drs_fast.core.tensors import plain
from drs_fast.gan import blocks, calls

ROWS = 256  # in a call, or fewer where G and D get fewer
WANTED = "a tensor with one row for each sample"


class NoTensor(ValueError):
    """What `decode` makes cannot be a run's samples."""


def decoded(call: Callable[[Tensor], Any], x: Tensor, ids: Tensor, rows: int) -> Tensor:
    """What `call` makes of samples x (n, ...) of these rows; NoTensor if that is none.

    rows: in a call.
    """
    places, count = blocks.placed(ids, rows)
    room = x.new_zeros((rows * max(1, count), *x.shape[1:]))
    if len(x):
        room[:] = x[:1]
        room[places] = x
    made: list[Tensor] = []
    # Inference mode marks what the function keeps of a call, which is how fingerprints know it.
    with torch.inference_mode():
        for part in torch.split(room, rows):
            found = call(part.clone())
            own = _checked(found, rows)
            if made and not calls.alike(own, made[0]):
                raise ValueError(
                    "decode must return samples of one shape and dtype on one device, got "
                    f"{describe(own[:1])}, and before that {describe(made[0][:1])}"
                )
            with torch.inference_mode(False):
                made.append(own.clone(memory_format=torch.contiguous_format))
    return torch.cat(made)[places]


def _checked(found: Any, rows: int) -> Tensor:
    if not isinstance(found, Tensor):
        raise NoTensor(
            f"decode must return {WANTED} in a run, got {describe(found)}; draw the samples as "
            "they are, batch = drs.generate(gan.undecoded(), ...), and then gan.decoded(batch.x) "
            "returns it"
        )
    own = plain("decode", found, WANTED, "return").detach()
    if own.shape[:1] != (rows,):
        raise ValueError(f"decode must return {WANTED}, got {describe(own)} for {rows} samples")
    return own
