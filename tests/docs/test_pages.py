"""The code in README.md and docs/ runs as it stands, and what they name exists."""

import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import torch
from pages import ROOT, public

import drs_fast as drs
from drs_fast import samplers
from drs_fast.cli.exit_codes import EXIT_CODES
from drs_fast.cli.parser import parser
from drs_fast.core.sampler import BATCH, EQUAL, LOGIT, UNKNOWN
from drs_fast.zoo import NAMES

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r'^```(\w*)(?: title="([^"\n]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
NOT_RUN = "Not run here: "  # and the reason, for the reader too
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
FILE = re.compile(r"`((?:drs_fast|tests|docs|benchmarks|csrc|\.ci)/[\w./-]*)`")
SOON = {"drs_fast/samplers/raw.py", "tests/samplers/test_raw.py"}  # for the reader to write
# What the reader of "Your own GAN" has: two networks, and files of their weights.
MYMODELS = """
import torch

Generator = lambda: torch.nn.Linear(128, 2)
Discriminator = lambda: torch.nn.Linear(2, 1)
"""


def blocks(page, language="python"):
    """(title, text) of the page's blocks in that language."""
    found = BLOCK.findall(page.read_text())
    return [(title, text) for given, title, text in found if given == language]


def named(pages):
    return [pytest.param(page, id=page.name) for page in pages]


def run(page, names):
    """Runs the blocks in order, and writes those whose title is a file's name."""
    for number, (title, text) in enumerate(blocks(page), 1):
        code = compile(text, f"{page.name}, block {number}", "exec", dont_inherit=True)
        if title.endswith(".py"):
            Path(title).parent.mkdir(parents=True, exist_ok=True)
            Path(title).write_text(text)
        elif not title.startswith(NOT_RUN):
            exec(code, names)
    return names


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A directory to work in, with the two networks that a reader would have."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mymodels.py").write_text(MYMODELS)
    made = {"generator": torch.nn.Linear(128, 2), "discriminator": torch.nn.Linear(2, 1)}
    for name, network in made.items():
        torch.nn.init.eye_(network.weight)
        save_file(network.state_dict(), f"{name}.safetensors")
    return tmp_path


@pytest.mark.parametrize("page", named(page for page in PAGES if page != README))
@pytest.mark.filterwarnings("default")  # pages show what warns, and say so
def test_every_block_runs(page, desk):
    run(page, {"__name__": page.stem})


def test_readme_runs(desk, capsys):
    names = run(README, {"__name__": "readme"})
    assert "torch.Size([10000, 2])" in capsys.readouterr().out
    assert (desk / "run" / "manifest.json").exists()
    assert 0 < names["n"] < 4096
    assert torch.equal(names["x"][names["keep"]], names["accepted_x"])
    assert torch.equal(names["z"][names["keep"]], names["accepted_z"])


@pytest.mark.parametrize("page", named(PAGES))
def test_a_block_is_of_a_known_kind(page):
    """An unknown title would let a block escape the tests."""
    fences = re.findall(r"^```(.+)$", page.read_text(), flags=re.MULTILINE)
    assert len(fences) == len(BLOCK.findall(page.read_text()))
    for title, _ in blocks(page):
        assert title == "" or title.endswith(".py") or len(title) > len(NOT_RUN) + 10, title


def test_few_blocks_are_not_run():
    titles = [title for page in PAGES for title, _ in blocks(page)]
    assert sum(title.startswith(NOT_RUN) for title in titles) <= 7
    assert sum(title == "" for title in titles) >= 25


def test_the_sampler_that_keeps_everything(tmp_path):
    ((_, text),) = [each for each in blocks(ROOT / "docs/extending.md") if "raw.py" in each[0]]
    names = {"__name__": "raw"}
    exec(compile(text, "extending.md", "exec", dont_inherit=True), names)
    (kind,) = (value for name, value in names.items() if name.lower() == "raw")
    sampler = kind()
    gan = drs.load(NAMES[0])
    batch = drs.generate(gan, sampler, 300)
    assert torch.equal(batch.ids, torch.arange(300))
    samples = drs.generate(gan, sampler, 300, out=tmp_path / "run")
    assert torch.equal(samples.x[:], batch.x)
    assert "Source:" in kind.__doc__
    with pytest.raises((ValueError, drs.BadLogits)):
        drs.generate(drs.GAN(lambda z: z, lambda x: x[:, 0] * torch.nan, 2), sampler, 10)


def test_pages_write_to_folders_of_their_own():
    """A reader who tries them in one directory would meet another page's run."""
    owners = {}
    for page in PAGES:
        code = "".join(text for _, text in blocks(page))
        for name in re.findall(r'out="([^"]+)"', code):
            assert owners.setdefault(name, page.name) == page.name, name


def test_readme_is_short():
    assert len(README.read_text().split()) <= 900


def anchors(page):
    """The anchors of a page's headings, as MkDocs makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w]+", "-", title.lower()).strip("-") for title in titles}


@pytest.mark.parametrize("page", named(PAGES))
def test_links_and_files_are_there(page):
    text = page.read_text()
    for target, anchor in LINK.findall(text):
        file = page.parent / target if target else page
        assert file.is_file(), target
        if anchor and not anchor.startswith("drs_fast."):  # those are in the built site
            assert anchor in anchors(file), (target, anchor)
    for name in FILE.findall(text):
        assert (ROOT / name).exists() or name in SOON, name


@pytest.mark.parametrize("page", named(PAGES))
def test_commands_are_taken(page):
    """The parser accepts every drs-fast line."""
    lines = [line for _, text in blocks(page, "bash") for line in text.splitlines()]
    lines += re.findall(r"`(drs-fast (?:generate|doctor) [^`]*)`", page.read_text())
    for line in lines:
        _, command, rest = line.rpartition("drs-fast ")
        if command and "--help" not in rest and "MODEL --real" not in rest:
            given = shlex.split(rest)
            assert parser(given).parse_args(given).run


def test_every_exit_code_is_explained():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs/runs.md").read_text(), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


@pytest.mark.parametrize("page", named([README, ROOT / "docs/choosing-a-sampler.md"]))
def test_every_sampler_is_in_the_table(page):
    rows = re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(samplers.get(name).__name__ for name in samplers.NAMES)


def test_the_page_of_laws_says_which_samplers_have_weights():
    text = (ROOT / "docs/laws.md").read_text()
    ways = {"by the logit": LOGIT, "by the step": BATCH, "all 1": EQUAL, "none": UNKNOWN}
    rows = re.findall(r"^\| ([\w ]+) \| (`.*) \|$", text, re.MULTILINE)
    said = {name: ways[way] for way, names in rows for name in re.findall(r"`(\w+)`", names)}
    there = [samplers.get(name)() for name in samplers.NAMES] + [drs.Squeeze(samplers.DRS())]
    assert said == {type(sampler).__name__: sampler.weighs for sampler in there}


def shown():
    """What the API reference shows: path -> object."""
    for path in re.findall(r"^::: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE):
        yield path, pkgutil.resolve_name(path)


def test_the_reference_has_every_public_name():
    objects = [value for _, value in shown()]
    assert [name for name, value in public() if not any(value is each for each in objects)] == []


def test_errors_that_can_be_caught_are_public():
    errors = (drs.BadLogits, drs.Starvation, drs.Stale, drs.OutOfTime, drs.Conflict, drs.Corrupt)
    for error in errors:
        assert issubclass(error, (RuntimeError, ValueError))
        assert f"`{error.__name__}`" in (ROOT / "docs/runs.md").read_text()


def test_every_room_is_described():
    rooms = re.findall(
        r"^\| `drs_fast/(\w+)/` \|", (ROOT / "docs/design.md").read_text(), re.MULTILINE
    )
    there = {file.parent.name for file in (ROOT / "drs_fast").glob("*/__init__.py")}
    assert sorted(rooms) == sorted(there)
