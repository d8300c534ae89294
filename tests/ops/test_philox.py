"""Random words against Random123's known answers and a second version in Python integers."""

import pytest
import torch
from philox import philox, uniform_of_row, words_of_row

from drs_fast import Rng, backend, ops
from drs_fast.backends import cpu, reference

BACKENDS = ("reference", "cpu")
# Random123's kat_vectors: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.fixture(params=BACKENDS)
def name(request):
    if request.param == "cpu" and (reason := cpu.refuses(torch.device("cpu"))):
        pytest.skip(reason)
    return request.param


def raw_words(name, seed, row, stream, draw):
    """Words of any 64-bit row, including those past 2^63 that no Rng can name."""
    signed = row - 2**64 if row >= 2**63 else row
    ids = torch.tensor([signed])
    if name == "reference":
        return [int(w) for w in reference.philox(ids, seed, stream, draw)]
    out = torch.empty(4, dtype=torch.int64)
    cpu._C.words((seed, 0, ids.data_ptr()), stream, draw, 1, 4, 1, out.data_ptr())
    return out.tolist()


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(name, counter, key, expected):
    c0, c1, stream, draw = (int(word, 16) for word in counter.split())
    low, high = (int(word, 16) for word in key.split())
    found = raw_words(name, low | high << 32, c0 | c1 << 32, stream, draw)
    assert found == [int(word, 16) for word in expected.split()]


def test_the_oracle_knows_the_answers_and_counts_rounds():
    for counter, key, expected in KNOWN:
        numbers = [[int(word, 16) for word in part.split()] for part in (counter, key, expected)]
        assert philox(*numbers[:2]) == numbers[2]
    assert philox((0,) * 4, (0,) * 2, rounds=7) == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**40 + 77, 2**63, 2**64 - 1])
@pytest.mark.parametrize("row", [0, 2**32 - 4, 2**62, 2**63 - 9])
def test_words_of_rows(name, seed, row):
    # 9 rows cross 2^32, end at the last row there is, and are no whole number of vectors.
    stream, draw = 2**32 - 1, 5
    with backend(name):
        found = ops.words(Rng(seed, row), 9, 10, stream=stream, draw=draw)
    expected = [
        [word for t in range(3) for word in words_of_row(seed, row + i, stream, draw + t)][:10]
        for i in range(9)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
@pytest.mark.parametrize("row", [0, 2**32 - 4, 2**63 - 70])
@pytest.mark.parametrize(("stream", "draw"), [(0, 0), (1, 0), (5, 2**32 - 1), (2**32 - 1, 3)])
def test_uniforms_are_53_bits_exactly(name, seed, row, stream, draw):
    with backend(name):
        found = ops.uniform(Rng(seed, row), 70, stream=stream, draw=draw)
    assert found.dtype == torch.float64
    assert found.tolist() == [uniform_of_row(seed, row + i, stream, draw) for i in range(70)]


def test_ids_name_the_rows(name):
    ids = torch.tensor([2**63 - 1, 0, 7, 7, 2**32, 2**32 - 1] * 9)
    with backend(name):
        u = ops.uniform(Rng(3, 11), len(ids), stream=1, ids=ids)
        w = ops.words(Rng(3, 11), len(ids), 3, stream=1, ids=ids)
    assert u.tolist() == [uniform_of_row(3, row, 1) for row in ids.tolist()]
    assert w.tolist() == [words_of_row(3, row, 1, 0)[:3] for row in ids.tolist()]


def test_nothing_is_consumed_and_every_name_counts(name):
    with backend(name):
        first = ops.uniform(Rng(5), 64, stream=1)
        assert torch.equal(first, ops.uniform(Rng(5), 64, stream=1))
        others = [
            ops.uniform(Rng(6), 64, stream=1),
            ops.uniform(Rng(5 + 2**32), 64, stream=1),
            ops.uniform(Rng(5, 64), 64, stream=1),
            ops.uniform(Rng(5, 2**32), 64, stream=1),
            ops.uniform(Rng(5), 64, stream=2),
            ops.uniform(Rng(5), 64, stream=1, draw=1),
        ]
    for other in others:
        assert not bool((first == other).any())


def test_rows_end_at_two_to_the_63(name):
    with backend(name):
        assert len(ops.uniform(Rng(0, 2**63 - 3), 3, stream=1)) == 3
        with pytest.raises(ValueError, match=r"pass 2\^63"):
            ops.uniform(Rng(0, 2**63 - 3), 4, stream=1)
