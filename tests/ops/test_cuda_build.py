"""The CUDA extension as nvcc builds it: import without a GPU, refusals, and machine code."""

import importlib.util
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch

from drs_fast import backend, ops
from drs_fast.backends import cuda

ROOT = Path(__file__).parents[2]
triton = pytest.importorskip("triton")
built = pytest.mark.skipif(
    importlib.util.find_spec("drs_fast._cuda") is None, reason="built only where nvcc is"
)


def dump(flag):
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file = importlib.util.find_spec("drs_fast._cuda").origin
    return subprocess.run([tool, flag, file], capture_output=True, text=True, check=True).stdout


def declared():
    """The kernels of the sources, as compilers mangle their names."""
    sources = (file.read_text() for file in (ROOT / "csrc" / "cuda").glob("*.cu"))
    found = re.findall(r"__global__ void __launch_bounds__\([^)]*\)\s+(\w+)\(", "".join(sources))
    return [f"{len(name)}{name}" for name in found]


@built
def test_it_serves_hopper_and_ampere_and_what_comes_after():
    assert set(re.findall(r"\.(sm_\d+)\.cubin", dump("-lelf"))) == {"sm_80", "sm_90"}
    assert set(re.findall(r"\.(sm_\d+)\.ptx", dump("-lptx"))) == {"sm_90"}


@built
def test_decisions_fuse_nothing_and_nothing_spills():
    kernels = re.split(r"\n\s*Function : ", dump("-sass"))[1:]
    divided = "probabilities", "radix_select"  # a division is made of fused steps
    decided = [sass for sass in kernels if not any(n in sass.split("\n")[0] for n in divided)]
    names = Counter(sass.split("\n")[0].strip() for sass in kernels)
    assert set(names.values()) == {2}  # for Ampere and for Hopper
    assert [name for name in declared() if not any(name in mangled for mangled in names)] == []
    for sass in kernels:
        assert not re.search(r"\b(?:STL|LDL)\b", sass), sass.split("\n")[0]
    for sass in decided:
        assert not re.search(r"\bDFMA", sass), sass.split("\n")[0]
    passes = [sass for sass in kernels if "single_pass" in sass.split("\n")[0]]
    assert all(re.search(r"\bLDG\S*\.128", sass) for sass in passes)
    assert all(re.search(r"\bSTG\S*\.128", sass) for sass in passes)
    for sass in kernels:
        if "radix_select" in sass.split("\n")[0]:
            assert len(re.findall(r"\bATOMS\.POPC\.INC", sass)) == 16  # a warp's equal digits
            assert len(re.findall(r"\b(?:RED|ATOMG)\.E\.ADD\.64", sass)) == 8  # without an answer
            assert len(re.findall(r"\bLDG\S*\.128", sass)) in (4, 8, 16)
    used = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", dump("-res-usage"))
    assert len(used) >= len(kernels)
    assert all(int(stack) == int(local) == 0 for _, stack, local in used)
    assert max(int(registers) for registers, _, _ in used) <= 80


@built
@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so():
    reason = cuda.refuses(torch.device("cuda"))
    assert "finds no GPU" in reason
    assert "driver" in reason


def test_without_the_extension_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(cuda, "_cuda", None)
    monkeypatch.setattr(cuda, "_reason", "CUDA extension not built (no file); reinstall")
    assert "not built" in cuda.refuses(torch.device("cuda"))


def test_it_refuses_other_devices():
    assert cuda.refuses(torch.device("cpu")) == "needs CUDA tensors, not those on cpu"
    with backend("cuda"), pytest.raises(RuntimeError, match="needs CUDA tensors"):
        ops.largest(torch.zeros(3))
