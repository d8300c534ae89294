"""Compiles every Triton kernel for a GPU that is not there: `python tests/common/offline.py 90`.

Prints JSON: what the machine code of each case holds (registers, spills, instructions). With the
faults that the tests plant, what it holds with each of them: --fusion (a * b + c rounded once),
--no-barrier, --few-registers.
"""

import functools
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2]))  # last, so that an installed drs_fast wins

CASES = {
    "uniform": lambda t, f: t.uniform(f.rng, None, 5000, stream=1, draw=0, device=f.cpu),
    "words": lambda t, f: t.words(f.rng, None, 5000, 128, stream=0, draw=0, device=f.cpu),
    "normal": lambda t, f: t.normal(f.rng, None, 5000, 128, stream=0, draw=0, device=f.cpu),
    "accept": lambda t, f: t.accept(f.logit, f.rng, None, f.threshold),
    "accept per row": lambda t, f: t.accept(f.logit, f.rng, f.ids, f.log_m_per_row),
    "probability": lambda t, f: t.probability(f.logit, f.threshold),
    "weight": lambda t, f: t.weight(f.logit, f.threshold),
    "largest": lambda t, f: t.largest(f.logit),
    "quantile_gamma": lambda t, f: t.quantile_gamma(f.logit, 80.0, f.threshold),
    "quantile_gamma bfloat16": lambda t, f: t.quantile_gamma(f.logit.bfloat16(), 80.0, f.threshold),
    "quantile_gamma float64": lambda t, f: t.quantile_gamma(f.logit.double(), 80.0, f.threshold),
    "walk": lambda t, f: t.walk(f.groups, f.rng, None, None),
    "walk from a start, with ids": lambda t, f: t.walk(f.groups, f.rng, f.ids, f.start),
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
    "few rows 128": lambda t, f: f.few(128),
    "few rows image and latent": lambda t, f: f.few(3072, torch.uint8, 128),
    "few rows ring": lambda t, f: f.few(128, ring=True),
    "few rows ring of images": lambda t, f: f.few(3072, torch.uint8, 128, ring=True),
    "few rows two launches 128": lambda t, f: f.few(128, single_pass=False),
    "few rows latents 128": lambda t, f: f.few(0, d=128),
}
COUNTED = {
    "DFMA": r"\bDFMA",
    "SPILL": r"\b(?:STL|LDL)\b",
    "WIDE LOAD": r"\bLDG\S*\.128",
    "WIDE STORE": r"\bSTG\S*\.128",
}
INSTRUCTION = 16  # bytes


class Driver:
    """The properties of a GPU that the compiler asks for."""

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
    def __init__(self, backend, few_rows):
        from drs_fast import Rng
        from drs_fast.ops import checks

        self.backend, self.rng, self.cpu = backend, Rng(5, 2**33), torch.device("cpu")
        self.few_rows = few_rows
        self.logit, self.ids = torch.zeros(5000), torch.arange(5000)
        self.groups, self.start = self.logit.view(-1, 5), self.logit[:1000].double()
        self.z = torch.zeros(5000, 128)
        self.threshold = checks.threshold(self.logit, 1.0, 0.5, 1e-6)
        self.log_m_per_row = self.threshold._replace(log_m=self.logit.double())

    def per_row(self):
        from drs_fast.core.compacted import Compacted

        logit = self.logit.double()
        out = Compacted.empty(logit, ())
        both = self.threshold._replace(log_m=logit, gamma=logit)
        self.backend._compact(logit, (), self.rng, self.ids, both, out)

    def few(self, *arguments, **options):
        """The same in the tiles of few rows."""
        from drs_fast.core import compacted

        compacted.FEW_ROWS = self.few_rows
        self.compact(*arguments, **options)
        compacted.FEW_ROWS = 0

    def compact(self, width, dtype=torch.float32, *more, d=0, ring=False, single_pass=True):
        from drs_fast import ops
        from drs_fast.core.compacted import Compacted

        rows = tuple(torch.zeros(5000, w, dtype=dtype) for w in (width, *more) if w)
        out = Compacted.empty(self.logit, rows)
        if ring:
            out = ops.ring(self.logit, *rows, rng=self.rng, capacity=8192, log_m=1.0)
        z = torch.empty(5000, d) if d else None
        self.backend._compact(self.logit, rows, self.rng, None, self.threshold, out, z, single_pass)


def shown(tool, *flags, data):
    """The output of a tool that comes with Triton, for a file."""
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(data)
        file.flush()
        command = [program, *flags, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(cubin):
    """The bytes of an ELF file's text sections."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    return b"".join(
        cubin[offset : offset + length]
        for name, _, _, _, offset, length in heads
        if cubin.startswith(b".text", heads[names][4] + name)
    )


def disassembled(arch, cubins):
    """The machine code of each, from a single call of the disassembler, which is slow to start."""
    parts = [instructions(cubin) for cubin in cubins]
    listing = shown("nvdisasm", "--binary", f"SM{arch}", data=b"".join(parts))
    lines = re.findall(r"^ */\*[0-9a-f]+\*/ .*", listing, re.MULTILINE)
    assert len(lines) * INSTRUCTION == sum(map(len, parts))
    for part in parts:
        yield "\n".join(lines[: len(part) // INSTRUCTION])
        del lines[: len(part) // INSTRUCTION]


def inspect(kernel, sass):
    usage, symbols = (
        shown("cuobjdump", flag, data=kernel.asm["cubin"]) for flag in ("-res-usage", "-elf")
    )
    found = {name: int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    found |= {name: len(re.findall(p, sass)) for name, p in COUNTED.items()}
    found["FMA"] = len(re.findall(r"\b(?:fma|mad)\.rn\.f(?:32|64)", kernel.asm["ptx"]))
    found["BARRIER"] = len(re.findall(r"\b(?:gpu|ttg)\.barrier", kernel.asm["ttgir"]))
    return found | {"ROUTINES": sorted(set(re.findall(r"\$(__cuda_sm\w+)", symbols)))}


def nothing():
    pass


@contextmanager
def planted(fault):
    import triton

    from drs_fast.backends import triton as backend

    options, barrier = dict(backend.OPTIONS), triton.language.debug_barrier
    if fault == "--fusion":
        backend.OPTIONS["enable_fp_fusion"] = True
    if fault == "--few-registers":
        backend.OPTIONS["maxnreg"] = 24
    if fault == "--no-barrier":
        triton.language.debug_barrier = triton.jit(nothing)
    yield
    triton.language.debug_barrier = barrier
    backend.OPTIONS.clear()
    backend.OPTIONS.update(options)


def compiled(arch, wanted):
    import triton

    from drs_fast.backends import triton as backend
    from drs_fast.backends.triton.launcher import typed
    from drs_fast.core import compacted

    triton.runtime.driver.set_active(Driver(arch))
    found = {}
    few, compacted.FEW_ROWS = compacted.FEW_ROWS, 0

    def launch(case, name, device, n, *arguments, BLOCK, columns=1, **flags):
        kernel = backend._kernel(name).warmup(
            *map(typed, arguments), grid=(-(-n // BLOCK), columns), BLOCK=BLOCK, **flags,
            **backend.OPTIONS,
        )  # fmt: skip
        key = f"{case}: {name}"
        while key in found:
            key += "'"
        found[key] = kernel

    for case, call in CASES.items():
        if not wanted or case in wanted:
            backend._launch = functools.partial(launch, case)
            call(backend, Fixture(backend, few))
    compacted.FEW_ROWS = few
    listings = disassembled(arch, [kernel.asm["cubin"] for kernel in found.values()])
    return {
        name: inspect(*pair) for name, *pair in zip(found, found.values(), listings, strict=True)
    }


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    faults = [word for word in sys.argv[2:] if word.startswith("--")]
    cases = [word for word in sys.argv[2:] if not word.startswith("--")]
    made = {}
    for fault in faults or [""]:
        with planted(fault):
            made[fault] = compiled(int(sys.argv[1]), cases)
    json.dump(made if faults else made[""], sys.stdout)
