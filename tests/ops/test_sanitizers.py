"""The tests of the C++ ops under AddressSanitizer and UndefinedBehaviorSanitizer.

They call every op with no rows, one row, strided tensors and copies of many megabytes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drs_fast.backends import cpu

if not sys.platform.startswith("linux"):
    pytest.skip("sanitizers are preloaded as on Linux", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
FILES = ("test_ops.py", "test_decision.py", "test_groups.py", "test_instruction_sets.py")
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")

# The library is in place before drs_fast looks for its own.
RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("drs_fast._C", sys.argv[1])
library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)
sys.modules["drs_fast._C"] = library
library.use_instruction_set(sys.argv[2])
import pytest
sys.exit(pytest.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def preloaded():
    """The library that a Python built without sanitizers must load first."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ here")
    asked = [["g++", f"-print-file-name={name}"] for name in LIBRARIES]
    paths = [subprocess.check_output(command, text=True).strip() for command in asked]
    missing = [path for path in paths if not Path(path).is_absolute()]
    if missing:
        pytest.skip(f"g++ has no {missing[0]}")
    return ":".join(paths)


@pytest.fixture(scope="module")
def library(preloaded, tmp_path_factory):
    made = tmp_path_factory.mktemp("sanitized")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--sanitize"]
    built = subprocess.run(
        [*command, f"--build-lib={made}", f"--build-temp={made / 'objects'}"],
        cwd=HERE.parents[1],
        env={**os.environ, "CC": "gcc", "CXX": "g++"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (file,) = (made / "drs_fast").glob("_C.*.so")
    return file


@pytest.mark.parametrize("instruction_set", cpu._C.instruction_sets() if cpu._C else [])
def test_the_ops_do_nothing_undefined(preloaded, library, instruction_set):
    # Python's own memory is never given back; test_only_accepted_rows_are_read needs its signal.
    options = "detect_leaks=0:handle_segv=0"
    words = ["-q", "-s", "-n0", "-pno:cacheprovider", "-k", "not triton and not million"]
    run = subprocess.run(
        [sys.executable, "-c", RUN, str(library), instruction_set, *words, *FILES],
        cwd=HERE,
        env={**os.environ, "LD_PRELOAD": preloaded, "ASAN_OPTIONS": options},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, (run.stdout[-2000:], run.stderr[-4000:])
    assert " passed" in run.stdout
