"""Lets the tests import `benchmarks`, and runs Triton where there is no GPU."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# Last on the path, so that an installed drs_fast wins.
sys.path.append(str(Path(__file__).parents[1]))

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
    if find_spec("triton"):
        import_module("interpreted").hasten()

pytest.register_assert_rewrite("agreement", "linear_gaussian", "runs")


@pytest.fixture
def fresh_dispatch():
    """The backends are looked up anew, in the test and after it."""
    from drs_fast import ops

    ops.dispatch._dispatch.cache_clear()
    yield
    ops.dispatch._dispatch.cache_clear()


@pytest.fixture(autouse=True)
def same_weights():
    """Networks that a test builds have the same weights in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def in_no_hurry(monkeypatch):
    """What a command prints does not depend on how slow this machine is."""
    monkeypatch.setattr("drs_fast.core.slow.SECONDS", 3600.0)


@pytest.fixture(autouse=True)
def same_path():
    """What a test adds to the module search path is gone after it."""
    before = list(sys.path)
    yield
    sys.path[:] = before
