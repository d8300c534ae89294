"""Facts stated in several places agree, and what is named exists."""

import re
import tomllib
from pathlib import Path

import drs_fast

ROOT = Path(__file__).parents[2]
PINNED = dict(
    re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
)


def test_the_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert project["version"] == drs_fast.__version__ == cited == newest[1]


def test_the_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"\nlicense: {project['license']}\n" in (ROOT / "CITATION.cff").read_text()


def test_pre_commit_has_the_tools_that_ci_runs():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    named = re.findall(r"^ +name: (\S+) .*?([\d.]+)$", hooks, re.MULTILINE)
    assert {tool for tool, _ in named} == {"ruff", "mypy"}
    for tool, version in named:
        assert version == PINNED[tool]
    run = (ROOT / ".ci" / "run").read_text()
    commands = {entry.split(" --")[0] for entry in re.findall(r"entry: (.+)", hooks)}
    assert commands == set(re.findall(r"^((?:ruff|mypy)[ \w]*?)(?: --\w+)?(?: \.)?$", run, re.M))


def test_hosted_ci_only_calls_the_one_script():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"run: (.+)", workflow) == [".ci/run"]


def test_contributing_names_what_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:drs_fast|tests|benchmarks)/[\w./]*)`", text)
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []
