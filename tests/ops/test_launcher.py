"""What Triton compiled is launched again as Triton itself would have launched it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).parents[1] / "common" / "launches.py"


@pytest.fixture(scope="module")
def launches():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_launches_are_those_of_triton(launches):
    found = launches[""]
    assert found["differ"] == 0
    assert found["asked"] < found["launches"] / 3


@pytest.mark.parametrize(
    "fault",
    [
        "stale addresses", "stale numbers", "alignment forgotten",
        "alignment forgotten where launches are repeated",
    ],
)  # fmt: skip
def test_planted_faults_are_seen(launches, fault):
    assert launches[fault]["differ"] > 0
