"""Precision, memory layout and compilation of G and D: what is kept, and what it changes."""

import copy
import json
from collections import Counter

import pytest
import torch
from runs import columns, equal, files, toy
from torch import nn

import drs_fast as drs
from drs_fast import cli, engine, loop, ops, report, store, tuning
from drs_fast.samplers.drs import DRS

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


def lines():
    said = []
    return said, said.append


def gains(monkeypatch, *values):
    """What variants are said to gain, one after another; then none may be timed."""
    left = list(values)
    monkeypatch.setattr(tuning, "_gain", lambda *given: left.pop(0))
    return left


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


@pytest.fixture(scope="module", autouse=True)
def _fewer_rows_to_count_flips_in():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "FLIP_ROWS", 2000)
        yield


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
    assert torch.tensor(samples.manifest["flip_rate"]) == batch.stats["flip_rate"]


def test_the_flip_rate_is_what_it_says(digits):
    gan = drs.load("digits").on(block=1024)
    state = QUICK.init(gan.on(precision="bf16"), drs.Rng(3))
    rows = -(-tuning.FLIP_ROWS // 1024) * 1024
    here = drs.Rng(3, drs.core.BURN_IN_ROW)
    z = ops.latents(gan, here, rows)
    decisions = [
        ops.accept(
            gan.on(precision=precision).logits(z)[1], here, log_m=state.log_m, gamma=state.gamma
        )
        for precision in ("fp32", "bf16")
    ]
    flips = int((decisions[0] ^ decisions[1]).sum())
    assert float(digits[1].manifest["flip_rate"]) == flips / rows


def test_a_bf16_run_can_be_verified_and_reported(digits, tmp_path):
    samples = digits[1]
    assert store.verify(samples.path) == []
    text, pictures = report.write(samples.path, tmp_path / "report")
    assert "not drawn" not in text
    assert {picture.name for picture in pictures} == {"scores.png", "logits.png", "samples.png"}


def test_a_bf16_run_of_points_can_be_reported(tmp_path):
    gan = drs.load("25gaussians")
    drs.generate(gan, QUICK, 200, precision="bf16", out=tmp_path / "run", batch_size=256)
    text, pictures = report.write(tmp_path / "run")
    assert "not drawn" not in text
    assert len(pictures) == 3


def test_a_bf16_run_goes_on_without_another_burn_in(tmp_path, monkeypatch):
    settings = {"precision": "bf16", "batch_size": 256, "chunk_rows": 256}
    drs.generate(images(), QUICK, 300, out=tmp_path / "direct", **settings)
    drs.generate(images(), QUICK, 100, out=tmp_path / "run", **settings)
    monkeypatch.setattr(tuning, "flip_rate", None)
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
        ({"precision": "fp16"}, r"precision must be one of \('fp32', 'bf16'\), got 'fp16'"),
        ({"precision": ""}, r"precision must be one of \('fp32', 'bf16'\), got ''"),
        ({"tune": ("fast",)}, "tune takes channels_last, compile, got 'fast'"),
        ({"tune": ("channels_last", "")}, "tune takes channels_last, compile, got ''"),
    ],
)
def test_unknown_names_are_answered_with_the_options(run, change, words):
    with pytest.raises(ValueError, match=words):
        run(**change)


def test_unknown_names_leave_no_directory(tmp_path):
    for change in ({"precision": "fp16"}, {"tune": ("fast",)}):
        with pytest.raises(ValueError, match="got"):
            drs.generate(toy(), QUICK, 5, out=tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


# --- what is tried, and kept


@pytest.mark.parametrize(("gain", "kept"), [(1.5, True), (tuning.GAIN, True), (1.01, False)])
def test_channels_last_is_kept_where_it_is_faster(monkeypatch, tmp_path, capsys, gain, kept):
    plain = drs.generate(images(), QUICK, 200, batch_size=256)
    left = gains(monkeypatch, gain)
    seen, forward = set(), Generator.forward

    def spy(module, z):
        weight = module.layers[2].weight
        seen.add(weight.is_contiguous(memory_format=torch.channels_last))
        return forward(module, z)

    gan = images()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "forward", spy)
        run = engine.Run(
            gan.on(block=256), QUICK, 5, 0, None, 10**6, ("channels_last",), cuda_graph=True
        )
        found = run.begin(progress=True)
    assert left == []
    assert seen == {kept}
    assert found == {"tuned": ["channels_last"] if kept else []}
    said = capsys.readouterr().err
    assert said == f"channels_last: {gain:.2f} times the speed of G and D, " + (
        "kept\n" if kept else "not kept\n"
    )
    gains(monkeypatch, gain)
    batch = drs.generate(images(), QUICK, 200, batch_size=256, tune=("channels_last",))
    assert batch.x.is_contiguous()
    assert torch.allclose(batch.x[batch.ids == plain.ids], plain.x[batch.ids == plain.ids])
    assert int((batch.ids == plain.ids).sum()) > 150
    assert kept or equal(batch, plain)


def test_the_modules_given_are_not_touched(monkeypatch):
    gan = images()
    modules = (gan.generator, gan.discriminator)
    before = [copy.deepcopy(module) for module in modules]
    gains(monkeypatch, 1.5)
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


def test_a_kept_variant_is_applied_to_samples_and_goes_on_untimed(monkeypatch, tmp_path, marked):
    settings = {"tune": ("marked",), "batch_size": 256, "chunk_rows": 256}
    gains(monkeypatch, 1.5)
    drs.generate(toy(), QUICK, 300, out=tmp_path / "direct", **settings)
    gains(monkeypatch, 1.5)
    first = drs.generate(toy(), QUICK, 100, out=tmp_path / "run", **settings)
    assert first.manifest["tuned"] == first.manifest["tune"] == ["marked"]
    made = marked["made"]
    gains(monkeypatch)
    samples = drs.generate(toy(), QUICK, 300, out=tmp_path / "run", **settings)
    assert marked["made"] == made + 1
    assert files(tmp_path / "run") == files(tmp_path / "direct")
    z = drs.ops.normal(drs.Rng(0), 300, 2, ids=samples.ids[:])
    assert torch.equal(samples.x[:], z + 2.0**-10)


def test_a_dropped_variant_stays_dropped(monkeypatch, tmp_path, marked):
    settings = {"tune": ("marked",), "batch_size": 256, "chunk_rows": 256}
    gains(monkeypatch, 0.9)
    first = drs.generate(toy(), QUICK, 100, out=tmp_path / "run", **settings)
    assert (first.manifest["tune"], first.manifest["tuned"]) == (["marked"], [])
    gains(monkeypatch)
    samples = drs.generate(toy(), QUICK, 300, out=tmp_path / "run", **settings)
    assert samples.manifest["tuned"] == []
    assert marked["made"] == 1
    assert torch.equal(samples.x[:], drs.ops.normal(drs.Rng(0), 300, 2, ids=samples.ids[:]))


def test_another_tune_is_another_run(monkeypatch, tmp_path, marked):
    gains(monkeypatch, 1.5)
    drs.generate(toy(), QUICK, 100, out=tmp_path / "run", tune=("marked",))
    with pytest.raises(store.Conflict, match="tune"):
        drs.generate(toy(), QUICK, 200, out=tmp_path / "run")


def test_the_sha256_of_the_model_does_not_depend_on_the_variant(monkeypatch, tmp_path, marked):
    gan = images()
    assert tuning.channels_last(gan).sha256() == gan.sha256()
    assert tuning.VARIANTS["marked"](gan).sha256() == gan.sha256()
    assert gan.on(precision="bf16").sha256() == gan.sha256()
    gains(monkeypatch, 1.5)
    settings = {"out": tmp_path / "run", "tune": ("channels_last",)}
    manifest = drs.generate(gan, QUICK, 20, **settings).manifest
    assert manifest["model_sha256"] == images().sha256()
    assert manifest["tuned"] == ["channels_last"]


def test_variants_come_one_upon_another_in_a_fixed_order(monkeypatch, marked):
    assert tuning.check(("marked", "channels_last")) == ("channels_last", "marked")
    given, said = [], []

    def gain(gan, variant, z, y):
        given.append((gan, variant))
        return 1.5

    monkeypatch.setattr(tuning, "_gain", gain)
    gan = images().on(block=256)
    tuned, kept = tuning.fastest(gan, ("channels_last", "marked"), said.append)
    assert kept == ("channels_last", "marked")
    assert len(said) == 2
    (first, second), (third, fourth) = given
    assert (first, third, fourth) == (gan, second, tuned)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda gan: 1 / 0, "broken: not used (division by zero)"),
        (lambda gan: [][0], "broken: not used (list index out of range)"),
        (lambda gan: next(iter(())), "broken: not used (StopIteration())"),
        (lambda gan: tuning.channels_last(toy()), "broken: not used (G and D must be modules"),
        (lambda gan: gan.changed(lambda f: lambda *given: f(*given)[:3]), "broken: not used ("),
        (
            lambda gan: gan.changed(lambda f: lambda *given: f(*given) * 1.5),
            "broken: not used (it changes logits by up to ",
        ),
        (
            lambda gan: gan.changed(lambda f: lambda *given: f(*given) * torch.nan),
            "broken: not used (it changes logits by up to nan",
        ),
    ],
)
def test_a_variant_that_fails_or_changes_too_much_is_dropped_with_a_line(monkeypatch, make, words):
    monkeypatch.setitem(tuning.VARIANTS, "broken", make)
    said, say = lines()
    gan = images().on(block=256)
    tuned, kept = tuning.fastest(gan, ("broken",), say)
    assert (tuned, kept) == (gan, ())
    assert len(said) == 1
    assert said[0].startswith(words)
    assert "\n" not in said[0]


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
    monkeypatch.setattr(tuning, "GAIN", 0.0)
    said, say = lines()
    assert tuning.fastest(gan, ("shifted",), say)[1] == ()
    assert said[0].startswith("shifted: not used (it changes logits by up to 1")
    monkeypatch.setitem(tuning.VARIANTS, "shifted", lambda gan: gan.changed(lambda f: f))
    assert tuning.fastest(gan, ("shifted",), say)[1] == ("shifted",)


def test_a_gain_is_the_ratio_of_medians(monkeypatch):
    now = [0.0]
    took = {"plain": [1.0, 9.0, 2.0, 2.0, 1.0], "variant": [0.5, 0.5, 7.0, 0.5, 0.5]}

    class Timed:
        def __init__(self, name):
            self.left, self.calls = list(took[name]), 0

        def logits(self, z, y):
            self.calls += 1
            if self.calls > 1:  # the first is to compare
                now[0] += self.left.pop(0)
            return z, z[:, 0]

    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])
    z = torch.arange(6.0)[:, None]
    assert tuning._gain(Timed("plain"), Timed("variant"), z, None) == 2.0 / 0.5


def test_nothing_is_timed_where_nothing_is_to_be_tuned(monkeypatch):
    gains(monkeypatch)
    assert int(drs.generate(toy(), QUICK, 10).count) == 10


def test_a_quiet_run_says_nothing(monkeypatch, capsys):
    gains(monkeypatch, 1.5)
    drs.generate(images(), QUICK, 10, batch_size=256, tune=("channels_last",))
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code
def test_torch_compile(monkeypatch, capsys):
    monkeypatch.setattr(tuning, "GAIN", 0.0)
    settings = {"batch_size": 256, "tune": ("compile",), "progress": True}
    plain = drs.generate(images(), QUICK, 200, batch_size=256)
    batch = drs.generate(images(), QUICK, 200, **settings)
    assert "times the speed of G and D, kept" in capsys.readouterr().err
    same = batch.ids == plain.ids
    assert int(same.sum()) > 150
    assert torch.allclose(batch.x[same], plain.x[same], atol=1e-5)


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
    monkeypatch.setattr(engine, "generate", lambda *rest, **named: seen.update(named))
    model = f"{tmp_path / 'model_to_tune.py'}:make"
    code = cli.main(
        ["generate", model, "-n", "5", "--out", str(tmp_path / "run"), "--quiet", *flags]
    )
    assert code == 0
    assert {name: seen[name] for name in given} == given


def test_cuda_graph_reaches_the_lane(monkeypatch):
    seen, lane = [], loop.lane

    def spy(*rest):
        seen.append(rest[-1])
        return lane(*rest)

    monkeypatch.setattr(loop, "lane", spy)
    for flag in (True, False):
        drs.generate(toy(), QUICK, 5, cuda_graph=flag)
        next(drs.stream(toy(), QUICK, cuda_graph=flag))
    assert seen == [True, True, False, False]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--precision", "fp16"), "choose from"),
        (("--tune", "fast"), "tune takes channels_last, compile, got 'fast'"),
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


def test_a_run_by_the_command_line(monkeypatch, tmp_path, capsys, marked):
    gains(monkeypatch, 1.25)
    (tmp_path / "model_to_tune.py").write_text(MODEL)
    flags = ["--precision", "bf16", "--tune", "marked", "--no-cuda-graph", "--burn-in", "500"]
    model = f"{tmp_path / 'model_to_tune.py'}:make"
    assert cli.main(["generate", model, "-n", "50", "--out", str(tmp_path / "run"), *flags]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["precision"], manifest["tuned"]) == ("bf16", ["marked"])
    assert manifest["flip_rate"] == 0.0  # nothing here is run in bfloat16
    assert "marked: 1.25 times the speed of G and D, kept" in capsys.readouterr().err
