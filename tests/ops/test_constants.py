"""Python, Triton, C++ and CUDA share the same constants: the header agrees with Python."""

import importlib
import math
import pkgutil
import re
import sys
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from drs_fast import Rng, ops
from drs_fast.backends import arithmetic, cpu, cuda, extensions
from drs_fast.core import compacted, rows
from drs_fast.ops import dispatch

CSRC = Path(__file__).parents[2] / "csrc"
HEADER = CSRC / "shared" / "constants.h"
WRITTEN = HEADER.read_text()
PACKAGE = Path(arithmetic.__file__).parents[1]
STREAMS = ("LATENT", "ACCEPT", "SELECT", "CHAIN", "NOISE")
PYTHON = {name: value for name, value in vars(arithmetic).items() if name.isupper()}
PYTHON |= {name: value for name, value in vars(compacted).items() if name.isupper()}
PYTHON |= {name: getattr(rows, name) for name in STREAMS}
PYTHON["TILE_ROWS"] = PYTHON.pop("TILE")
PYTHON["ABI"] = extensions.ABI
# Numbers that Python alone needs.
ALONE = {"MASK", "NUMERATOR", "DENOMINATOR", "FEW_ROWS", "BLOCKS", "PART_BYTES"}


def single(value):
    """The float32 nearest to a fraction, rounded once, as a float."""
    near = np.float32(float(value))
    around = (near, *(np.nextafter(near, np.float32(to)) for to in (-np.inf, np.inf)))
    return float(min(around, key=lambda one: abs(Fraction(float(one)) - value)))


def literal(text):
    """The value a compiler gives to a literal, or to the quotient of two."""
    text = text.strip()
    if re.fullmatch(r"(0x[0-9A-Fa-f]+|\d+)u?", text):
        return int(text.rstrip("u"), 0)
    if "/" in text:
        above, below = map(literal, text.split("/"))
        return above / below
    if "0x" in text:
        return float.fromhex(text.rstrip("f"))
    return single(Fraction(text[:-1])) if text.endswith("f") else float(text)


def constants(source):
    """A header's constants: name -> (type, values), with one value for a scalar."""
    lines = re.sub(r"\\\n\s*", "", source).splitlines()
    found = {}
    for line in lines:
        if number := re.fullmatch(r"constexpr (\w+) (\w+) = (.+);", line):
            found[number[2]] = number[1], (literal(number[3]),)
        elif listed := re.fullmatch(r"#define DRS_(\w+) (.+)", line):
            kind = "float" if listed[2].endswith("f") else "double"
            found[listed[1]] = kind, tuple(literal(part) for part in listed[2].split(","))
        else:
            assert not re.match("constexpr|#define", line), line
    return found


def values(kind, value):
    """Python's numbers, rounded to this type."""
    listed = value if isinstance(value, tuple) else (value,)
    return tuple(single(Fraction(repr(one))) for one in listed) if kind == "float" else listed


def differing(source, python):
    """Names that are in only one of the two, or whose values differ."""
    header = constants(source)
    return (header.keys() ^ python.keys()) | {
        name
        for name, (kind, value) in header.items()
        if name in python and value != values(kind, python[name])
    }


def test_the_header_has_the_numbers_of_python():
    assert differing(WRITTEN, PYTHON) == ALONE
    assert all(
        isinstance(one, int) == ("int" in kind)
        for kind, listed in constants(WRITTEN).values()
        for one in listed
    )


def neighbours(kind, value):
    """Copies of a number or list, each with one entry moved to the next value."""
    listed = values(kind, value)
    for at, one in enumerate(listed):
        if kind == "float":
            after = float(np.nextafter(np.float32(one), np.float32(np.inf)))
        else:
            after = one + 1 if isinstance(one, int) else math.nextafter(one, math.inf)
        yield (*listed[:at], after, *listed[at + 1 :])


@pytest.mark.parametrize("name", constants(WRITTEN))
def test_the_next_number_is_another(name):
    kind = constants(WRITTEN)[name][0]
    for planted in neighbours(kind, PYTHON[name]):
        assert differing(WRITTEN, PYTHON | {name: planted}) == {*ALONE, name}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("RING_ROW", "RING_ROW = 2;", "RING_ROW = 1;"),
        ("TWO_THIRDS_BITS", "0x3F2AAAAB", "0x3F2AAAAA"),
        ("LN_2_LOW", "5.497923018708371e-14", "5.497923018708372e-14"),
        ("LOG", "0.12891679f", "0.12891681f"),
        ("FACTORIALS", "5040.0", "5041.0"),
        ("CHAIN", "constexpr uint32_t CHAIN = 3;\n", ""),
    ],
)
def test_another_number_in_the_header_shows(name, right, wrong):
    assert WRITTEN.count(right) == 1
    assert differing(WRITTEN.replace(right, wrong), PYTHON) == {*ALONE, name}


def test_triton_has_the_numbers_of_python():
    triton = pytest.importorskip("triton")
    package = importlib.import_module("drs_fast.backends.triton")
    kept = set()
    for file in pkgutil.iter_modules(package.__path__):
        if file.name == "quantile":  # whose workspace has words of its own
            continue
        for name, value in vars(importlib.import_module(f"{package.__name__}.{file.name}")).items():
            if isinstance(value, triton.language.constexpr) and name in PYTHON:
                assert value.value == PYTHON[name], (file.name, name)
                kept.add(name)
    philox = {name for name in PYTHON if name.startswith("PHILOX_")}  # which Triton brings along
    assert PYTHON.keys() - kept == ALONE | philox | {
        "ABI", "RING_LOG_M", "RING_WORDS", "TILE_ROWS",
    }  # fmt: skip


def telling(source):
    """Literals too long to appear in a source by chance."""
    bare = re.sub(r"//.*|#.*", "", source)
    found = re.findall(r"0x[0-9A-Fa-f]{6,}|\d\.\d{5,}(?:e-?\d+)?|\d{10,}", bare)
    return {text.lower() for text in found}


def test_no_source_but_the_header_and_arithmetic_has_them():
    shared = telling(WRITTEN.replace("#define", ""))
    assert len(shared) > 25
    kinds = {".cpp", ".hpp", ".inl", ".cu", ".cuh"}
    sources = [file for file in CSRC.rglob("*") if file.suffix in kinds]
    sources += [file for file in PACKAGE.rglob("*.py") if file.name != "arithmetic.py"]
    sources.append(PACKAGE / "backends" / "triton" / "arithmetic.py")
    assert len(sources) > 100
    again = {str(file): telling(file.read_text()) & shared for file in sources}
    assert {file: found for file, found in again.items() if found} == {}
    assert telling("k0 += 0x9E3779B9u; x *= 1.4426950408889634;") <= shared


def test_kinds_of_logits_have_the_order_of_the_kernels():
    source = (CSRC / "cuda" / "gpu.hpp").read_text()
    (kinds,) = re.findall(r"enum class Kind : int \{ (.*?) \};", source)
    assert kinds.split(", ") == [str(kind).removeprefix("torch.").upper() for kind in cuda.KINDS]


@pytest.mark.parametrize("module", [cpu._C, cuda._cuda])
def test_what_is_compiled_has_the_version_of_python(module):
    if module is None:
        pytest.skip("not built")
    assert module.ABI == extensions.ABI


@pytest.mark.parametrize("name", ["_C", "_cuda"])
@pytest.mark.parametrize("version", [{}, {"ABI": extensions.ABI + 1}])
def test_an_extension_of_other_sources_is_refused(name, version, monkeypatch):
    monkeypatch.setitem(sys.modules, f"drs_fast.{name}", types.SimpleNamespace(**version))
    assert extensions.loaded(name, "extension", "nvcc") == (None, extensions.STALE)
    monkeypatch.setitem(sys.modules, f"drs_fast.{name}", types.SimpleNamespace(ABI=extensions.ABI))
    assert extensions.loaded(name, "extension", "nvcc")[1] is None


@pytest.mark.parametrize(("module", "name"), [(cpu._C, "_C"), (cuda._cuda, "_cuda")])
def test_an_extension_that_lacks_a_function_says_why(module, name):
    if module is None:
        pytest.skip("not built")
    said = rf"drs_fast.{name} has no new_op: {extensions.STALE}.*ABI"
    with pytest.raises(AttributeError, match=said):
        module.new_op  # noqa: B018
    assert not hasattr(module, "new_op")


def test_a_refused_extension_is_told_once_and_the_reference_goes_on(monkeypatch):
    given = torch.zeros(3), Rng(0)
    expected = ops.accept(*given, log_m=1.0)
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_reason", extensions.STALE)
    dispatch._dispatch.cache_clear()
    dispatch._warn.cache_clear()
    try:
        assert ops.available("cpu")["cpu"] == extensions.STALE
        with pytest.warns(UserWarning, match="the cpu backend is not used: built from older"):
            found = ops.accept(*given, log_m=1.0)
        assert torch.equal(found, expected)
        ops.probability(torch.zeros(3), log_m=1.0)  # where a second warning would be an error
    finally:
        dispatch._dispatch.cache_clear()
