"""The rule by which samples become images, against NumPy."""

import numpy as np
import pytest
import torch
from every_sampler import smooth

import drs_fast as drs
from drs_fast.gan.images import MARGIN, OUTSIDE, Images

RANGES = [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-0.7, 1.9), (1000.0, 1000.5), (-1e-20, 3e-20)]
NEAR = 2_000  # float32 numbers on either side of every tie
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]


def single(value):
    """Each result of float64 rounded to float32, as float64.

    For one sum, difference, product or quotient this gives the bits of float32 arithmetic.
    """
    with np.errstate(over="ignore"):
        return np.float64(np.float32(value))


def ruled(x, low, high):
    """The stated rule for float32 x, step by step."""
    shifted = single(np.float64(x) - single(low))
    level = np.rint(single(shifted * single(255 / (high - low))))  # to even at ties
    return np.clip(np.nan_to_num(level, nan=0.0), 0, 255).astype(np.uint8)


def near_ties(low, high):
    """All float32 numbers close to where the level changes."""
    ties = np.float32(low + (np.arange(255) + 0.5) * (high - low) / 255)
    order = ties.view(np.int32).astype(np.int64)
    order = np.where(order < 0, -(order & 0x7FFFFFFF), order)  # increases with the number
    order = (order[:, None] + np.arange(-NEAR, NEAR + 1)).ravel()
    return np.where(order < 0, -order | 0x80000000, order).astype(np.uint32).view(np.float32)


def ordinary(low, high):
    width = high - low
    special = [0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan, low, high]
    spread = np.random.default_rng(0).uniform(low - 0.1 * width, high + 0.1 * width, 100_000)
    return np.concatenate([np.float32(special), np.float32(spread)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ends", RANGES)
def test_bytes_are_those_of_the_rule(ends, device):
    low, high = ends
    x = np.concatenate([near_ties(low, high), ordinary(low, high)])
    found = Images("uint8", low, high).stored(torch.from_numpy(x).to(device))["x"]
    assert found.dtype == torch.uint8
    assert np.array_equal(found.cpu().numpy(), ruled(x, low, high))


@pytest.mark.parametrize("ends", RANGES[:4])
def test_the_rule_gives_the_nearest_level(ends):
    """Up to the rounding of float32, which is far less than a level."""
    low, high = ends
    x = np.concatenate([near_ties(low, high), ordinary(low, high)])
    x = x[np.isfinite(x) & (x >= low) & (x <= high)]
    exact = (np.float64(x) - low) * 255 / (high - low)
    assert np.abs(ruled(x, low, high) - exact).max() < 0.5 + 1e-4


def test_the_ends_and_the_middle():
    x = torch.tensor([-1.0, 1.0, 0.0, -1.02, 1.02, float("nan"), float("inf"), -float("inf")])
    found = Images("uint8", -1.0, 1.0).stored(x)
    assert found["x"].tolist() == [0, 255, 128, 0, 255, 0, 255, 0]
    assert found[OUTSIDE].tolist() == [False] * 5 + [True] * 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (3,), (1, 4, 4), (3, 2, 2)])
def test_other_dtypes_and_shapes(dtype, shape, device):
    x = (torch.rand(50, *shape, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2).to(dtype)
    found = Images("uint8", -1.0, 1.0).stored(x.to(device))
    assert np.array_equal(found["x"].cpu().numpy(), ruled(x.float().numpy(), -1.0, 1.0))
    beyond = (x.float().abs() > 1.0 + 2 * MARGIN).reshape(50, -1).any(dim=1)
    assert found[OUTSIDE].tolist() == beyond.tolist()
    assert 0 < int(beyond.sum()) <= 50
    assert Images("uint8", -1.0, 1.0).stored(x[:0])["x"].shape == (0, *shape)


@pytest.mark.parametrize("device", DEVICES)
def test_float16_is_numpys(device):
    edge = np.float32(65520.0)
    near = [np.nextafter(edge, np.float32(0)), edge, -edge, np.float32(1e-8), np.float32(6e-8)]
    x = np.concatenate([np.float32(near), ordinary(-1.0, 1.0), ordinary(0.0, 1e5)])
    found = Images("float16", -1.0, 1.0).stored(torch.from_numpy(x).to(device))
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    assert np.array_equal(found["x"].cpu().numpy(), half, equal_nan=True)
    assert np.array_equal(found[OUTSIDE].cpu().numpy(), ~np.isfinite(half))


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (torch.zeros(2, 3, dtype=torch.uint8), r"\(2, 3\) uint8"),
        (torch.zeros(2, 3, dtype=torch.int64), r"\(2, 3\) int64"),
        (torch.zeros(2, 3, dtype=torch.complex64), r"\(2, 3\) complex64"),
        (torch.zeros(2, 0), r"\(2, 0\) float32"),
    ],
)
def test_what_cannot_become_an_image(x, what):
    with pytest.raises(ValueError, match=f"needs samples of floating-point numbers, got {what}"):
        Images("uint8", -1.0, 1.0).stored(x)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1.0, 1.0), r"low < high, also when rounded to float32, got \(1, 1\)"),
        ((1.0, -1.0), r"got \(1, -1\)"),
        ((1.0, 1.0 + 1e-12), "low < high"),
        ((0.0, 1e-40), "low < high"),
        ((-float("inf"), 1.0), "value_range must be a finite number in"),
        ((0.0, 1e38), "value_range must be a finite number in"),
        (1.0, r"two numbers such as \(-1, 1\), got 1.0"),
        ((0.0, 1.0, 2.0), r"two numbers such as \(-1, 1\), got tuple"),
        (("a", "b"), "value_range must be a finite number"),
    ],
)
def test_wrong_ranges(given, words):
    with pytest.raises(ValueError, match=words):
        smooth(value_range=given)


def test_the_range_does_not_make_another_model():
    assert smooth(value_range=(0, 5)).sha256() == smooth().sha256()
    assert smooth(value_range=(0, 5)).value_range == (0.0, 5.0)
    with pytest.raises(ValueError, match="images must be one of"):
        drs.generate(smooth(), drs.samplers.DRS(), 1, images="uint16")
