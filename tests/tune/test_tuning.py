"""Precision, memory layout and compilation of G and D: what is kept, and what it changes."""

import copy
import json
import random
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from runs import columns, equal, files, toy
from torch import nn

import drs_fast as drs
from drs_fast import ops, store
from drs_fast.cli import main as cli
from drs_fast.report import report
from drs_fast.run import flips, forecast, generate, lanes
from drs_fast.samplers.drs import DRS
from drs_fast.tune import tuning

QUICK = DRS(burn_in=1024)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8 * 4 * 4),
            nn.Unflatten(1, (8, 4, 4)),
            nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
        )

    def forward(self, z):
        return self.layers(z)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Flatten(), nn.Linear(8 * 4 * 4, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


def images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return drs.GAN(Generator(), Discriminator(), 4)


@pytest.fixture
def marked(monkeypatch):
    """A variant that shows in the samples, though its logits hardly change."""
    calls = Counter()

    def one_more(function):
        def run(*given):
            calls["rows"] += 1
            return function(*given) + 2.0**-10

        return run

    def variant(gan):
        calls["made"] += 1
        return gan.changed(one_more)

    monkeypatch.setitem(tuning.VARIANTS, "marked", variant)
    return calls


# --- precision


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out, settings = tmp_path_factory.mktemp("digits") / "run", {"seed": 3, "batch_size": 1024}
    gan = drs.load("digits")
    held = drs.generate(gan, QUICK, 300, precision="bf16", **settings)
    save = ("x", "z", "logit")
    samples = drs.generate(gan, QUICK, 300, precision="bf16", out=out, save=save, **settings)
    return held, samples, drs.generate(gan, QUICK, 300, **settings)


def test_bf16_gives_its_own_samples_and_says_how_many_decisions_flip(digits):
    batch, _, exact = digits
    assert batch.x.dtype == torch.bfloat16
    assert batch.logit.dtype == batch.z.dtype == torch.float32
    assert 0.0 < float(batch.stats["flip_rate"]) < 0.05
    assert "flip_rate" not in exact.stats
    assert exact.x.dtype == torch.float32
    assert not torch.equal(batch.logit, exact.logit)
    flips = len(set(batch.ids.tolist()) ^ set(exact.ids.tolist()))
    assert 0 < flips < 60


def test_a_directory_in_bf16_holds_the_same(digits):
    batch, samples, _ = digits
    for name, rows in columns(batch).items():
        assert torch.equal(samples.column(name)[:], rows)
        assert samples.column(name)[:].dtype == rows.dtype
    assert samples.manifest["precision"] == "bf16"
    assert samples.manifest["flip_rate"] == float(batch.stats["flip_rate"])


def test_the_flip_rate_is_what_it_says(digits):
    gan = drs.load("digits").on(block=1024)
    state = QUICK.init(gan.on(precision="bf16"), drs.Rng(3))
    rows = flips.ROWS
    here = drs.Rng(3, drs.core.BURN_IN_ROW)
    z = ops.latents(gan, here, rows)
    decisions = [
        ops.accept(
            gan.on(precision=precision).logits(z)[1], here, log_m=state.log_m, gamma=state.gamma
        )
        for precision in ("fp32", "bf16")
    ]
    flipped = int((decisions[0] ^ decisions[1]).sum())
    assert float(digits[1].manifest["flip_rate"]) == flipped / rows


def test_a_bf16_run_can_be_verified_and_reported(digits, tmp_path):
    samples = digits[1]
    assert store.verify(samples.path) == []
    text, pictures, _ = report.write(samples.path, tmp_path / "report")
    assert "not drawn" not in text
    names = {"scores", "logits", "samples", "proposals", "interpolation"}
    assert {picture.stem for picture in pictures} == names


def test_a_bf16_run_of_points_can_be_reported(tmp_path):
    gan = drs.load("25gaussians")
    drs.generate(gan, QUICK, 200, precision="bf16", out=tmp_path / "run", batch_size=256)
    text, pictures, _ = report.write(tmp_path / "run")
    assert "not drawn" not in text
    assert len(pictures) == 4


def test_a_bf16_run_goes_on_without_another_burn_in(tmp_path, monkeypatch):
    settings = {"precision": "bf16", "batch_size": 256, "chunk_rows": 256}
    drs.generate(images(), QUICK, 300, out=tmp_path / "direct", **settings)
    drs.generate(images(), QUICK, 100, out=tmp_path / "run", **settings)
    monkeypatch.setattr(flips, "flip_rate", None)
    drs.generate(images(), QUICK, 300, out=tmp_path / "run", **settings)
    assert files(tmp_path / "run") == files(tmp_path / "direct")
    for precision in ("fp32", None):
        change = {} if precision is None else {"precision": precision}
        with pytest.raises(store.Conflict, match="precision"):
            drs.generate(
                images(), QUICK, 300, out=tmp_path / "run", batch_size=256, chunk_rows=256, **change
            )


def test_an_fp32_manifest_has_no_flip_rate(tmp_path):
    manifest = drs.generate(toy(), QUICK, 10, out=tmp_path / "run").manifest
    assert manifest["precision"] == "fp32"
    assert manifest["tune"] == manifest["tuned"] == []
    assert "flip_rate" not in manifest


@pytest.mark.parametrize("run", [lambda **given: drs.generate(toy(), QUICK, 5, **given),
                                 lambda **given: drs.stream(toy(), QUICK, **given)])  # fmt: skip
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "int8"}, r"precision must be one of \('fp32', .*'fp16'\), got 'int8'"),
        ({"precision": ""}, r"precision must be one of \('fp32', .*'fp16'\), got ''"),
        (
            {"tune": ("fast",)},
            "tune must be auto, or from fold, cast, channels_last, compile, got 'fast'",
        ),
        (
            {"tune": ("channels_last", "")},
            "tune must be auto, or from fold, cast, channels_last, compile, got ''",
        ),
    ],
)
def test_unknown_names_are_answered_with_the_options(run, change, words):
    with pytest.raises(ValueError, match=words):
        run(**change)


def test_unknown_names_leave_no_directory(tmp_path):
    for change in ({"precision": "int8"}, {"tune": ("fast",)}):
        with pytest.raises(ValueError, match="got"):
            drs.generate(toy(), QUICK, 5, out=tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


# --- what is given is applied


def test_channels_last_is_applied(monkeypatch):
    plain = drs.generate(images(), QUICK, 200, batch_size=256)
    seen, forward = [], Generator.forward

    def spy(module, z):
        weight = module.layers[2].weight
        seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        return forward(module, z)

    gan = images()
    monkeypatch.setattr(Generator, "forward", spy)
    batch = drs.generate(gan, QUICK, 200, batch_size=256, tune=("channels_last",))
    # Both run, then both are compared; whether rows are coupled is asked of those given.
    assert seen[:5] == [False, True, False, False, False]
    assert len(seen) > 5
    assert all(seen[5:])
    assert batch.x.is_contiguous()
    same = batch.ids == plain.ids
    assert int(same.sum()) > 150
    assert torch.allclose(batch.x[same], plain.x[same])


def test_the_modules_given_are_not_touched():
    gan = images()
    modules = (gan.generator, gan.discriminator)
    before = [copy.deepcopy(module) for module in modules]
    drs.generate(gan, QUICK, 100, batch_size=256, tune=("channels_last",), precision="bf16")
    assert (gan.generator, gan.discriminator) == modules
    assert gan.precision == "fp32"
    for module, old in zip(modules, before, strict=True):
        assert list(module.state_dict()) == list(old.state_dict())
        for name, weight in module.state_dict().items():
            was = old.state_dict()[name]
            assert weight.stride() == was.stride()
            assert weight.dtype == was.dtype
            assert torch.equal(weight, was)
        assert [part.training for part in module.modules()] == [
            part.training for part in old.modules()
        ]


def test_a_variant_is_applied_to_samples_and_when_going_on(tmp_path, marked):
    settings = {"tune": ("marked",), "batch_size": 256, "chunk_rows": 256}
    drs.generate(toy(), QUICK, 300, out=tmp_path / "direct", **settings)
    first = drs.generate(toy(), QUICK, 100, out=tmp_path / "run", **settings)
    assert first.manifest["tuned"] == first.manifest["tune"] == ["marked"]
    made = marked["made"]
    samples = drs.generate(toy(), QUICK, 300, out=tmp_path / "run", **settings)
    assert marked["made"] == made + 1
    assert files(tmp_path / "run") == files(tmp_path / "direct")
    z = drs.ops.normal(drs.Rng(0), 300, 2, ids=samples.ids[:])
    assert torch.equal(samples.x[:], z + 2.0**-10)


def test_a_stream_is_tuned(marked):
    batch = next(drs.stream(toy(), QUICK, tune=("marked",)))
    assert torch.equal(batch.x, batch.z + 2.0**-10)


TUNED = {"tune": ("channels_last",), "batch_size": 256, "chunk_rows": 256}


def test_the_clock_changes_no_byte(monkeypatch, tmp_path):
    """Clocks jump back and forth; a choice by the clock once fell otherwise by them."""
    for i in (0, 6, 7):
        clock = random.Random(i)
        for name in ("perf_counter", "monotonic", "time", "process_time"):
            monkeypatch.setattr(time, name, lambda clock=clock: 1e6 * clock.random())
        drs.generate(images(), QUICK, 300, out=tmp_path / f"{i}", precision="bf16", **TUNED)
    assert files(tmp_path / "0") == files(tmp_path / "6") == files(tmp_path / "7")


def test_no_stopwatch_runs_in_a_tuned_run(monkeypatch):
    read = []
    for name in ("perf_counter", "perf_counter_ns", "process_time", "thread_time"):
        monkeypatch.setattr(time, name, lambda: read.append(1) or 0.0)
    drs.generate(images(), QUICK, 100, **TUNED)
    assert read == []


def test_a_damaged_state_is_rebuilt_to_the_same_bytes(tmp_path):
    drs.generate(images(), QUICK, 500, out=tmp_path / "whole", **TUNED)
    drs.generate(images(), QUICK, 300, out=tmp_path / "run", **TUNED)
    (tmp_path / "run" / "state.safetensors").write_bytes(b"")
    assert len(store.repair(tmp_path / "run")) == 1
    drs.generate(images(), QUICK, 300, out=tmp_path / "run", **TUNED)
    samples = drs.generate(images(), QUICK, 500, out=tmp_path / "run", **TUNED)
    assert files(samples.path) == files(tmp_path / "whole")


def test_a_run_of_an_earlier_version_that_dropped_a_variant_is_not_continued(tmp_path, marked):
    """There `tune` named what to try, and `tuned` what was kept."""
    settings = {"out": tmp_path / "run", "tune": ("marked",), "batch_size": 256}
    begin = generate.Run.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate.Run, "begin", lambda *given: begin(*given) | {"tuned": []})
        drs.generate(toy(), QUICK, 100, **settings)
    with pytest.raises(store.Conflict, match=r"begun with tune=\[\], .* all of \['marked'\]"):
        drs.generate(toy(), QUICK, 200, **settings)


def test_another_tune_is_another_run(tmp_path, marked):
    drs.generate(toy(), QUICK, 100, out=tmp_path / "run", tune=("marked",))
    with pytest.raises(store.Conflict, match="tune"):
        drs.generate(toy(), QUICK, 200, out=tmp_path / "run")


def test_the_sha256_of_the_model_does_not_depend_on_the_variant(tmp_path, marked):
    gan = images()
    assert tuning.channels_last(gan).sha256() == gan.sha256()
    assert tuning.VARIANTS["marked"](gan).sha256() == gan.sha256()
    assert gan.on(precision="bf16").sha256() == gan.sha256()
    settings = {"out": tmp_path / "run", "tune": ("channels_last",)}
    manifest = drs.generate(gan, QUICK, 20, **settings).manifest
    assert manifest["model_sha256"] == images().sha256()
    assert manifest["tuned"] == ["channels_last"]


def test_variants_come_one_upon_another_in_a_fixed_order(monkeypatch):
    given = []
    for name in ("inner", "outer"):

        def variant(gan, name=name):
            given.append((name, gan))
            return gan.changed(lambda f: f)

        monkeypatch.setitem(tuning.VARIANTS, name, variant)
    gan = images().on(block=256)
    tuned = tuning.applied(gan, tuning.check(("outer", "inner")))
    assert [name for name, _ in given] == ["inner", "outer"]
    assert given[0][1] is gan
    assert given[1][1] not in (gan, tuned)


FAILS = "tune=.'broken',. cannot be applied here: "


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda gan: 1 / 0, f"{FAILS}division by zero; leave it out"),
        (lambda gan: [][0], f"{FAILS}list index out of range"),
        (lambda gan: next(iter(())), rf"{FAILS}StopIteration\(\)"),
        (lambda gan: tuning.channels_last(toy()), f"{FAILS}G and D must be modules, got function"),
        (lambda gan: gan.changed(lambda f: lambda *given: f(*given)[:3]), FAILS),
        (lambda gan: gan.changed(lambda f: lambda *given: 1 / 0), f"{FAILS}division by zero"),
        (
            lambda gan: gan.changed(lambda f: lambda *given: f(*given) * 1.5),
            "not change logits by more than 0.01 of their standard deviation, but changes them by ",
        ),
        (
            lambda gan: gan.changed(lambda f: lambda *given: f(*given) * torch.nan),
            "changes them by nan; leave it out",
        ),
    ],
)
def test_a_variant_that_fails_or_changes_too_much_is_refused(monkeypatch, tmp_path, make, words):
    monkeypatch.setitem(tuning.VARIANTS, "broken", make)
    for out in (None, tmp_path / "run"):
        with pytest.raises(ValueError, match=words):
            drs.generate(images(), QUICK, 10, batch_size=256, tune=("broken",), out=out)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=words):
        drs.stream(images(), QUICK, batch_size=256, tune=("broken",))


def test_an_error_of_the_model_is_not_one_of_the_variant():
    gan = drs.GAN(Generator(), nn.Linear(7, 1), 4)
    with pytest.raises(ValueError, match="discriminator failed on"):
        drs.generate(gan, QUICK, 10, tune=("channels_last",))


def shifted(gan):
    return gan.changed(
        lambda function: (
            function if function is gan.generator else lambda x: function(x) + (x[:, 0] > 0.5)
        )
    )


def test_a_variant_is_judged_by_the_finite_logits(monkeypatch):
    """Logits of -inf are allowed, and must not hide what happens to the others."""
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0].where(x[:, 1] < 2.0, -torch.inf), 2, block=256)
    monkeypatch.setitem(tuning.VARIANTS, "shifted", shifted)
    with pytest.raises(ValueError, match=r"but changes them by 0\.987"):
        tuning.applied(gan, ("shifted",))
    assert tuning.change(gan, gan.changed(lambda f: f)) == (0.0, 0.0)


@pytest.mark.parametrize("logit", [0.0, -torch.inf])
@pytest.mark.parametrize("block", [1, 256])
def test_logits_that_are_all_alike_can_be_compared(logit, block):
    gan = drs.GAN(lambda z: z, lambda x: torch.full((len(x),), logit), 2, block=block)
    assert tuning.change(gan, gan.changed(lambda f: f)) == (0.0, 0.0)
    assert logit < 0.0 or tuning.change(gan, shifted(gan)).logit > tuning.CLOSE


def test_a_change_is_in_standard_deviations_of_the_logits():
    gan = drs.GAN(lambda z: z, lambda x: 3.0 * x[:, 0], 2, block=1024)
    z = ops.latents(gan, drs.Rng(0, drs.core.BURN_IN_ROW), 1024).double()
    expected = float((z[:, 0] > 0.5).any()) / float(3.0 * z[:, 0].std(correction=0))
    assert tuning.change(gan, shifted(gan)).logit == pytest.approx(expected, rel=1e-6)


def test_compile_may_not_choose_by_the_clock(monkeypatch):
    """On a GPU PyTorch before 2.10 times kernels against each other, and cannot be told not to."""
    seen = []
    monkeypatch.setattr(torch, "compile", lambda f, **given: seen.append(given) or f)
    expected = {"fullgraph": True, "dynamic": False, "options": {"deterministic": True}}
    for known in ("deterministic", "max_autotune"):
        compiler = SimpleNamespace(list_options=lambda known=known: [known])
        monkeypatch.setitem(vars(torch), "_inductor", compiler)
        tuning.compiled(images())
    assert seen == [expected] * 2 + [expected | {"options": {}}] * 2
    gan = toy()
    gan._device = torch.device("cuda")
    with pytest.raises(ValueError, match=r"needs PyTorch 2\.10 or later, .* got"):
        tuning.compiled(gan)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code
def test_torch_compile(tmp_path):
    settings = {"batch_size": 256, "tune": ("compile",)}
    gan = images()
    plain = drs.generate(gan, QUICK, 200, batch_size=256)
    batch = drs.generate(gan, QUICK, 200, **settings)
    same = batch.ids == plain.ids
    assert int(same.sum()) > 150
    assert torch.allclose(batch.x[same], plain.x[same], atol=1e-5)
    assert gan.sha256() == images().sha256()
    for out in (tmp_path / "a", tmp_path / "b"):
        assert equal(batch, drs.generate(images(), QUICK, 200, **settings))
        drs.generate(images(), QUICK, 200, out=out, **settings)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code
def test_torch_compile_takes_any_number_of_shapes(monkeypatch):
    """PyTorch itself goes on uncompiled, with other bits, after eight shapes of a class."""
    compile_with = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, options, **given: compile_with(f, backend="eager", **given)
    )
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    for block in range(256, 10 * 256 + 1, 256):
        tuning.applied(toy().on(block=block), ("compile",))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code
def test_a_model_that_does_not_compile_as_a_whole_is_refused():
    def generator(z):
        torch._dynamo.graph_break()
        return z

    gan = drs.GAN(generator, lambda x: x[:, 0], 2, block=256)
    with pytest.raises(ValueError, match=r"tune=\('compile',\) cannot be applied here: "):
        tuning.applied(gan, ("compile",))


# --- the command line


MODEL = """
import drs_fast as drs

def make():
    return drs.GAN(lambda z: z, lambda x: x[:, 0], 2)
"""


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ((), {"precision": "fp32", "tune": (), "cuda_graph": True}),
        (("--precision", "bf16"), {"precision": "bf16"}),
        (("--tune", "compile"), {"tune": ("compile",)}),
        (("--tune", "channels_last,compile"), {"tune": ("channels_last", "compile")}),
        (("--no-cuda-graph",), {"cuda_graph": False}),
    ],
)
def test_flags_reach_generate(monkeypatch, tmp_path, flags, given):
    (tmp_path / "model_to_tune.py").write_text(MODEL)
    seen = {}
    monkeypatch.setattr(generate, "generate", lambda *rest, **named: seen.update(named))
    model = f"{tmp_path / 'model_to_tune.py'}:make"
    code = cli.main(
        ["generate", model, "-n", "5", "--out", str(tmp_path / "run"), "--quiet", *flags]
    )
    assert code == 0
    assert {name: seen[name] for name in given} == given


def test_cuda_graph_reaches_the_lane(monkeypatch):
    seen, lane = [], lanes.lane

    def spy(*rest):
        seen.append(rest[-2])
        return lane(*rest)

    monkeypatch.setattr(lanes, "lane", spy)
    monkeypatch.setattr(forecast, "EARNS", 0)
    for flag in (True, False):
        drs.generate(toy(), QUICK, 5, cuda_graph=flag)
        next(drs.stream(toy(), QUICK, cuda_graph=flag))
    assert seen == [True, True, False, False]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--precision", "int8"), "choose from"),
        (
            ("--tune", "fast"),
            "tune must be auto, or from fold, cast, channels_last, compile, got 'fast'",
        ),
    ],
)
def test_wrong_flags_exit_with_2(monkeypatch, tmp_path, capsys, flags, words):
    arguments = ["generate", "25gaussians", "-n", "5", "--out", str(tmp_path / "run"), *flags]
    try:
        code = cli.main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_run_by_the_command_line(tmp_path, marked):
    (tmp_path / "model_to_tune.py").write_text(MODEL)
    flags = ["--precision", "bf16", "--tune", "marked", "--no-cuda-graph", "--burn-in", "500"]
    model = f"{tmp_path / 'model_to_tune.py'}:make"
    assert cli.main(["generate", model, "-n", "50", "--out", str(tmp_path / "run"), *flags]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["precision"], manifest["tuned"]) == ("bf16", ["marked"])
    assert manifest["flip_rate"] == 0.0  # nothing here is run in bfloat16


def test_a_damaged_state_by_the_command_line(tmp_path):
    run = tmp_path / "run"
    command = ["generate", "digits", "-n", "300", "--out", str(run), "--quiet", "--batch-size"]
    command += ["256", "--chunk-rows", "256", "--burn-in", "512", "--tune", "channels_last"]
    assert cli.main(command) == 0
    before = files(run)
    (run / "state.safetensors").write_bytes(b"")
    assert cli.main(["verify", str(run)]) == 6
    assert cli.main(["verify", str(run), "--repair"]) == 0
    assert cli.main(command) == 0
    assert cli.main(["verify", str(run)]) == 0
    assert files(run) == before


def test_a_variant_that_cannot_be_applied_exits_with_2(tmp_path, capsys):
    (tmp_path / "model_to_tune.py").write_text(MODEL)
    model, out = f"{tmp_path / 'model_to_tune.py'}:make", tmp_path / "run"
    arguments = ["generate", model, "-n", "5", "--out", str(out), "--tune", "channels_last"]
    assert cli.main(arguments) == 2
    assert "G and D must be modules, got function; leave it out" in capsys.readouterr().err
    assert not out.exists()
