"""Whatever the arguments are, a command ends with a code that means it, and says why in words."""

import io
import json
import shutil
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from fuzzing import CHANGED, SIZES, TEXTS, VALUES, amounts, ended, tried
from hypothesis import strategies as st
from safetensors.torch import save

import drs_fast as drs
from drs_fast import samplers
from drs_fast.adapters.load import load, real_samples, weights
from drs_fast.cli import commands
from drs_fast.cli import main as cli
from drs_fast.cli.exit_codes import EXIT_CODES
from drs_fast.cli.parser import parsed, parser

ENDS = EXIT_CODES.keys() - {1, 130, 143}  # neither an internal error nor a signal
COMMANDS = ("generate", "plan", "doctor", "verify", "unweight", "report", "demo")
NEEDED = {"generate": ("models.py:good", "-n", "3", "--out", "out"), "plan": ("models.py:good",)}
MODEL = """
import drs_fast as drs

def good():
    return drs.GAN(lambda z: z, lambda x: x[:, 0], 2)

def nothing():
    return None

def more(given):
    return given

number = 3
"""
GIVEN = (
    "", "-", "--", "-1", "1e400", "0x10", "1_0", "drs", "DRS", "x,logit", ",", "1,2", "nan", "inf",
    "-inf", "\udc80", "models.py:good", "25gaussians", "@file",
)  # fmt: skip
LIMITED = (
    "", "0", "-1", "1", "3", "256", "0.5", "nan", "inf", "-inf", "1e400", "-0.0", "é", "\udc80",
    "x", ",", "1,2", "18446744073709551616", "yes", "auto", "cpu", "within", "../x", "\0",
)  # fmt: skip
DTYPES = ("<f4", ">f8", "|O", "<M8[s]", "|V0", "<U9")
WORDS = st.one_of(TEXTS, SIZES.map(str), st.floats().map(str), st.sampled_from(GIVEN))


def flags(command, sampler):
    """All flags that the command has with this sampler."""
    made = parser([command, "--sampler", sampler])
    found = next(action.choices for action in made._actions if action.choices)[command]
    return sorted(flag for action in found._actions for flag in action.option_strings)


def run(words):
    """What a command prints and how it ends, with streams like those of a terminal."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with redirect_stdout(out), redirect_stderr(out), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = cli.main(words)
        except SystemExit as end:  # the parser has printed why
            code = end.code
    out.flush()
    return code, out.buffer.getvalue().decode()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "models.py").write_text(MODEL)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("models", None)


@amounts(120, 8000)
def test_any_words(amount):
    """Parsed, and the sampler made, which checks its fields."""

    def check(case):
        command, sampler, given = case
        words = [command, "--sampler", sampler, *given]
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            options = ended(parsed, words, errors=(SystemExit,))
        if isinstance(options, SystemExit):
            assert options.code in (0, 2)
        elif "sampler" in options:
            ended(commands._sampler, options)

    def of(command, sampler):
        flag = st.sampled_from(flags(command, sampler))
        part = st.one_of(st.tuples(flag, WORDS), st.tuples(WORDS), st.tuples(flag))
        return st.lists(part, max_size=3).map(lambda parts: [*NEEDED[command], *sum(parts, ())])

    cases = [(command, name) for command in NEEDED for name in samplers.NAMES]
    given = [st.tuples(*map(st.just, case), of(*case)) for case in cases]
    given += [st.tuples(st.just(c), st.just("drs"), st.lists(WORDS, max_size=3)) for c in COMMANDS]
    tried(amount, st.one_of(given), check)


@amounts(60, 4000)
def test_commands(amount, tmp_path):
    """Run, for a moment; nothing outside the folder is written."""
    barred = {
        "--out",
        "--tune",
        "--squeeze",
        "--max-seconds",
        "--burn-in",
        "--device",
        "--help",
        "-h",
    }

    def check(case):
        sampler, given = case
        shutil.rmtree("out", ignore_errors=True)
        few = ["--burn-in", "300"] if "--burn-in" in flags("generate", sampler) else []
        words = ["generate", *NEEDED["generate"], "--sampler", sampler, "--quiet", *few]
        words += [*sum(given, ()), "--max-seconds", "0.01"]
        with CHANGED.within(tmp_path):
            code, said = run(words)
        assert code in ENDS, (code, said)
        assert "Traceback" not in said
        assert code in (0, 8) or said.strip()

    def of(sampler):
        known = [flag for flag in flags("generate", sampler) if flag not in barred]
        pairs = st.tuples(st.sampled_from(known), st.sampled_from(LIMITED))
        return st.tuples(st.just(sampler), st.lists(pairs, min_size=1, max_size=2))

    tried(amount, st.one_of([of(name) for name in ("drs", "obrs", "mh", "sir")]), check)


@amounts(60, 4000)
def test_other_commands(amount, tmp_path):
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY")
    words = st.one_of(
        st.sampled_from(("models.py:good", "folder", "models.py", "x.npy", "nowhere", ".", "")),
        WORDS,
    )
    some = "--real -n --seed --log-weight --weight --repair --log-max --max-overweight"

    def check(case):
        command, given = case
        with CHANGED.within(tmp_path):
            code, said = run([command, *given])
        assert code in ENDS, (code, said)
        assert "Traceback" not in said

    command = st.sampled_from(("doctor", "verify", "unweight", "report"))
    given = st.lists(st.one_of(words, st.sampled_from(some.split())), max_size=5)
    tried(amount, st.tuples(command, given), check)


PARTS = st.one_of(
    TEXTS.filter(lambda text: "/abs" not in text),
    st.sampled_from(
        ("models.py", "models", "folder", "folder.py", "models.py/", "./models.py", "..", "a.b.c")
    ),
    st.sampled_from((".", "none.py", "25gaussians", "models..py", "x" * 5000 + ".py")),
)  # fmt: skip
NAMES = st.one_of(TEXTS, st.sampled_from(("good", "nothing", "more", "number", "__name__", "drs")))


@amounts(150, 10_000)
def test_model_specs(amount, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def check(spec):
        with CHANGED.within(tmp_path):
            assert isinstance(ended(load, spec), (drs.GAN, Exception))

    specs = st.tuples(PARTS, st.sampled_from((":", "", "::", "/", ": ")), NAMES).map("".join)
    tried(amount, st.one_of(specs, PARTS, st.none(), SIZES), check)


def array_header(facts, data):
    """A .npy file with any header."""
    text = repr(facts).encode(errors="replace") + b"\n"
    return b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text + data


def archive(tensor):
    file = io.BytesIO()
    torch.save({"x": tensor}, file)
    return file.getvalue()


SAVED = (".pt", archive(torch.zeros(3, 2))), (".safetensors", save({"x": torch.zeros(3, 2)}))
FILES = st.one_of(
    st.tuples(st.just(".npy"), st.builds(
        array_header,
        st.one_of(VALUES, st.fixed_dictionaries({
            "descr": st.one_of(st.sampled_from(DTYPES), VALUES),
            "fortran_order": st.booleans(),
            "shape": st.one_of(st.lists(SIZES, max_size=3).map(tuple), VALUES),
        })),
        st.binary(max_size=40),
    )),
    st.tuples(st.sampled_from((".npy", ".pt", ".safetensors", "")), st.binary(max_size=60)),
    st.builds(
        lambda saved, place, byte: (saved[0], saved[1][:place] + byte + saved[1][place + 1 :]),
        st.sampled_from(SAVED), st.integers(0, 1200), st.binary(min_size=1, max_size=1),
    ),
    st.builds(
        lambda size, head: (".safetensors", size.to_bytes(8, "little") + json.dumps(head).encode()),
        st.sampled_from((2, 100, 2**60)), st.dictionaries(TEXTS, VALUES, max_size=2),
    ),
)  # fmt: skip


@amounts(100, 8000)
def test_files_of_samples_and_weights(amount, tmp_path):
    def check(case):
        end, data = case
        file = tmp_path / f"given{end}"
        file.write_bytes(data)
        with CHANGED.within(tmp_path):
            ended(real_samples, file)
            ended(weights, file)

    tried(amount, FILES, check)


def test_a_header_that_claims_more_than_the_memory_is_damage(tmp_path):
    facts = {"descr": "<f4", "fortran_order": False, "shape": (2**50,)}
    (tmp_path / "x.npy").write_bytes(array_header(facts, b""))
    with pytest.raises(ValueError, match="is damaged or cut off at"):
        real_samples(tmp_path / "x.npy")


def test_an_archive_whose_list_of_files_is_damaged_is_damage(tmp_path):
    whole = SAVED[0][1]
    (tmp_path / "x.pt").write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x03"))
    with pytest.raises(ValueError, match=r"is damaged or cut off at .*\(BadZipFile"):
        weights(tmp_path / "x.pt")
