"""What the command answers before it does anything: help, names, numbers, and how fast."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import drs_fast as drs
from drs_fast import samplers
from drs_fast.cli import commands, fields, status
from drs_fast.cli import main as cli
from drs_fast.cli.names import COMMANDS
from drs_fast.cli.parser import parsed, parser
from drs_fast.cli.values import argument, count
from drs_fast.core import slow
from drs_fast.core.words import counted, did_you_mean

ROOT = Path(drs.__file__).parents[1]
KINDS = [*map(samplers.get, samplers.NAMES), drs.Squeeze]


def python(code, cwd):
    here = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{here}\n{code}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["verify", "--help"], ["status", "run"], ["dance"]]
)
def test_what_is_answered_without_pytorch(tmp_path, words):
    """As in a process of the command, whose first word says that it is one."""
    drs.generate(drs.load("25gaussians"), samplers.get("drs")(burn_in=300), 9, out=tmp_path / "run")
    done = python(
        f"sys.argv = ['drs-fast', *{words}]\n"
        "from drs_fast.cli.main import command\n"
        "try:\n    command()\n"
        "finally:\n    assert not {'torch', 'numpy'} & set(sys.modules)\n",
        tmp_path,
    )
    assert done.returncode == (2 if words == ["dance"] else 0), done.stderr
    assert "Assertion" not in done.stderr


def test_a_command_completes_the_package_for_the_users_model(tmp_path):
    (tmp_path / "completes.py").write_text(
        "import drs_fast as drs\n\ndef make():\n"
        "    drs.ops, drs.samplers.DRS, drs.open\n"
        "    assert callable(drs.doctor) and callable(drs.unweight)\n"
        "    return drs.GAN(lambda z: z, lambda x: x[:, 0], 2)\n"
    )
    done = python(
        "sys.argv = ['drs-fast', 'doctor', 'completes.py:make', '-n', '300']\n"
        "from drs_fast.cli.main import command\ncommand()\n",
        tmp_path,
    )
    assert done.stdout.startswith("completes.py:make: "), done.stderr


def test_the_names_of_commands_are_those_that_there_are():
    run = {name.removeprefix("run_") for name in vars(commands) if name.startswith("run_")}
    run |= {name.removeprefix("run_") for name in vars(status) if name.startswith("run_")}
    assert run == set(COMMANDS)
    assert set(cli.ALONE) == {"status"}
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            parser([name, "--help"]).parse_args([name, "--help"])


def test_the_names_at_once_are_those_of_the_package():
    tree = ast.parse(Path(drs.__file__).read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    named = {alias.asname or alias.name for node in block.body for alias in node.names}
    assert named == {*drs.AT_ONCE, *drs.LATER}
    assert {*drs.AT_ONCE, *drs.LATER} == set(drs.__all__)
    assert set(drs.AT_ONCE) <= vars(drs).keys()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_is_explained_by_a_line_of_its_own(kind):
    explained = fields.described(kind)
    assert [field.name for field in dataclasses.fields(kind) if field.name not in explained] == []
    assert all(len(words) > 10 for words in explained.values())


def test_help_has_the_words_of_the_docstring(capsys):
    with pytest.raises(SystemExit):
        parsed(["generate", "--sampler", "mh", "--help"])
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "--burn-in BURN_IN proposals whose logits are checked, at least 1,000 of every" in out
    assert "(default: 640)" in out
    assert "`" not in out


@pytest.mark.parametrize(
    ("given", "number"),
    [("1000000", 10**6), ("1_000_000", 10**6), ("1,000,000", 10**6), ("1e6", 10**6),
     ("2.5e3", 2500), ("-1", -1), ("0", 0), ("9" * 20, 10**20 - 1), ("1E+2", 100)],
)  # fmt: skip
def test_counts(given, number):
    assert count(given) == number


@pytest.mark.parametrize(
    "given", ["", "1.5", "1e-3", "1,00", ",100", "10k", "2.55e1", "nan", "1e9999", "1,000e3"]
)
def test_what_is_no_count(given):
    with pytest.raises(Exception, match="must be a whole number such as 50000, 50_000, 50,000 or"):
        count(given)


@pytest.mark.parametrize("flag", ["-n", "--patience", "--chunk-rows", "--burn-in", "--batch-size"])
def test_every_count_flag_takes_them(flag):
    needed = ["generate", "digits", "--out", "o", *([] if flag == "-n" else ["-n", "1"])]
    options = parsed([*needed, flag, "4,096"])
    assert vars(options)[flag.strip("-").replace("-", "_")] == 4096


@pytest.mark.parametrize(
    ("given", "value"),
    [("a=64", 64), ("a=ckpt.pt", "ckpt.pt"), ("a=[1, 2]", [1, 2]), ("a=None", None),
     ("a='64'", "64"), ("a=", ""), ("a=b=c", "b=c")],
)  # fmt: skip
def test_arguments_of_a_model(given, value):
    assert argument(given) == ("a", value)


def test_arguments_reach_the_model_and_the_manifest(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with_arguments.py").write_text(
        "import drs_fast as drs\n\ndef make(path, width=2):\n"
        "    return drs.GAN(lambda z: z, lambda x: x[:, 0], width)\n"
    )
    words = ["with_arguments.py:make", "--arg", "path=a/b.pt", "--arg", "width=3"]
    try:
        assert cli.main(["generate", *words, "-n", "20", "--out", "run", "--quiet"]) == 0
        said = drs.open("run").manifest["model"]
        assert said == "with_arguments.py:make(path='b.pt', width=3)"
        words[2] = "path=c.pt"  # another file with the same weights is the same model
        assert cli.main(["generate", *words, "-n", "30", "--out", "run", "--quiet"]) == 0
        assert cli.main(["doctor", *words, "-n", "300"]) in (0, 8)
        assert "path='c.pt'" in capsys.readouterr().out
        assert cli.main(["generate", *words[:-1], "width=4", "-n", "30", "--out", "run"]) == 7
    finally:
        sys.modules.pop("with_arguments", None)


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 samples"), (1, "1 sample"), (2000, "2,000 samples")]
)
def test_numbers_agree_with_their_nouns(number, words):
    assert counted(number, "sample") == words


def test_did_you_mean():
    assert did_you_mean("mhh", samplers.NAMES) == "; did you mean mh?"
    assert did_you_mean("Digits", ["digits"]) == "; did you mean digits?"
    assert did_you_mean("zzz", samplers.NAMES) == ""


def test_a_line_for_what_is_slow(monkeypatch, capsys):
    import threading

    said = threading.Event()
    monkeypatch.setattr(slow, "SECONDS", 0.0)
    monkeypatch.setattr(slow, "_print", lambda line: (slow_print(line), said.set()))
    with slow.said("burn-in of DRS"):
        assert said.wait(20)
    assert capsys.readouterr().err == "burn-in of DRS ...\n"
    said.clear()
    with slow.said("burn-in of DRS", enabled=False):
        pass
    monkeypatch.setattr(slow, "SECONDS", 3600.0)
    with slow.said("burn-in of DRS"):
        pass
    assert not said.is_set()


slow_print = slow._print


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("loading 25gaussians", "doctor 25gaussians -n 300"),
        ("examining 300 samples", "doctor 25gaussians -n 300"),
        ("burn-in of DRS", "generate 25gaussians -n 9 --out a"),
        ("taking the sha256 of the model", "generate 25gaussians -n 9 --out a"),
        ("comparing G and D with those of the run", "generate 25gaussians -n 9 --out a"),
    ],
)
def test_what_may_be_slow(line, command, monkeypatch, tmp_path):
    lines = []

    class Timer:
        daemon = False

        def __init__(self, seconds, call, given):
            lines.extend(given)

        def start(self):
            pass

        cancel = start

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slow.threading, "Timer", Timer)
    cli.main(command.split())
    assert line in lines
    if "generate" in command:
        lines.clear()
        cli.main([*command.split()[:-1], "quiet", "--quiet"])
        assert lines == []
