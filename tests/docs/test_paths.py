"""A maintainer finds what is to be changed, from the README, within two minutes of reading."""

import re

import pytest
from findings import codes
from pages import ROOT

from drs_fast.core.errors import MAX_INVALID_SHARE
from drs_fast.doctor.compared import CHANCE, SLOPES
from drs_fast.doctor.precisions import OVERFLOW
from drs_fast.doctor.probes import LAG
from drs_fast.doctor.symptoms import FLAT
from drs_fast.training.fitting import SURE

QUESTIONS = {  # the link in the README, and what the answer must name
    "the shard format": (
        "`pieces`", "store/tensors.py", "store/writer.py", "store/format.py", "store/samples.py",
        "store/kinds.py", "store/verifying.py", "store/manifest.py", "Older runs", "tests/store/",
        "core/columns.py", "#a-new-column", "`SHARD`", "`TEMPORARY`", "seconds.json",
    ),
    "a new op": (
        "backends/reference.py", "drs_fast/ops/", "@operator", "csrc/module.cpp",
        "csrc/cuda/module.cpp", "backends/cpu.py", "backends/cuda.py", "backends/triton/",
        "tests/ops/test_ops.py", "tests/ops/test_library.py", "`test_cuda.py`", "`test_triton.py`",
        "tests/common/op_cases.py", "test_instruction_sets.py", "tests/common/offline.py",
        "tests/common/registers.json", "`ABI`", "backends/extensions.py",
    ),
    "a new sampler": (
        "drs_fast/samplers/raw.py", "tests/samplers/test_samplers.py", "README.md",
        "tests/common/every_sampler.py", "law_version", "docs/api.md",
    ),
    "what the doctor checks": (
        "drs_fast/doctor/", "`doctor.py`", "`probes.py`", "`symptoms.py`", "`real_samples.py`",
        "`units.py`", "`compared.py`", "`in_place`", "test_doctor.py",
    ),
}  # fmt: skip
MOST = 500  # words: two minutes at 250 a minute


def words(text):
    """How many words a reader reads: addresses of links and bare signs do not count."""
    shown = re.sub(r"\]\([^)]*\)", "]", text)
    return sum(any(sign.isalnum() for sign in word) for word in shown.split())


def section(page, anchor):
    """The text below a heading, up to the next one."""
    parts = re.split(r"^(#+ .*)$", page.read_text(), flags=re.MULTILINE)
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        if re.sub(r"\W+", "-", title.lower()).strip("-") == anchor:
            return text
    raise AssertionError((page, anchor))


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_way_to_an_answer_is_short_and_the_answer_whole(question):
    readme = (ROOT / "README.md").read_text()
    found = re.search(rf"\[{question}\]\(([^)#]+)#([^)]+)\)".replace(" ", r"\s+"), readme)
    answer = section(ROOT / found[1], found[2])
    assert [name for name in QUESTIONS[question] if name not in answer] == []
    assert words(readme[: found.end()]) + words(answer) <= MOST


def rows():
    """The findings in the table of the doctor's page, with the rest of their row."""
    answer = section(ROOT / "docs/doctor.md", "what-it-checks")
    for line in re.findall(r"^\| (`.*) \|$", answer, re.MULTILINE):
        names, measured, remedy = line.split(" | ")
        for name in re.findall(r"`([^`]+)`", names):
            yield name, f"{measured} | {remedy}"


def test_the_table_of_the_doctor_has_every_finding_once():
    assert sorted(name for name, _ in rows()) == sorted(codes())


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("spectral-norm", f"{LAG:g}"),
        ("invalid-logits", f"{100 * MAX_INVALID_SHARE:g} %"),
        ("flat-logits", f"{FLAT:g}"),
        ("useless", f"{CHANCE:g}"),
        ("unfit-precision", f"{100 * OVERFLOW:g} %"),
        ("overconfident", f"[{SLOPES[0]:g}, {SLOPES[1]:g}]"),
    ],
)
def test_the_table_of_the_doctor_has_its_limits(name, limit):
    assert limit in dict(rows())[name]


def test_sure_is_by_four_standard_errors():
    assert SURE == 4.0
    assert "four standard errors" in (ROOT / "docs/doctor.md").read_text()


def test_words_are_those_that_are_read():
    assert words("see [two words](docs/a-page.md#the-place) | `x` |---|") == 4


def test_the_test_command_stands_in_the_readme():
    """`.ci/run` takes it from there."""
    pattern = re.search(r"grep -m 1 -E '([^']*)' README.md", (ROOT / ".ci/run").read_text())[1]
    assert re.search(pattern, (ROOT / "README.md").read_text(), re.MULTILINE)
