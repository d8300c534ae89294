"""Lets the tests import `benchmarks`; last on the path, so that an installed drs_fast wins."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
