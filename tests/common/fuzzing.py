"""Arbitrary inputs, how many of them are tried, and what a program may do with them."""

import contextlib
import os
import resource
import sys

import matplotlib.pyplot  # noqa: F401, which makes files of its own
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drs_fast as drs
from drs_fast import store

EXPLAINED = (ValueError, store.Corrupt, drs.BadLogits, drs.Starvation, drs.Stale, drs.OutOfTime)
MORE_BYTES = 2**29  # that a test may take beyond what the process has had before
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink")

SIZES = st.one_of(
    st.sampled_from((0, 1, -1, 2**31, 2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64, 10**400)),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 400),
)
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(("\0", "\ud800", "../up", "/abs", "~", "a/b", "x" * 300, "\n", "é", " ", ".")),
)
PLAIN = st.one_of(st.none(), st.booleans(), SIZES, st.floats(), TEXTS)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def amounts(few, many):
    """How many inputs a test tries: a few in every run, the same ones; many in a slow one."""
    slow = pytest.param(many, marks=(pytest.mark.slow, pytest.mark.timeout(3600)), id="many")
    return pytest.mark.parametrize("amount", [pytest.param(few, id="few"), slow])


def tried(amount, strategy, check):
    """Calls check with so many inputs; hypothesis shrinks the first that fails."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(
        max_examples=amount,
        derandomize=amount < 1000,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(value):
        check(value)

    each()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < MORE_BYTES


def ended(call, *given, errors=EXPLAINED):
    """What it returns, or the error that explains why not; any other error passes."""
    try:
        return call(*given)
    except (*errors, OSError) as found:
        error = found
    assert not isinstance(error, OSError) or error.filename is not None, repr(error)
    assert str(error).strip()
    assert "Traceback" not in str(error)
    return error


class Changed:
    """The paths that Python code opens for writing, makes, renames or removes, while it is on."""

    def __init__(self):
        self.paths, self.on = [], False
        sys.addaudithook(self._note)  # for ever, so there is one for all tests

    def _note(self, event, given):
        if not self.on:
            return
        if event == "open":
            path, _, flags = given
            if not isinstance(path, int) and (flags or 0) & WRITES:
                self.paths.append(path)
        elif event in CHANGES:
            self.paths += [path for path in given if isinstance(path, (str, bytes, os.PathLike))]

    @contextlib.contextmanager
    def within(self, directory):
        """Fails if the block changes anything outside the directory."""
        self.paths, self.on = [], True
        try:
            yield
        finally:
            self.on = False
        root = os.path.realpath(directory)
        for path in self.paths:
            place = os.path.realpath(os.fsdecode(path))
            assert place == root or place.startswith(root + os.sep) or place == os.devnull, place


CHANGED = Changed()
