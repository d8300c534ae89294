"""Builds the optional C++ and CUDA backends; everything else is in pyproject.toml."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# A compiler that contracts a * b + c into one rounding would change the bits of every decision.
if sys.platform == "win32":
    flags = ["/std:c++17", "/EHsc", "/O2", "/fp:precise"]
else:
    flags = [
        "-std=c++17",
        "-fvisibility=hidden",
        "-g0",
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
    ]
    flags += ["-Wno-maybe-uninitialized", "-Wno-psabi"]  # false alarms in GCC's own headers

SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
NVCC_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "--threads=0", "-Icsrc/cuda"]
NVCC_FLAGS += ["-gencode=arch=compute_80,code=sm_80"]
NVCC_FLAGS += ["-gencode=arch=compute_90,code=[sm_90,compute_90]"]  # PTX serves later GPUs


def bindings():
    """The folder of pybind11's headers: its own, or those that come with PyTorch."""
    found = importlib.util.find_spec("pybind11") or importlib.util.find_spec("torch")
    return [str(Path(found.origin).parent / "include")] if found else []


class Build(build_ext):
    """Compiles .cu files with nvcc, all others as usual; --sanitize is for tests."""

    user_options: ClassVar = [
        *build_ext.user_options,
        (
            "sanitize",
            None,
            "build only C++, to stop at wrong memory accesses and undefined behaviour",
        ),
    ]
    boolean_options: ClassVar = [*build_ext.boolean_options, "sanitize"]

    def initialize_options(self):
        super().initialize_options()
        self.sanitize = False

    def finalize_options(self):
        super().finalize_options()
        if self.sanitize:
            self.extensions = [cpu] = self.extensions[:1]
            cpu.optional = False
            cpu.extra_compile_args += [*SANITIZED, "-g", "-O1"]
            cpu.extra_link_args += SANITIZED

    def build_extension(self, extension):
        kernels = [source for source in extension.sources if source.endswith(".cu")]
        extension.sources = [source for source in extension.sources if source not in kernels]
        extension.extra_objects = [self.compiled(source) for source in kernels]
        super().build_extension(extension)

    def compiled(self, source):
        made = Path(self.build_temp, source).with_suffix(".obj" if os.name == "nt" else ".o")
        made.parent.mkdir(parents=True, exist_ok=True)
        position = [] if os.name == "nt" else ["-Xcompiler=-fPIC"]
        command = [NVCC, *NVCC_FLAGS, *position, "-c", source, "-o", str(made)]
        if subprocess.run(command, check=False).returncode:
            raise CompileError(f"nvcc could not compile {source}")
        return str(made)


def cuda_library_folders():
    """The folders nvcc links from; none without nvcc."""
    if NVCC is None:
        return []
    plan = subprocess.run(
        [NVCC, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    )
    folders = re.findall(r'(?:-L|/LIBPATH:)([^"\n]+)"', plan.stderr)
    return [folder for folder in folders if list(Path(folder).glob("*cudart_static.*"))]


def sources(folder, *patterns):
    return sorted(str(path) for pattern in patterns for path in Path(folder).glob(pattern))


def headers(folder):
    """What is compiled again where it changes; a source distribution has them for that."""
    return [str(path) for part in ("csrc/shared", folder) for path in Path(part).glob("*.*")]


extensions = [
    Extension(
        "drs_fast._C",
        sources("csrc", "*.cpp"),
        depends=headers("csrc"),
        include_dirs=bindings(),
        language="c++",
        extra_compile_args=flags,
        extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
        optional=True,
    )
]
if cuda_library_folders():
    extensions.append(
        Extension(
            "drs_fast._cuda",
            sources("csrc/cuda", "*.cpp", "*.cu"),
            depends=headers("csrc/cuda"),
            include_dirs=bindings(),
            language="c++",
            extra_compile_args=flags,
            library_dirs=cuda_library_folders(),
            libraries=["cudart_static"] + ([] if os.name == "nt" else ["rt", "dl", "pthread"]),
            optional=True,
        )
    )

setup(ext_modules=extensions, cmdclass={"build_ext": Build})
