"""Two backends write the same bytes: cases that meet every pair of features, and the comparison."""

import itertools
from contextlib import contextmanager

import pytest
import torch

from drs_fast import Compacted, backend
from drs_fast.backends import cpu

needs_cpu = pytest.mark.skipif(
    cpu.refuses(torch.device("cpu")) is not None, reason="the extension is not built"
)
SIZES = (0, 1, 31, 1023, 1024, 1025, 3000)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CONTENTS = ("finite", "inf", "nan")
ROWS = (0, 2**32 - 7, 2**62)
FORMS = ("number", "0-d", "per row")  # of log_m and gamma
LOG_M = 1.7
ROW_KINDS = {
    "float32": lambda n: noise(n, 7),
    "image": lambda n: (noise(n, 3, 4, 4) * 50).to(torch.uint8),
    "labels": lambda n: torch.arange(n) * 3 - 5,
    "empty": lambda n: noise(n, 0),
    "bool": lambda n: noise(n) > 0,
    "complex": lambda n: torch.complex(noise(n, 3), noise(n, 3) + 1),
    "columns": lambda n: noise(n, 5)[:, :2],
    "every other": lambda n: noise(2 * n, 4)[::2],
    "transposed": lambda n: noise(3, n).T,
    "permuted": lambda n: noise(4, n, 6).permute(1, 2, 0),
    "expanded": lambda n: noise(1, 6).expand(n, 6),
    "line": lambda n: noise(n, 16),
    "wide": lambda n: noise(n, 129),
    "float64": lambda n: noise(n, 2).double(),
    "bfloat16": lambda n: noise(n, 1).bfloat16(),
    "gradient": lambda n: noise(n, 2).requires_grad_(),
}


def wide(values):
    return torch.tensor(values, dtype=torch.float64)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pairwise(*factors):
    """Few cases in which every pair of values of two factors meets."""
    values = [[(place, k) for k in range(len(factor))] for place, factor in enumerate(factors)]
    pairs = itertools.chain.from_iterable(
        itertools.product(one, other) for one, other in itertools.combinations(values, 2)
    )
    bit = {pair: 1 << number for number, pair in enumerate(pairs)}
    covered = {
        case: sum(map(bit.__getitem__, itertools.combinations(case, 2)))
        for case in itertools.product(*values)
    }
    chosen, missing = [], sum(bit.values())
    while missing:
        best = max(covered, key=lambda case: (covered[case] & missing).bit_count())
        missing &= ~covered[best]
        chosen.append(tuple(factors[place][k] for place, k in best))
    return chosen


def logits(n, dtype=torch.float32, content="finite", strided=False):
    logit = noise(n, seed=n) * 2.0 - 1.0
    if content == "nan":
        logit[3::11] = torch.nan
    if content != "finite":
        logit[5::13], logit[1::7] = torch.inf, -torch.inf
    logit = logit.to(dtype)
    return logit.repeat_interleave(2)[::2] if strided else logit


def bits(tensor):
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8)


def assert_same(first, second):
    assert first.shape == second.shape
    assert first.dtype == second.dtype
    assert torch.equal(bits(first), bits(second))


def poisoned(shape, dtype):
    tensor = torch.empty(shape, dtype=dtype)
    bits_of = tensor.view(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    bits_of.fill_(0xAA)
    return tensor


def poisoned_out(capacity, logit, rows):
    scalar = [torch.tensor(-99) for _ in range(3)]
    return Compacted(
        tuple(poisoned((capacity, *row.shape[1:]), row.dtype) for row in rows),
        poisoned((capacity,), torch.int64),
        poisoned((capacity,), logit.dtype),
        *scalar,
    )


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
