"""Builds the optional C++ backend; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

# A compiler that contracts a * b + c into one rounding would change the bits of every decision.
if sys.platform == "win32":
    flags = ["/O2", "/fp:precise"]
else:
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    flags += ["-Wno-maybe-uninitialized", "-Wno-psabi"]  # false alarms in GCC's own headers

setup(
    ext_modules=[
        Pybind11Extension(
            "drs_fast._C",
            ["csrc/module.cpp", "csrc/kernels.cpp", "csrc/random.cpp", "csrc/accept.cpp"],
            depends=[str(path) for path in Path("csrc").iterdir()],
            cxx_std=17,
            extra_compile_args=flags,
            extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": build_ext},
)
