"""Compiles every Triton kernel for a GPU that is not there: `python tests/offline.py 90`.

Prints JSON: what the machine code of each case holds (registers, spills, instructions). The faults
that the tests plant: --fusion (a * b + c rounded once), --no-barrier, --few-registers.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))  # last, so that an installed drs_fast wins

CASES = {
    "uniform": lambda t, f: t.uniform(f.rng, None, 5000, stream=1, draw=0, device=f.cpu),
    "words": lambda t, f: t.words(f.rng, None, 5000, 128, stream=0, draw=0, device=f.cpu),
    "normal": lambda t, f: t.normal(f.rng, None, 5000, 128, stream=0, draw=0, device=f.cpu),
    "accept": lambda t, f: t.accept(f.logit, f.rng, None, *f.threshold),
    "accept per row": lambda t, f: t.accept(f.logit, f.rng, f.ids, f.logit.double(), *f.rest),
    "probability": lambda t, f: t.probability(f.logit, *f.threshold),
    "largest": lambda t, f: t.largest(f.logit),
    "order_statistic": lambda t, f: t.order_statistic(f.logit, 80.0),
    "order_statistic float64": lambda t, f: t.order_statistic(f.logit.double(), 80.0),
    "chain": lambda t, f: t.chain(f.groups, f.rng, None, None),
    "chain of a start, with ids": lambda t, f: t.chain(f.groups, f.rng, f.ids, f.start),
    "select": lambda t, f: t.select(f.groups, f.rng, None, 3, True),
    "select without replacement": lambda t, f: t.select(f.groups, f.rng, None, 3, False),
    "langevin": lambda t, f: t.langevin(f.z, f.z, f.rng, None, 7, 0.005, 0.1),
    "single pass 2": lambda t, f: f.compact(2),
    "single pass 32": lambda t, f: f.compact(32),
    "single pass 128": lambda t, f: f.compact(128),
    "single pass 128 bfloat16": lambda t, f: f.compact(128, torch.bfloat16),
    "single pass 512": lambda t, f: f.compact(512),
    "single pass image and latent": lambda t, f: f.compact(3072, torch.uint8, 128),
    "single pass ring": lambda t, f: f.compact(128, ring=True),
    "single pass float64 with ids, per row": lambda t, f: f.per_row(),
    "two launches 128": lambda t, f: f.compact(128, single_pass=False),
    "two launches ring": lambda t, f: f.compact(128, ring=True, single_pass=False),
    "latents 128": lambda t, f: f.compact(0, d=128),
    "latents 128 two launches": lambda t, f: f.compact(0, d=128, single_pass=False),
}
COUNTED = {
    "DFMA": r"\bDFMA",
    "SPILL": r"\b(?:STL|LDL)\b",
    "WIDE LOAD": r"\bLDG\S*\.128",
    "WIDE STORE": r"\bSTG\S*\.128",
}


class Driver:
    """As much of a GPU as the compiler asks for."""

    def __init__(self, arch):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Fixture:
    def __init__(self, backend):
        from drs_fast import Rng, checks

        self.backend, self.rng, self.cpu = backend, Rng(5, 2**33), torch.device("cpu")
        self.logit, self.ids = torch.zeros(5000), torch.arange(5000)
        self.groups, self.start = self.logit.view(-1, 5), self.logit[:1000].double()
        self.z = torch.zeros(5000, 128)
        self.threshold = checks.threshold(self.logit, 1.0, 0.5, 1e-6)
        self.rest = self.threshold[1:]

    def per_row(self):
        from drs_fast.compacted import Compacted

        logit = self.logit.double()
        out = Compacted.empty(logit, ())
        self.backend._compact(logit, (), self.rng, self.ids, (logit, logit, self.rest[1]), out)

    def compact(self, width, dtype=torch.float32, *more, d=0, ring=False, single_pass=True):
        from drs_fast import ops
        from drs_fast.compacted import Compacted

        rows = tuple(torch.zeros(5000, w, dtype=dtype) for w in (width, *more) if w)
        out = Compacted.empty(self.logit, rows)
        if ring:
            out = ops.ring(self.logit, *rows, rng=self.rng, capacity=8192, log_m=1.0)
        z = torch.empty(5000, d) if d else None
        self.backend._compact(self.logit, rows, self.rng, None, self.threshold, out, z, single_pass)


def inspect(kernel):
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, sass, symbols = (
            subprocess.run(
                [tool, flag, file.name], capture_output=True, text=True, check=True
            ).stdout
            for flag in ("-res-usage", "-sass", "-elf")
        )
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    found |= {name: len(re.findall(p, sass)) for name, p in COUNTED.items()}
    found["FMA"] = len(re.findall(r"\b(?:fma|mad)\.rn\.f(?:32|64)", kernel.asm["ptx"]))
    found["BARRIER"] = len(re.findall(r"\b(?:gpu|ttg)\.barrier", kernel.asm["ttgir"]))
    return found | {"ROUTINES": sorted(set(re.findall(r"\$(__cuda_sm\w+)", symbols)))}


def nothing():
    pass


def compiled(arch, wanted, faults=()):
    import triton

    from drs_fast.backends import triton as backend

    if "--fusion" in faults:
        backend.OPTIONS["enable_fp_fusion"] = True
    if "--few-registers" in faults:
        backend.OPTIONS["maxnreg"] = 24
    if "--no-barrier" in faults:
        triton.language.debug_barrier = triton.jit(nothing)

    triton.runtime.driver.set_active(Driver(arch))
    found = {}

    def launch(case, name, device, n, *arguments, BLOCK, columns=1, **flags):
        kernel = backend._kernel(name).warmup(
            *arguments, grid=(-(-n // BLOCK), columns), BLOCK=BLOCK, **flags, **backend.OPTIONS
        )
        key = f"{case}: {name}"
        while key in found:
            key += "'"
        found[key] = inspect(kernel)

    for case, call in CASES.items():
        if not wanted or case in wanted:
            backend._launch = functools.partial(launch, case)
            call(backend, Fixture(backend))
    return {"triton": triton.__version__, "kernels": found}


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    faults = [word for word in sys.argv[2:] if word.startswith("--")]
    cases = [word for word in sys.argv[2:] if not word.startswith("--")]
    json.dump(compiled(int(sys.argv[1]), cases, faults), sys.stdout)
