"""What is launched with Triton's own launcher and with ours, on a driver that launches nothing.

Prints JSON: how many launches there were, how many that Triton was not asked for, and how many
differ from Triton's; for the code as it is and with each planted fault.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import triton
from triton.compiler import CompiledKernel

root = Path(__file__).parents[2]
sys.path[:0] = [str(root), str(root / "tests" / "common")]

from offline import Driver  # noqa: E402

from drs_fast import Compacted, Rng, backend, ops  # noqa: E402
from drs_fast.backends import triton as kernels  # noqa: E402
from drs_fast.backends.triton import launcher, repeated  # noqa: E402

BATCHES = [(5, 3), (5, 3), (16, 3), (1, 3), (256, 16), (256, 16), (2000, 16), (5, 1)]  # n, width
DTYPES = (torch.float32, torch.float64, torch.uint8, torch.bfloat16)
THRESHOLDS = [(0.5, 0.0), (-1.0, 0.25), (0.5, torch.zeros((), dtype=torch.float64))]

seen, driver = [], Driver(90)


class Stub(CompiledKernel):
    """What Triton would have compiled."""

    module = function = packed_metadata = None

    def __init__(self, src, options):
        self.src, self.name = src, src.fn.__name__
        self.of = repr(
            (self.name, src.signature, src.attrs, src.constants, sorted(options.items()))
        )

    def _init_handles(self):
        pass

    def launch_metadata(self, *arguments):
        return None

    @property
    def run(self):
        def record(x, y, z, stream, _function, _packed, _metadata, _enter, _exit, *arguments):
            kinds = list(self.src.signature.values())
            given = [a for a, kind in zip(arguments, kinds, strict=True) if kind != "constexpr"]
            seen.append([self.of, (x, y, z), stream, plain(given)])

        return record


def plain(given):
    """Addresses in place of tensors."""
    if isinstance(given, (tuple, list)):
        return [plain(each) for each in given]
    return given if given is None or isinstance(given, (int, float)) else given.data_ptr()


def at(n, width, dtype, offset):
    """(n, width) of a dtype, so many numbers after an aligned address."""
    return torch.zeros(n * width + offset, dtype=dtype)[offset:].view(n, width)


def calls():
    """Calls whose arguments differ from those before in one thing or another."""
    held = []  # so that no address is used twice
    for n, width in BATCHES:
        for offset in (0, 1, 4):
            for i, dtype in enumerate(DTYPES):
                logit = at(n, 1, (torch.float32, torch.float16)[i == 3], offset).view(n)
                z = at(n, width, dtype, offset)
                out, moved = Compacted.empty(logit, (z,)), Compacted.empty(logit, (z,))
                ring, other = (
                    ops.ring(logit, z, rng=Rng(3), capacity=4096, log_m=0.5) for _ in range(2)
                )
                append = ops.appending(ring)
                held += logit, z, out, moved, ring, other
                take = partial(ops.accept_compact, logit, z, out=out)
                for row, (log_m, gamma) in enumerate(THRESHOLDS):
                    rule = {"log_m": log_m, "gamma": gamma}
                    yield partial(take, rng=Rng(1, row), **rule)
                    yield partial(ops.accept_compact, logit, rng=Rng(2, row), **rule)
                    yield partial(ops.accept, logit, Rng(7, row), **rule)
                    yield partial(append, logit, z)
                ids, shifted = torch.arange(n), at(n, width, dtype, offset + 1)
                held += ids, shifted
                yield partial(take, rng=Rng(1), log_m=0.5, ids=ids)
                yield partial(append, logit, shifted)
                out.ids.set_(moved.ids)
                out.rows[0].set_(moved.rows[0])
                yield partial(take, rng=Rng(1), log_m=0.5)
                ring.rows[0].set_(other.rows[0])
                yield partial(append, logit, z)
                kernels.OPTIONS["num_warps"] = 4
                yield partial(take, rng=Rng(1), log_m=0.5)
                kernels.OPTIONS["num_warps"] = 8


def compiled(src, target=None, options=None, _env_vars=None):
    return Stub(src, options)


def compare():
    asked, differ, launches = 0, 0, 0
    for number, call in enumerate(calls()):
        driver.get_current_stream = lambda device, number=number: number % 3
        before = len(launcher._compiled)
        ours = launched_by(call)
        asked += len(launcher._compiled) > before
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(launcher, "_compiled", {})
            patch.setattr(repeated.Launches, "repeat", lambda *arguments: False)
            patch.setattr(kernels._launches.__class__, "repeat", lambda *arguments: False)
            differ += ours != launched_by(call)
        launches += len(ours)
    return {"launches": launches, "asked": asked, "differ": differ}


def launched_by(call):
    """What a call launches, without the addresses of what it makes anew."""
    seen.clear()
    made = call()
    anew = set()
    if isinstance(made, torch.Tensor):
        anew = {made.data_ptr()}
    elif isinstance(made, Compacted) and "out" not in call.keywords:
        anew = {to.data_ptr() for to in made.tensors()}
    return [(*about, without(anew, given)) for *about, given in seen]


def without(addresses, given):
    if isinstance(given, list):
        return [without(addresses, each) for each in given]
    return "anew" if given in addresses else given


class Careless(repeated.Launches):
    """Compares what is read, and not where it goes."""

    def repeat(self, key, *arguments):
        return super().repeat(key[:6], *arguments)

    def keep(self, key, launched):
        super().keep(key[:6], launched)


class Stale(repeated.Launches):
    """Keeps the numbers of the first launch."""

    def repeat(self, key, logit, rows, numbers=()):
        return super().repeat(key, logit, rows)


def fault(name):
    """Plants it; "": none."""
    if name == "alignment forgotten":
        launcher.ALIGNED = 1
    if "alignment forgotten" in name:
        repeated.ALIGNED = 1
    kernels.Launches = {"stale addresses": Careless, "stale numbers": Stale}.get(
        name, repeated.Launches
    )
    kernels._launches = kernels.Launches()
    launcher._compiled.clear()


FAULTS = (
    "", "stale addresses", "stale numbers", "alignment forgotten where launches are repeated",
    "alignment forgotten",
)  # fmt: skip


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    triton.runtime.driver.set_active(driver)
    triton.compiler.compile = compiled
    kernels.refuses = lambda device: None
    made = {}
    with backend("triton"):
        for name in FAULTS:
            fault(name)
            made[name] = compare()
    json.dump(made, sys.stdout)
