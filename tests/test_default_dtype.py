"""PyTorch's global defaults, which a user's program may have changed, change no sample."""

import contextlib

import pytest
import torch
from test_samplers import NAMES, quick, smooth

import drs_fast as drs


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


DEFAULTS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "inference": torch.inference_mode,
    "no grad": torch.no_grad,
}

def same(a, b):
    for name in ("x", "z", "logit", "ids", "y"):
        one, other = getattr(a, name), getattr(b, name)
        if one is None:
            assert other is None
            continue
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name
    assert a.stats.keys() == b.stats.keys()
    for name, value in a.stats.items():
        assert b.stats[name].dtype == value.dtype, name
        assert torch.equal(b.stats[name], value) or value.isnan(), name

@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("name", NAMES)
def test_samples(name, default, labels):
    gan, sampler = smooth(labels), quick(name)
    expected = drs.generate(gan, sampler, 100, batch_size=256)
    with DEFAULTS[default]():
        found = drs.generate(gan, sampler, 100, batch_size=256)
    same(found, expected)
