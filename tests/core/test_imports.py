"""The direction of imports, what `import drs_fast` does, and where randomness may come from."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import drs_fast

ROOT = Path(drs_fast.__file__).parent
# A module may import its own room and those to its left.
ROOMS = (
    "_C",
    "_cuda",
    "core",
    "gan",
    "backends",
    "ops",
    "tune",
    "training",
    "samplers",
    "ratio",
    "squeeze",
    "doctor",
    "store",
    "unweighting",
    "run",
    "zoo",
    "adapters",
    "report",
    "exporting",
    "cli",
    "__main__",
)
FORBIDDEN = re.compile(
    r"torch\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|bernoulli|multinomial|"
    r"normal|manual_seed|seed|Generator)\b|\b(np|numpy)\.random\b|\bimport random\b|"
    r"\bfrom random\b|\bmanual_seed\b|\.(normal_|uniform_|bernoulli_|random_)\("
)

# The random numbers of the user's own G and D are fixed here, and put back where they were.
SEEDED = {"run/probe.py": 2}


def imports_of(source, module=""):
    """Full names of what the source imports from drs_fast, at the top or inside functions."""
    names = set()
    tree = ast.parse(source)
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:
                base = module.split(".")[: -node.level]
                parent = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{parent}.{alias.name}" for alias in node.names}
    return {name for name in names if name == "drs_fast" or name.startswith("drs_fast.")}


def violations(module, source):
    """What is wrong with the imports of a module such as "drs_fast.samplers.drs"."""
    parts = module.split(".")
    room = parts[1]
    if room not in ROOMS:
        return [f"{module}: {room} is no room; add it to ROOMS"]
    found = []
    for name in sorted(imports_of(source, module)):
        target = [*name.split("."), "", ""]
        other = target[1]
        if other in ("", "__version__"):
            wrong = other == ""
        elif other not in ROOMS or ROOMS.index(other) > ROOMS.index(room):
            wrong = True
        elif room == "samplers" and parts[2] == "common":
            wrong = other == "samplers" and target[2] != "common"
        elif room == "samplers":
            wrong = other == "samplers" and target[2] not in ("common", parts[2])
        elif room == "store":
            wrong = other not in ("store", "core")
        else:
            wrong = room == "run" and other == "samplers" and target[2] != "common"
        if wrong:
            found.append(f"{module} imports {name}")
    return found


def modules():
    for file in sorted(ROOT.rglob("*.py")):
        parts = ["drs_fast", *file.relative_to(ROOT).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts = [*parts[:-1], ""]
        if parts != ["drs_fast", ""]:
            yield ".".join(parts), file.read_text()


@pytest.mark.parametrize(("module", "source"), [pytest.param(m, s, id=m) for m, s in modules()])
def test_imports_point_left(module, source):
    assert violations(module, source) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("drs_fast.core.rng", "from drs_fast import ops"),
        ("drs_fast.gan.gan", "from drs_fast import ops"),
        ("drs_fast.gan.gan", "from drs_fast.ratio import calibrate"),
        ("drs_fast.backends.cpu", "from drs_fast.ops import accept"),
        ("drs_fast.ops.checks", "def f():\n    import drs_fast.run.generate"),
        ("drs_fast.training.fitting", "from drs_fast.samplers.common import burn_in"),
        ("drs_fast.samplers.mh", "from drs_fast.samplers import drs"),
        ("drs_fast.samplers.mh", "from drs_fast.samplers.drs import DRS"),
        ("drs_fast.samplers.mh", "from . import drs"),
        ("drs_fast.samplers.mh", "from drs_fast.run.generate import generate"),
        ("drs_fast.samplers.common.groups", "from drs_fast.samplers.mh import MH"),
        ("drs_fast.run.generate", "from drs_fast.samplers.drs import DRS"),
        ("drs_fast.run.generate", "from drs_fast import samplers"),
        ("drs_fast.run.generate", "from drs_fast import report"),
        ("drs_fast.store.writer", "from drs_fast import ops"),
        ("drs_fast.store.writer", "import drs_fast.run.generate"),
        ("drs_fast.doctor.doctor", "import drs_fast"),
        ("drs_fast.novelty.room", ""),
    ],
)
def test_a_wrong_arrow_is_seen(module, source):
    assert len(violations(module, source)) == 1


def python(code, cwd):
    path = str(ROOT.parent)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
    )


def test_import_does_nothing(tmp_path):
    done = python(
        "import torch; torch.manual_seed(5); before = torch.random.get_rng_state()\n"
        "torch.set_num_threads(2)\n"
        "known = set(sys.modules)\n"
        "import drs_fast.report.demo, drs_fast.report.report, drs_fast.exporting.export\n"
        "heavy = ('matplotlib', 'sklearn', 'scipy', 'tqdm', 'triton', 'pandas', 'PIL', 'numba',\n"
        "         'torchvision', 'pyarrow', 'mpmath', 'pybind11', 'setuptools')\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - known}\n"
        "assert not new & set(heavy), new & set(heavy)\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert torch.equal(before, torch.random.get_rng_state())\n"
        "assert torch.get_num_threads() == 2\n",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_import_leaves_for_later_what_many_programs_never_use(tmp_path):
    done = python(
        "import drs_fast\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('drs_fast.')}\n"
        "assert not rooms & {'adapters', 'exporting', 'report', 'zoo'}, rooms\n"
        "assert set(drs_fast.LATER) <= set(drs_fast.__all__) & set(dir(drs_fast))\n"
        "_ = drs_fast.adapters.biggan\n"
        "assert 'drs_fast.adapters.torch_mimicry' not in sys.modules\n"
        "for room in (drs_fast, drs_fast.adapters):\n"
        "    for name in room.LATER:\n"
        "        assert getattr(room, name).__name__.rpartition('.')[2] == name\n",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_beside_the_rooms_there_is_only_the_front_door():
    files = {file.name for file in ROOT.iterdir() if file.suffix == ".py"}
    assert files == {"__init__.py", "__main__.py"}


def test_samplers_are_found_by_file_name():
    assert "drs" in drs_fast.samplers.NAMES
    for name in drs_fast.samplers.NAMES:
        assert drs_fast.samplers.get(name).__name__.lower() == name
        assert drs_fast.samplers.get(name).__name__ in dir(drs_fast.samplers)


def test_everything_in_all_is_there():
    for name in drs_fast.__all__:
        assert getattr(drs_fast, name) is not None


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_randomness_comes_from_named_rows(file):
    lines = [line for line in file.read_text().splitlines() if FORBIDDEN.search(line)]
    seeding = [line for line in lines if re.fullmatch(r" +torch\.\S+\.manual_seed\(seed\)", line)]
    assert len(seeding) == SEEDED.get(str(file.relative_to(ROOT)), 0)
    assert [line for line in lines if line not in seeding] == []


@pytest.mark.parametrize(
    "line",
    [
        "z = torch.randn(n, 2)",
        "order = torch.randperm(n)",
        "torch.manual_seed(0)",
        "np.random.rand()",
        "from random import random",
        "weight.normal_()",
        "generator = torch.Generator()",
    ],
)
def test_other_randomness_is_seen(line):
    assert FORBIDDEN.search(line)
