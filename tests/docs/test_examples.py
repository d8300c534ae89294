"""The examples run as they stand, in a directory of their own."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 65  # lines that can be read in two minutes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs an example once and returns its output. All share a directory of checkpoints."""
    folder, printed = tmp_path_factory.mktemp("examples"), {}

    def run(name):
        if name not in printed:
            done = subprocess.run(
                [sys.executable, EXAMPLES / f"{name}.py"],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert not done.returncode, done.stderr
            printed[name] = done.stdout
        return printed[name], folder / "drs-fast-examples" / name

    return run


def test_own_gan(made):
    said, folder = made("own_gan")
    assert "5,000 samples (5000, 1, 8, 8)" in said
    assert "calibration_error" in said  # the doctor had real samples
    assert (folder / "run-report" / "samples.png").is_file()


def test_class_conditional(made):
    said, _ = made("class_conditional")
    rows = {line[:20].strip(): line[20:].split() for line in said.splitlines() if "%" in line}
    assert rows["within"][:10] == ["100"] * 10
    *others, nines = map(int, rows["half of them nines"][:10])
    assert set(others) <= {55, 56}
    assert nines == 1000 - sum(others)
    assert rows["only threes"][:10] == ["0"] * 3 + ["1000"] + ["0"] * 6
    for name in ("G as it is", "joint", "within"):
        assert float(rows[name][10].strip("%")) > 50  # the labels are those of D: chance is 10 %


def test_data_loader(made):
    said, folder = made("data_loader")
    assert said.count("real digits right") == 1
    stored = np.load(folder / "samples.npz")
    assert stored["x"].shape == (3000, 1, 8, 8)
    assert stored["x"].dtype == np.uint8
    assert len(list((folder / "images").glob("[0-9]/*.png"))) == 3000
    assert len(list((folder / "images" / "3").iterdir())) == (stored["y"] == 3).sum() == 300


@pytest.mark.skipif(find_spec("ctgan") is None, reason="needs ctgan")
def test_tables(made):
    said, folder = made("tables")
    found = re.findall(r"^(\w+).* correlation +(\S+), AUC (\S+)$", said, re.MULTILINE)
    real, before, after = ((float(number), float(auc)) for _, number, auc in found)
    assert abs(after[0] - real[0]) <= 0.5 * abs(before[0] - real[0])
    assert after[1] <= before[1] - 0.03
    assert "dtypes equal: True" in said
    assert len((folder / "people.csv").read_text().splitlines()) == 1_001


@pytest.mark.skipif(find_spec("torchmetrics") is None, reason="needs torchmetrics")
def test_fid(made):
    said, _ = made("fid")
    real, raw, accepted = (float(line[6:]) for line in said.splitlines()[-3:])
    assert 0.0 < real < min(raw, accepted)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_they_are_short(file):
    assert len(file.read_text().splitlines()) <= LONGEST + 20 * (file.stem == "networks")
