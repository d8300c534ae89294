"""Machine code of the Triton kernels, compiled for absent GPUs (sm_80 and sm_90)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

COMMON = Path(__file__).parents[1] / "common"
ARCHITECTURES = (80, 90)
# The rare branches of a correctly rounded root, and divisions outside the decisions.
ROUTINES = {
    "normal: random.elements": "sqrt",
    "latents 128: compact.single_pass": "sqrt",
    "latents 128 two launches: compact.copy_tiles": "sqrt",
    "few rows latents 128: compact.single_pass": "sqrt",
    "langevin: groups.langevin": "sqrt",
    "probability: decision.probability": "div",
    "quantile_gamma: quantile.radix_select": "div",
    "quantile_gamma bfloat16: quantile.radix_select": "div",
    "quantile_gamma float64: quantile.radix_select": "div",
}
WIDE = ("32", "128", "128 bfloat16", "512", "image and latent", "ring")
WIDE_OF_FEW = ("128", "image and latent", "ring", "ring of images")
REGISTERS = json.loads((COMMON / "registers.json").read_text())


def start(arch, *words, cache=None):
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    if cache is not None:
        environment["TRITON_CACHE_DIR"] = str(cache)
    command = [sys.executable, str(COMMON / "offline.py"), str(arch), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


@pytest.fixture(scope="module")
def kernels():
    """What the machine code for both architectures contains; compiled in parallel."""
    processes = [start(arch) for arch in ARCHITECTURES]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return {arch: json.loads(text) for arch, text in zip(ARCHITECTURES, outputs, strict=True)}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_is_fused_and_nothing_spills(kernels, arch):
    for name, found in kernels[arch].items():
        assert found["FMA"] == 0, name
        assert found["STACK"] == found["LOCAL"] == found["SPILL"] == 0, name
        if ROUTINES.get(name) != "div":
            assert found["DFMA"] == 0, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_decision_calls_nothing(kernels, arch):
    for name, found in kernels[arch].items():
        assert all(ROUTINES.get(name, "?") in routine for routine in found["ROUTINES"]), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_rows_move_in_16_bytes(kernels, arch):
    names = [f"single pass {case}: compact.single_pass" for case in WIDE]
    names += [f"few rows {case}: compact.single_pass" for case in WIDE_OF_FEW]
    for name in [*names, "two launches 128: compact.copy_tiles"]:
        assert kernels[arch][name]["WIDE LOAD"] > 0, name
        assert kernels[arch][name]["WIDE STORE"] > 0, name
    assert kernels[arch]["latents 128: compact.single_pass"]["WIDE STORE"] > 0
    assert kernels[arch]["latents 128: compact.single_pass"]["WIDE LOAD"] == 0
    assert kernels[arch]["normal: random.elements"]["WIDE STORE"] > 0
    for name in ("quantile_gamma", "quantile_gamma bfloat16", "quantile_gamma float64"):
        assert kernels[arch][f"{name}: quantile.radix_select"]["WIDE LOAD"] > 0, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_indices_are_read_behind_a_barrier(kernels, arch):
    for name, found in kernels[arch].items():
        if "single_pass" in name or "decide_tiles" in name:
            assert found["BARRIER"] > 0, name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_registers_stay_within_the_record(kernels, arch):
    """The register counts in tests/common/registers.json for the installed Triton."""
    if triton.__version__ not in REGISTERS:
        pytest.skip(f"no record of Triton {triton.__version__}")
    record = REGISTERS[triton.__version__][str(arch)]
    assert record.keys() == kernels[arch].keys()
    for name, found in kernels[arch].items():
        assert found["REG"] <= record[name], name


FAULTS = {
    "--fusion": {"DFMA", "FMA"},
    "--few-registers": {"SPILL", "STACK"},
    "--no-barrier": {"no barrier"},
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A kernel with each fault, in a cache of its own because its keys ignore the barrier."""
    process = start(90, "single pass 128", *FAULTS, cache=tmp_path_factory.mktemp("cache"))
    return json.loads(process.communicate(timeout=200)[0])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_shows(faulty, fault):
    (found,) = faulty[fault].values()
    seen = {name for name in ("DFMA", "FMA", "SPILL", "STACK") if found[name]}
    assert seen | ({"no barrier"} if found["BARRIER"] == 0 else set()) == FAULTS[fault]
