"""Every error that came from the user's own code says where."""

import sys

import pytest

import drs_fast as drs
from drs_fast.cli import main as cli

MODEL = """
import torch
import drs_fast as drs

def fails(*given):
    raise ZeroDivisionError("planted")  # line 6

def shapes(x):
    return torch.ones(3) + torch.ones(2)  # line 9

class D(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(7, 1)

    def forward(self, x):
        return self.layer(x)  # line 17

G, C = (lambda z: z), (lambda x: x[:, 0])

def generator(): return drs.GAN(fails, C, 2)
def discriminator(): return drs.GAN(G, shapes, 2)
def module(): return drs.GAN(G, D(), 2)
def link(): return drs.GAN(G, C, 2, link=fails)
def prior(): return drs.GAN(G, C, 2, prior=fails)
def real(): return drs.GAN(G, C, 2, real=fails)
def function(): fails()
def weights(): drs.weights("absent.pt")  # line 28
def builds(): return drs.GAN(G, C, -2)  # line 29
def good(): return drs.GAN(G, C, 2)
"""
PLACES = {
    "generator": "6, in fails",
    "discriminator": "9, in shapes",
    "module": "17, in forward",
    "link": "6, in fails",
    "prior": "6, in fails",
    "real": "6, in fails",
    "function": "6, in fails",
    "weights": "28, in weights",
    "builds": "29, in builds",
}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "places.py").write_text(MODEL)
    yield tmp_path / "places.py"
    sys.modules.pop("places", None)


def generate(file, role, *more):
    words = ["generate", f"{file}:{role}", "-n", "9", "--out", str(file.parent / "run"), *more]
    return cli.main(words + (["--sampler", "mh"] if role == "real" else []))


@pytest.mark.parametrize("role", PLACES)
def test_the_place_in_the_users_code(file, capsys, role):
    assert generate(file, role) == 2
    err = capsys.readouterr().err
    assert err.startswith("drs-fast: ")
    assert err.endswith(f" ({file}:{PLACES[role]})\n")
    assert err.count(str(file)) <= 2
    assert "Traceback" not in err


@pytest.mark.parametrize(("text", "line"), [("x = (\n", 1), ("import os\n1 / 0\n", 2)])
def test_the_place_in_a_file_that_cannot_be_imported(file, capsys, text, line):
    file.write_text(text)
    assert generate(file, "good") == 2
    assert f" ({file}:{line}" in capsys.readouterr().err


def test_an_error_of_the_arguments_has_no_place(file, capsys):
    assert generate(file, "good", "--percentile", "300") == 2
    assert not capsys.readouterr().err.endswith(")\n")


def test_a_traceback_on_request(file, capsys):
    assert generate(file, "generator", "--traceback") == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert f'File "{file}", line 6, in fails' in err
    assert err.splitlines()[-1].startswith("drs-fast: generator failed on")


def test_a_repair_says_what_it_did(file, capsys):
    run = file.parent / "run"
    assert generate(file, "good", "--chunk-rows", "256", "--burn-in", "500", "--quiet") == 0
    assert cli.main(["verify", str(run), "--repair"]) == 0
    assert capsys.readouterr().out == f"nothing to repair in {run}: every sha256 matches\n"
    shard = run / "chunk-00000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    (run / "state.safetensors").unlink()
    assert cli.main(["verify", str(run), "--repair"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-3]] == ["dropped", "dropped"]
    assert lines[-3:] == [
        "deleted 1 file: chunk-00000000.safetensors",
        "to be made again: 1 shard (9 samples, from 256 rows at most); the sampler's state "
        "(burn-in)",
        f"by: drs-fast generate places.py:good -n 9 --out {run} --burn-in 500",
    ]
    assert generate(file, "good", "--burn-in", "500", "--quiet", "--chunk-rows", "256") == 0
    (run / "chunk-00000099.safetensors").write_bytes(b"")
    cli.main(["verify", str(run), "--repair"])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "deleted 1 file: chunk-00000099.safetensors", "nothing has to be made again"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sampler", ["--sampler mh --start first", "--sampler obrs --budget 0.3", "--gamma 0 --squeeze"]
)
def test_the_command_of_a_repair_makes_the_same_run(file, capsys, sampler, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert (
        generate(file, "good", *sampler.split(), "--seed", "3", "--save", "logit", "--quiet") == 0
    )
    (file.parent / "run" / "chunk-00000000.safetensors").unlink()
    capsys.readouterr()
    assert cli.main(["verify", "run", "--repair"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert cli.main([*line.removeprefix("by: drs-fast ").split(), "--quiet"]) == 0
    assert drs.store.verify("run") == []


def test_an_interrupt_before_the_run_says_that_nothing_is_there(file, capsys):
    file.write_text("def good():\n    raise KeyboardInterrupt\n")
    assert generate(file, "good") == 130
    assert capsys.readouterr().err == "drs-fast: interrupted; nothing had been written yet\n"


def test_an_interrupt_says_what_is_kept(file, capsys):
    file.write_text(
        "import itertools\nimport drs_fast as drs\n\ncalls = itertools.count()\n\n"
        "def critic(x):\n    if next(calls) == 16:\n        raise KeyboardInterrupt\n"
        "    return x[:, 0]\n\ndef good():\n    return drs.GAN(lambda z: z, critic, 2)\n"
    )
    more = ["--batch-size", "256", "--chunk-rows", "8192", "--burn-in", "1024", "--quiet"]
    assert generate(file, "good", *more, "-n", "5000") == 130
    err = capsys.readouterr().err
    assert err.startswith(f"drs-fast: interrupted; 0 of 5,000 samples are in {file.parent / 'run'}")
    assert "samples accepted since are lost, because what a shard has is kept every 60 s" in err
    assert err.endswith("; the same command resumes\n")


@pytest.mark.parametrize("there", [False, True])
def test_status_where_there_is_no_run_yet(tmp_path, capsys, there):
    if there:
        (tmp_path / "run").mkdir()
    assert cli.main(["status", str(tmp_path / "run")]) == 7
    where = "an empty folder" if there else "not there"
    assert capsys.readouterr().err == (
        f"drs-fast: no run yet: {tmp_path / 'run'} is {where}; drs-fast generate begins one there\n"
    )
