"""Lets the tests import `benchmarks`, and runs Triton where there is no GPU."""

import os
import sys
from pathlib import Path

import torch

# Last on the path, so that an installed drs_fast wins.
sys.path.append(str(Path(__file__).parents[1]))

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
