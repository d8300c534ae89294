import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Usage, contents
from safetensors.torch import save_file

import drs_fast as drs
from benchmarks.common.by_hand import SPEC
from drs_fast import store
from drs_fast.backends import cpu
from drs_fast.cli import commands
from drs_fast.cli import main as cli
from drs_fast.cli.exit_codes import EXIT_CODES
from drs_fast.run import generate as engine
from drs_fast.run import progress
from drs_fast.samplers.drs import DRS
from drs_fast.store.folder import Folder

MODELS = """
import math
import torch
import drs_fast as drs

def good():
    return drs.GAN(lambda z: z, lambda x: x[:, 0], 2)

def conditional():
    return drs.GAN(lambda z, y: z, lambda x, y: x[:, 0] * (1 + y), 2, labels=2)

def nan():
    return drs.GAN(lambda z: z, lambda x: torch.full((len(x),), math.nan), 2)

def sigmoid():
    return drs.GAN(lambda z: z, lambda x: torch.sigmoid(x[:, 0]), 2)

def wrong_shape():
    return drs.GAN(lambda z: z, lambda x: x, 2)

def sound():
    real = drs.ops.normal(drs.Rng(1), 4096, 2, stream=8) + torch.tensor([1.0, 0.0])
    return drs.GAN(lambda z: z * 1.0, lambda x: x[:, 0] - 0.5, 2, real=real)

def unreal():
    def real(n):
        raise OSError("not mounted")

    return drs.GAN(lambda z: z * 1.0, lambda x: x[:, 0] - 0.5, 2, real=real)

def faulty():
    raise NotImplementedError("no checkpoint here")
"""


@pytest.fixture(autouse=True)
def _own_signals():
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    file = tmp_path_factory.mktemp("models") / "models_of_the_cli.py"
    file.write_text(MODELS)
    yield file
    sys.modules.pop(file.stem, None)


@pytest.fixture
def run(models, tmp_path, capsys):
    """Runs a command and returns (exit code, standard output, standard error)."""

    def command(*arguments):
        words = [str(a).replace("MODELS", str(models)) for a in arguments]
        try:
            code = cli.main([word.replace("DIR", str(tmp_path / "run")) for word in words])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return command


GENERATE = ("generate", "MODELS:good", "-n", "50", "--out", "DIR", "--burn-in", "500")


def test_generate_writes_a_run(run, tmp_path):
    code, out, err = run(*GENERATE, "--seed", 7, "--save", "z,x", "--chunk-rows", 256)
    assert code == 0
    samples = drs.open(tmp_path / "run")
    batch = drs.generate(drs.GAN(lambda z: z, lambda x: x[:, 0], 2), DRS(burn_in=500), 50, seed=7)
    assert samples.columns == ("ids", "x", "z")
    assert torch.equal(samples.ids[:], batch.ids)
    assert samples.manifest["chunk_rows"] == 256
    assert re.search(
        r"^50 samples in .*run: \d+\.\d\d% of \d+ rows\n"
        r"law: data when weighted; unweighted, data sharpened",
        out,
    )
    assert "50 of 50 samples" in err


def test_the_same_command_again(run, tmp_path):
    first = run(*GENERATE)
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    again = run(*GENERATE)
    assert (again[0], again[1]) == (0, first[1])
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before
    assert run(*GENERATE[:3], "80", *GENERATE[4:])[0] == 0
    assert len(drs.open(tmp_path / "run")) == 80


def test_no_samples(run):
    assert run(*GENERATE[:3], "0", *GENERATE[4:])[0] == 0
    assert run("verify", "DIR")[0] == 0


def test_a_conditional_model(run, tmp_path):
    assert run("generate", "MODELS:conditional", "-n", 40, "--out", "DIR")[0] == 0
    assert set(drs.open(tmp_path / "run").y[:].tolist()) == {0, 1}


def test_quiet_prints_nothing(run):
    assert run(*GENERATE, "--quiet") == (0, "", "")
    code, out, err = run(*GENERATE, "--quiet", "--seed", 1)
    assert (code, out) == (7, "")
    assert err  # errors are told


# --- flags


@pytest.fixture
def generated(monkeypatch):
    """Records what the engine was asked for, instead of running."""
    calls = []

    def generate(*given, **named):
        calls.append((given, named))
        raise drs.Starvation("stop here")

    monkeypatch.setattr(engine, "generate", generate)
    return calls


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--gamma", "-1.5", {"gamma": -1.5}),
        ("--percentile", "95", {"percentile": 95.0}),
        ("--target-acceptance", "0.25", {"target_acceptance": 0.25}),
        ("--log-m", "-3e1", {"log_m": -30.0}),
        ("--eps", "0", {"eps": 0.0}),
        ("--burn-in", "123", {"burn_in": 123}),
        ("--adapt", "batch", {"adapt": "batch"}),
    ],
)
def test_each_field_is_a_flag(run, generated, flag, value, expected):
    assert run(*GENERATE[:-2], flag, value)[0] == 4
    ((_, sampler, n), _) = generated[0]
    assert (sampler, n) == (DRS(**expected), 50)


def test_every_field_has_a_flag(run):
    text = run("generate", "--help")[1]
    for field in dataclasses.fields(DRS):
        assert f"--{field.name.replace('_', '-')} " in text
    assert "default: 10000" in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--seed", 2**63), {"seed": 2**63}),
        (("--batch-size", 100), {"batch_size": 100}),
        (("--device", "cpu"), {"device": "cpu"}),
        (("--max-proposals", 7), {"max_proposals": 7}),
        (("--max-seconds", "1.5"), {"max_seconds": 1.5}),
        (("--patience", 8), {"patience": 8}),
        (("--chunk-rows", 16), {"chunk_rows": 16}),
        (("--quiet",), {"progress": False}),
        (("--save", "z,logit"), {"save": ("z", "logit")}),
        ((), {"seed": 0, "batch_size": 4096, "device": None, "max_proposals": None,
              "max_seconds": None, "patience": 10**6, "chunk_rows": None, "progress": True,
              "save": ("x", "logit")}),
    ],
)  # fmt: skip
def test_each_setting_reaches_the_engine(run, generated, flags, expected):
    assert run(*GENERATE, *flags)[0] == 4
    named = generated[0][1]
    assert expected.items() <= named.items()


def test_a_backend_is_forced(run, monkeypatch):
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_reason", "the extension is on holiday")
    drs.ops.dispatch._dispatch.cache_clear()
    try:
        code, _, err = run(*GENERATE, "--backend", "cpu")
        assert code == 2
        assert "on holiday" in err
        assert run(*GENERATE, "--backend", "reference")[0] == 0
        assert run("generate", "MODELS:good", "-n", 60, "--out", "DIR", "--burn-in", 500)[0] == 0
    finally:
        drs.ops.dispatch._dispatch.cache_clear()


def test_help_lists_the_exit_codes(run):
    code, out, _ = run("--help")
    assert code == 0
    for number, meaning in EXIT_CODES.items():
        assert re.search(rf"^ +{number}  {re.escape(meaning)}$", out, re.MULTILINE)
    for command in ("demo", "generate", "doctor", "status", "verify", "unweight", "report"):
        assert command in out


def test_version(run):
    assert run("--version") == (0, f"{drs.__version__}\n", "")


# --- exit codes


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "COMMAND"),
        (("dance",), 2, "dance"),
        (("generate", "MODELS:good"), 2, "-n"),
        ((*GENERATE, "--gamma", "much"), 2, "gamma"),
        ((*GENERATE, "--sampler", "mcmc"), 2, "drs"),
        ((*GENERATE, "--backend", "fpga"), 2, "reference"),
        ((*GENERATE, "--sampler", "isir", "--percentile", "3"), 2, "error: ISIR has no "
         "--percentile; it has --candidates, --steps, --burn-in\n"),
        ((*GENERATE, "--budget=3", "--cap=1"), 2, "error: DRS has no --budget, --cap; it has "
         "--gamma, --percentile, --target-acceptance, "),
        ((*GENERATE, "--sampler", "MH", "--gamma", "3"), 2, "error: MH has no --gamma; it has "
         "--chain-length, --start, --unmoved, --burn-in, --starts\n"),
        ((*GENERATE, "--percentil=3"), 2, "error: DRS has no --percentil; did you mean "
         "--percentile?\n"),
        ((*GENERATE, "--chunkrows", "3"), 2, "no --chunkrows; did you mean --chunk-rows?\n"),
        (("plan", "MODELS:good", "-n", "9", "--zzz", "3"), 2, "error: DRS has no --zzz; it has "),
        (("verfy", "DIR"), 2, "there is no command 'verfy'; did you mean verify? There are demo, "),
        (("generate", "digit", "-n", "1", "--out", "DIR"), 2, "'digit'; did you mean digits?\n"),
        ((*GENERATE, "--sampler", "dsr"), 2, "there is no sampler 'dsr'; did you mean drs? There "),
        ((*GENERATE, "--arg", "width"), 2, "argument --arg: must be like width=64, got 'width'\n"),
        ((*GENERATE, "--arg", "a=1", "--arg", "a=2"), 2, "--arg a is given twice; give it once\n"),
        ((*GENERATE, "--arg", "width=3"), 2, "good takes (): got an unexpected keyword argument "
         "'width'; give arguments as drs.load(name, path=...) or --arg path=...\n"),
        ((*GENERATE, "--worker", "-1/2"), 2, "worker must be from 1/2 to 2/2, got -1/2\n"),
        ((*GENERATE, "-n", "10k"), 2, "argument -n: must be a whole number such as 50000, 50_000, "
         "50,000 or 5e4, got '10k'\n"),
        ((*GENERATE, "-n", "1.5"), 2, "got '1.5'\n"),
        ((*GENERATE, "more"), 2, "unrecognized arguments: more\n"),
        (("verify", "DIR", "--pool", "3"), 2, "error: drs-fast verify has no --pool; it has "
         "--help, --repair, --traceback\n"),
        ((*GENERATE, "--percentile", "0.8"), 2, "percent"),
        ((*GENERATE, "--gamma", "1", "--percentile", "80"), 2, "one of gamma"),
        ((*GENERATE, "--seed", "-1"), 2, "seed"),
        ((*GENERATE, "-n", "-1"), 2, "n must be"),
        ((*GENERATE, "--save", "x,y"), 2, "save must be of"),
        ((*GENERATE, "--chunk-rows", "200000"), 2,
         "chunk_rows must be a power of two, such as 262144, got 200000"),
        ((*GENERATE, "--sampler", "sir", "--pool", "10", "--size", "1", "--chunk-rows", "300"), 2,
         "chunk_rows must be 10 times a power of two, such as 320, got 300"),
        ((*GENERATE, "--max-seconds", "0"), 2, "max_seconds"),
        ((*GENERATE, "--device", "nowhere"), 2, "nowhere"),
        (("generate", "nobody", "-n", "1", "--out", "DIR"), 2, "25gaussians"),
        (("generate", "MODELS:absent", "-n", "1", "--out", "DIR"), 2, "absent"),
        (("generate", "MODELS:faulty", "-n", "1", "--out", "DIR"), 2, "no checkpoint here"),
        (("generate", "MODELS:wrong_shape", "-n", "1", "--out", "DIR"), 2, "one floating-point"),
        (("generate", "MODELS:sigmoid", "-n", "1", "--out", "DIR"), 2, "link='probability'"),
        (("generate", "MODELS:nan", "-n", "1", "--out", "DIR"), 3, "NaN"),
        ((*GENERATE, "--gamma", "600", "--log-m", "90", "--patience", "5000"), 4, "Remedies"),
        ((*GENERATE, "-n", "5000", "--max-proposals", "4096"), 4, "max_proposals=4,096"),
    ],
)  # fmt: skip
def test_exit_codes(run, arguments, code, words):
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_exit_code_2(run):
    code, _, err = run("generate", "25gaussians", "-n", "1", "--out", "DIR", "--device", "cuda")
    assert code == 2
    assert "cuda" in err.lower()


def test_a_full_disk_is_exit_code_5(run, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 10, 0))
    code, out, err = run(*GENERATE)
    assert (code, out) == (5, "")
    assert "0 are free" in err
    assert str(tmp_path / "run") in err


def test_an_unwritable_parent_is_exit_code_5(run, monkeypatch):
    def mkdir(path, *rest, **named):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    code, _, err = run(*GENERATE)
    assert code == 5
    assert "Permission denied" in err


def test_out_of_time_is_exit_code_75_until_the_run_is_complete(run, tmp_path):
    command, codes = (*GENERATE, "--chunk-rows", 64, "--quiet"), []
    for there in range(20):  # burn-in, then a chunk at a time
        code, out, err = run(*command, "--max-seconds", 1e-9)
        codes.append(code)
        if code == 0:
            break
        samples = drs.open(tmp_path / "run")
        assert out == ""
        assert len(samples.counts) == there
        assert err == (
            f"drs-fast: {len(samples)} of 50 samples after max_seconds=1e-09; run the same again "
            f"to go on in {tmp_path / 'run'}\n"
        )
    assert len(codes) > 3
    assert codes == [75] * (len(codes) - 1) + [0]
    pieces = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert run(*command)[0] == 0
    assert contents(tmp_path / "run") == pieces


def test_damage_is_exit_code_6_until_repaired(run, tmp_path):
    run(*GENERATE, "--chunk-rows", "64")
    code, out, err = run("verify", "DIR")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"50 samples in \d+ shards: every sha256 matches\n", out)
    sound = contents(tmp_path / "run")
    shard = tmp_path / "run" / "chunk-00000001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    code, out, err = run("verify", "DIR")
    assert code == 6
    assert "chunk-00000001" in out
    assert err.startswith("drs-fast: 1 problem; run `verify --repair`, then")
    code, out, _ = run("verify", "DIR", "--repair")
    assert code == 0
    assert re.match(r"dropped: .*chunk-00000001", out)
    assert run(*GENERATE)[0] == 0
    assert contents(tmp_path / "run") == sound
    assert run("verify", "DIR")[0] == 0


def test_one_is_no_plural(run):
    assert run(*GENERATE, "-n", "1")[1].startswith("1 sample in ")
    assert run("verify", "DIR")[1] == "1 sample in 1 shard: every sha256 matches\n"


def test_a_damaged_manifest_is_exit_code_6(run, tmp_path):
    run(*GENERATE)
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"n": 50', '"n": 51'))
    for command in (GENERATE, ("verify", "DIR"), ("verify", "DIR", "--repair")):
        code, _, err = run(*command)
        assert code == 6
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--seed", "1"), "seed: there 0, here 1"),
        (("--gamma", "0.5"), "sampler"),
        (("-n", "20"), "50 samples, got a request for 20"),
        (("--save", "x"), "save"),
    ],
)
def test_another_run_is_exit_code_7(run, change, words):
    assert run(*GENERATE)[0] == 0
    code, out, err = run(*GENERATE, *change)
    assert (code, out) == (7, "")
    assert words in err


def test_a_strangers_directory_is_exit_code_7(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("all my work")
    code, _, err = run(*GENERATE)
    assert code == 7
    assert "thesis.txt" in err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_a_directory_in_use_is_exit_code_7(run, tmp_path):
    run(*GENERATE)
    manifest = drs.open(tmp_path / "run").manifest
    with store.Writer.open(tmp_path / "run", {key: manifest[key] for key in SPEC}, 50):
        code, _, err = run(*GENERATE)
    assert code == 7
    assert "another process" in err


@pytest.mark.parametrize("flags", [(), ("--repair",)])
def test_verify_where_there_is_no_run(run, flags):
    code, _, err = run("verify", "DIR", *flags)
    assert code in (6, 7)
    assert err


TOLD = [cli._Told(signal.SIGTERM)]
if sys.platform != "win32":
    TOLD.append(cli._Told(signal.SIGUSR1))


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), *zip(TOLD, (143, 75), strict=False)]
)
def test_interruptions_have_their_codes(run, monkeypatch, error, code):
    def generate(*given, **named):
        raise error

    monkeypatch.setattr(engine, "generate", generate)
    got, out, err = run(*GENERATE)
    assert (got, out) == (code, "")
    assert err.endswith("; nothing had been written yet\n")


def test_a_signal_that_became_another_error_is_still_a_signal(run, monkeypatch):
    """PyTorch's C++ swallows what a handler raises where it calls Python, and raises its own."""

    def generate(*given, **named):
        with contextlib.suppress(cli._Told):
            signal.raise_signal(signal.SIGTERM)
        raise ValueError("could not determine the shape of object type 'torch.storage'")

    monkeypatch.setattr(engine, "generate", generate)
    code, _, err = run(*GENERATE)
    assert code == 143
    assert err.startswith("drs-fast: terminated")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TOLD[0]])
def test_an_interrupted_unweight_speaks_of_no_shards(run, monkeypatch, tmp_path, error):
    def stop(*given, **named):
        raise error

    monkeypatch.setattr(commands, "unweight_file", stop)
    err = run("unweight", "a.npz", "--log-weight", "a", "--out", "b.npz")[2]
    assert "the output is written whole or not at all" in err
    assert "shard" not in err


@pytest.mark.parametrize(
    ("file", "said"),
    [(commands.__file__, "careful"), ("/a/model.py", "/a/model.py, line 7: careful")],
)
def test_warnings_come_without_source_lines(run, monkeypatch, capsys, file, said):
    def warn(options):
        warnings.warn_explicit("careful", UserWarning, file, 7)
        return 0

    monkeypatch.setattr(commands, "run_doctor", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", shown)
        assert run("doctor")[2] == f"drs-fast: warning: {said}\n"
    assert warnings.formatwarning is not cli._formatted


def shown(message, category, filename, lineno, file=None, line=None):
    """As Python shows warnings, which pytest records instead."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def test_a_range_of_images(run, tmp_path):
    images = ("--images", "uint8", "--value-range", "-8", "8")
    assert run(*GENERATE, *images)[0] == 0
    assert drs.open(tmp_path / "run").manifest["value_range"] == [-8.0, 8.0]
    for i, joined in enumerate((["--value-range", "-8,8"], ["--value-range=-8,8"])):
        out = str(tmp_path / f"joined{i}")
        assert run(*GENERATE[:5], out, "--images", "uint8", *joined)[0] == 0
        assert drs.open(out).manifest["value_range"] == [-8.0, 8.0]
    code, _, err = run(*GENERATE[:5], "DIR2", "--value-range", "0", "1")
    assert (code, "--value-range needs --images uint8" in err) == (2, True)
    code, _, err = run(*GENERATE[:5], "DIR2", "--images", "uint8", "--value-range", "1", "0")
    assert (code, "low < high" in err) == (2, True)


def test_the_table_has_every_code():
    assert set(EXIT_CODES) == {*range(10), 75, 130, 141, 143}


# --- status


def test_status(run, tmp_path):
    code, out, err = run("status", "DIR")
    assert (code, out, "no run yet" in err) == (7, "", True)
    assert run(*GENERATE, "-n", 5000, "--chunk-rows", 512, "--max-seconds", 1e-9)[0] == 75
    assert run("status", "DIR")[:2] == (
        75, f"{tmp_path / 'run'}: 0 of 5,000 samples in 0 chunks: nobody writes\n"
    )  # fmt: skip
    assert run(*GENERATE, "-n", 5000, "--chunk-rows", 512)[0] == 0
    code, out, _ = run("status", "DIR")
    assert (code, out.endswith(": complete\n")) == (0, True)
    assert "5,000 of 5,000 samples in " in out
    (tmp_path / "run" / "shards.jsonl").write_text("")
    assert run("status", "DIR")[0] == 75


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_status_of_a_run_that_is_being_written(run, tmp_path):
    (tmp_path / "run").mkdir()
    with contextlib.closing(Folder(tmp_path / "run", shared=True)):
        code, out, _ = run("status", "DIR")
        assert (code, out) == (75, f"{tmp_path / 'run'}: a run that has just begun\n")
    assert run(*GENERATE)[0] == 0
    manifest = drs.open(tmp_path / "run").manifest
    with store.Writer.open(tmp_path / "run", {key: manifest[key] for key in SPEC}, 60):
        code, out, _ = run("status", "DIR")
        assert (code, out.endswith(": being written\n")) == (75, True)


# --- doctor


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (3, "3 threads")])
def test_doctor_lists_the_backends(threads, words, run, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert f"drs_fast {drs.__version__}" in out
    assert f"torch {torch.__version__}" in out
    assert f"\ncpu: {words}\n" in out
    assert re.search(r"^  cpu: ready, \S.* instructions$", out, re.MULTILINE)
    assert re.search(r"^  reference: ready$", out, re.MULTILINE)
    assert re.search(r"^  cuda: (needs CUDA tensors, not those on cpu|.*built.*)$", out, re.M)


def test_doctor_says_why_without_the_extension(run, monkeypatch):
    monkeypatch.setattr(cpu, "_C", None)
    monkeypatch.setattr(cpu, "_reason", "extension not built (no compiler was found)")
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert re.search(r"^  cpu: extension not built \(no compiler was found\)$", out, re.MULTILINE)
    assert re.search(r"^  reference: ready$", out, re.MULTILINE)


def test_doctor_finds_nothing_wrong_with_a_sound_model(run):
    code, out, err = run("doctor", "MODELS:sound")
    assert (code, err) == (0, "")
    assert out.startswith("models_of_the_cli.py:sound: no problems\n")
    assert re.search(r"^acceptance_p80 +0\.\d+$", out, re.MULTILINE)
    assert "torch" not in out  # the environment is left out


def test_doctor_finds_problems(run):
    code, out, err = run("doctor", "MODELS:sigmoid", "-n", 600)
    assert (code, err) == (8, "")
    assert out.startswith("models_of_the_cli.py:sigmoid: 1 problem\n")
    assert "probability-as-logit\n  seen: link='logit', but" in out
    assert "\n  do:   use link='probability'" in out
    assert re.search(r"^rows +600$", out, re.MULTILINE)


def test_doctor_gives_a_diagnosis_where_generate_gives_an_error(run):
    for model, code in (("nan", "invalid-logits"), ("wrong_shape", "fails")):
        got, out, err = run("doctor", f"MODELS:{model}")
        assert (got, err) == (8, "")
        assert f"\n{code}\n" in out


def test_doctor_says_that_the_models_own_real_samples_fail(run):
    code, out, err = run("doctor", "MODELS:unreal")
    assert (code, err) == (8, "")
    assert "unreal: 1 problem\n\nreal-samples\n  seen: real failed on 4096: OSError: not" in out


@pytest.mark.parametrize("kind", ["npy", "pt", "safetensors", "tuple.pt", "x.safetensors"])
def test_doctor_takes_real_samples_from_a_file(run, tmp_path, kind):
    x = drs.ops.normal(drs.Rng(2), 4096, 2, stream=8) + torch.tensor([1.0, 0.0])
    y, file = torch.arange(4096) % 2, tmp_path / f"real.{kind}"
    if kind == "npy":
        np.save(file, x.double().numpy())
    elif kind == "pt":
        torch.save(x, file)
    elif kind == "tuple.pt":
        torch.save((x, y), file)
    else:
        save_file({"x": x, "y": y} if kind.startswith("x") else {"images": x}, file)
    labelled = kind in ("tuple.pt", "x.safetensors")
    model = "conditional" if labelled else "good"
    code, out, err = run("doctor", f"MODELS:{model}", "--real", file)
    assert err == ""
    assert re.search(r"^auc +0\.7\d+$", out, re.MULTILINE)
    assert code == 8 if labelled else code == 0  # its generator ignores labels


def test_doctor_looks_at_the_file_rather_than_the_models_own_samples(run, tmp_path):
    np.save(tmp_path / "real.npy", np.zeros((99, 3)))
    code, out, _ = run("doctor", "MODELS:sound", "--real", tmp_path / "real.npy")
    assert code == 8
    assert "\nreal-shape\n" in out


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (None, "MODEL"),
        ("absent.npy", "absent.npy: there is no such file"),
        ("text.pt", "text.pt is damaged or of an unknown kind: its 7 bytes"),
        ("pickled.npy", "pickled.npy holds Python objects"),
        ("state.safetensors", "must hold a tensor"),
    ],
)
def test_doctor_and_files_that_hold_no_samples(run, tmp_path, file, words):
    (tmp_path / "text.pt").write_text("samples")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "state.safetensors")
    where = (
        ("--real", tmp_path / "any.npy")
        if file is None
        else ("MODELS:good", "--real", tmp_path / file)
    )
    code, out, err = run("doctor", *where)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"), [(("absent",), "25gaussians"), (("MODELS:faulty",), "no checkpoint")]
)
def test_doctor_of_a_model_that_cannot_be_loaded(run, arguments, words):
    code, out, err = run("doctor", *arguments)
    assert (code, out) == (2, "")
    assert words in err


# --- progress


def test_plain_lines_where_there_is_no_terminal(run, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    _, _, err = run(*GENERATE, "--batch-size", "256", "--chunk-rows", "256")
    *lines, seconds = err.splitlines()
    assert re.match(r"[\d.e-]+ s: [a-z]", seconds)
    assert len(lines) > 1
    words = r"\d+\.\d\d% accepted, (\d+\.\d% effective when weighted, )?"
    pattern = rf"[\d,]+ of 50 samples, [\d,]+/s, {words}([\d,]+|inf) s left"
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert lines[-1].startswith("50 of 50 samples")
    assert lines[-1].endswith("effective when weighted, 0 s left")
    assert "\r" not in err


def test_lines_are_rare(run):
    _, _, err = run(*GENERATE, "--batch-size", "256", "--chunk-rows", "256")
    assert len(err.splitlines()) == 2  # the second says where the time went


def test_acceptance_and_rate_are_of_this_start_alone(run, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    run(*GENERATE[:3], "2000", *GENERATE[4:], "--chunk-rows", "256", "--quiet")
    _, _, err = run(*GENERATE[:3], "4000", *GENERATE[4:], "--chunk-rows", "256")
    share = float(re.search(r"([\d.]+)% accepted, .* 0 s left", err).group(1))
    facts = drs.open(tmp_path / "run").manifest
    assert share == pytest.approx(100 * facts["n"] / facts["proposals"], abs=4)


def test_a_bar_on_a_terminal(models, tmp_path):
    pytest.importorskip("tqdm")
    termios = pytest.importorskip("termios")
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    command = ["generate", f"{models}:good", "-n", "50", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "drs_fast.cli.main", *command],
        stderr=follower,
        stdout=subprocess.PIPE,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:
            break
        if not block:
            break
        shown += block
    printed, _ = process.communicate()
    os.close(leader)
    assert process.returncode == 0
    assert printed.startswith(b"50 samples in ")
    assert b"50.0/50.0" in shown
    assert b"accepted" in shown


# --- as a process


def test_a_process_ends_with_the_code(run, models, tmp_path):
    assert run(*GENERATE)[0] == 0
    command = ["generate", f"{models}:good", "-n", "50", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "drs_fast.cli.main", *command, "--seed", "5"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("drs-fast: ")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError("of the host"), 1, "smaller --batch-size: of the host"),
        (torch.OutOfMemoryError("of a GPU"), 1, "smaller --batch-size: of a GPU"),
        (UserWarning("an early warning"), 2, "an early warning"),
    ],
)
def test_no_traceback(run, monkeypatch, error, code, said):
    def fails(*arguments, **named):
        raise error

    monkeypatch.setattr(drs.GAN, "logits", fails)
    found, _, err = run(*GENERATE)
    assert (found, err.count("\n")) == (code, 1)
    assert said in err


def test_closed_streams(models, tmp_path):
    command = f"{sys.executable} -m drs_fast generate {models}:good -n 50 --out {tmp_path / 'run'}"
    done = subprocess.run(f"{command} >&- 2>&-", shell=True, check=False)
    assert done.returncode == 0
    assert len(drs.open(tmp_path / "run")) == 50


@pytest.mark.parametrize("device", ["xpu", "mps", "hpu", "cuda:99"])
def test_a_device_that_is_not_there_is_exit_code_2(run, device):
    code, _, err = run(*GENERATE, "--device", device)
    assert code == 2
    assert err.startswith(f"drs-fast: device is {device}")
    assert len(err) < 300  # PyTorch lists a hundred lines of backends


def test_a_burn_in_beyond_the_reserved_rows(run):
    code, _, err = run(*GENERATE, "--burn-in", "9" * 20)
    assert code == 2
    assert "burn_in must be at most 2^61" in err


@pytest.mark.parametrize("flag", [["--tolerance", "0.01"], ["--unseen", "0.1"]])
def test_what_is_said_of_a_bound_needs_squeeze(run, flag, tmp_path):
    code, _, err = run(*GENERATE, *flag)
    assert code == 2
    assert err == f"drs-fast: {flag[0]} {float(flag[1]):g} needs --squeeze\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["a", "1,,2", "1;2", ""])
def test_label_weights_that_are_no_numbers(given, capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "digits", "-n", "1", "--out", "o", "--label-weights", given])
    said = f"argument --label-weights: must be numbers such as 3,1,2, got {given!r}"
    assert said in capsys.readouterr().err


def test_a_path_that_is_not_utf8_is_printed(tmp_path, models):
    """A terminal's output refuses such a name, and verify prints it."""
    folder = os.fsencode(tmp_path) + b"/run\x80"
    run = [sys.executable, "-m", "drs_fast"]
    made = subprocess.run(
        [*run, "generate", f"{models}:good", "-n", "20", "--out", tmp_path / "plain", "--burn-in",
         "300"], capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0
    os.rename(tmp_path / "plain", folder)
    with open(folder + b"/manifest.json.tmp", "w"):
        pass
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    said = subprocess.run([*run, "verify", folder], capture_output=True, env=strict)
    assert said.returncode == 6
    assert rb"run\udc80" in said.stdout
