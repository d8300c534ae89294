"""Docs, docstrings, comments and messages are plain English."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("drs_fast", "csrc", "benchmarks", "tests", "docs")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
SOURCES = ("*.py", "*.cpp", "*.hpp", "*.inl", "*.cu", "*.cuh", "*.md")
# Phrases that once made the prose read as translated, with what to write instead.
TRANSLATED = {
    r'^\s*r?"""Of\b': "name the thing, then what it belongs to",
    r"""["']of all random numbers\b""": "random seed",
    r"\bsuch as they are\b": "as they are",
    r"\bthe result waits for\b": "say what waits for what",
    r"\bleft of an interruption\b": "left behind by an interruption",
    r"\bis dear\b|\bdear to\b": "costly",
    r"\bcannot be had\b": "cannot be obtained",
    r"\b(words?|value|number|index|samples) an? (row|group|tile|class)\b": "per",
    r"\bwhile they last\b": "while there are enough",
    r"\blest\b": "so that ... not, or otherwise",
}


def found(pattern: str, text: str) -> list[int]:
    return [i for i, line in enumerate(text.split("\n"), start=1) if re.search(pattern, line)]


def sources() -> list[Path]:
    paths = [path for folder in FOLDERS for kind in SOURCES for path in (ROOT / folder).rglob(kind)]
    paths += [ROOT / page for page in PAGES]
    return sorted(path for path in paths if path != Path(__file__))


@pytest.mark.parametrize("pattern", TRANSLATED)
def test_phrases_that_read_as_translated(pattern):
    places = [f"{path}:{i}" for path in sources() for i in found(pattern, path.read_text("utf-8"))]
    assert not places, f"{TRANSLATED[pattern]}: {', '.join(places)}"


@pytest.mark.parametrize(
    "line",
    [
        '    """Of one slice."""',
        'help="of all random numbers"',
        "# what is left of an interruption",
        "# one status word a tile",
        "# copied, lest the graph changes it",
        "# to show that is dear",
    ],
)
def test_such_phrases_are_found(line):
    assert any(found(pattern, line) for pattern in TRANSLATED)
