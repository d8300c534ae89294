"""Two backends write the same bytes: what test_triton.py and test_cuda.py share."""

import torch
from test_ops import assert_same

from drs_fast import Compacted, backend


def mover(device):
    """to(value): a tensor on the device with its strides, its offset and all that lies between."""

    def moved(value):
        if not isinstance(value, torch.Tensor):
            return value
        plain = value.detach()
        everything = torch.empty(0, dtype=plain.dtype).set_(plain.untyped_storage()).to(device)
        there = everything.as_strided(plain.shape, plain.stride(), plain.storage_offset())
        return there.requires_grad_(value.requires_grad)

    return moved


def unmoved(value):
    return value


def place_out(to, out):
    return Compacted(tuple(map(to, out.rows)), *(to(t) for t in list(vars(out).values())[1:]))


def written(result):
    """Every tensor that an op wrote, whole: what it must not touch holds its poison."""
    if isinstance(result, torch.Tensor):
        return (result,)
    if isinstance(result, Compacted):
        last = (result.count, result.invalid, result.above)
    else:
        last = (result.state,)
    return (*result.rows, result.ids, result.logit, *last)


def assert_backends_agree(call, name, to):
    """call(to) makes its arguments with to(tensor); the reference and the backend agree."""
    with backend("reference"):
        expected = call(unmoved)
    with backend(name):
        found = call(to)
    for left, right in zip(written(found), written(expected), strict=True):
        assert_same(left.cpu(), right)
    return expected
