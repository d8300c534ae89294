"""What a plan measures and recommends; how fast anything is, no test asks."""

import importlib
import re
import time
from dataclasses import replace

import pytest
import torch
from runs import files, toy
from torch import nn

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.run import compared, ways
from drs_fast.samplers.common.expected import Expected, Range
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH
from drs_fast.tune import tuning

module = importlib.import_module("drs_fast.run.plan")  # drs.plan is the function
QUICK = DRS(burn_in=512)
GOOD = Expected(0.25, Range(0.1, 0.05, 0.2), Range(0.01, 0.0, 0.3), Range(0.2, 0.15, 0.2))
MODEL = """
import torch
import drs_fast as drs

def make():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return drs.GAN(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1), 2, name="lines")
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Two planted variants, and little of everything."""
    monkeypatch.setattr(ways, "SIZES", (256, 1024))
    monkeypatch.setattr(ways, "USUAL", 1024)
    monkeypatch.setattr(ways, "SLICE", 1e-4)
    monkeypatch.setattr(ways, "ROUNDS", 3)
    monkeypatch.setattr(ways, "AGAINST", 1)
    monkeypatch.setattr(module, "DRAWING", 0.02)
    monkeypatch.setattr(compared, "MOST", compared.LEAST)
    same = {"same": lambda gan: gan.changed(lambda f: f), "close": shifted(1e-3)}
    monkeypatch.setattr(tuning, "VARIANTS", same)


def shifted(by):
    return lambda gan: gan.changed(
        lambda f: (
            f if f is gan.generator else lambda *given: f(*given) + by * torch.sin(given[0][:, 0])
        )
    )


def slow(seconds):
    """So much longer in every call of G."""

    def waits(function):
        def run(*given):
            time.sleep(seconds)
            return function(*given)

        return run

    return lambda gan: gan.changed(lambda f: waits(f) if f is gan.generator else f)


def slow_in_batches_of(size):
    def generator(z):
        time.sleep(0.2 if len(z) == size else 0.0)
        return z

    return drs.GAN(generator, lambda x: x[:, 0], 2)


def test_what_a_plan_holds():
    gan = toy()
    plan = drs.plan(gan, QUICK, n=5000)
    assert isinstance(plan, drs.Plan)
    assert [(way.batch_size, way.tune, way.change) for way in plan.sizes] == [
        (1024, (), 0.0), (256, (), 0.0),
    ]  # fmt: skip
    assert [way.tune for way in plan.tunes] == [(), ("same",), ("close",), ("same", "close")]
    assert {way.batch_size for way in plan.tunes} == {plan.batch_size}
    assert [way.change > 0.0 for way in plan.tunes] == [False, False, True, True]
    assert all(len(way.rates) == 3 and way.rate > 0.0 for way in (*plan.sizes, *plan.tunes))
    assert plan.refused == ()
    assert plan.drawn.sampler == "DRS"
    assert 0 < plan.drawn.samples < plan.drawn.proposals
    assert plan.drawn.hours(10**6) > plan.drawn.hours(5000) > plan.drawn.burn_in / 3600.0
    assert gan.block == 4096
    assert not gan._runs


def test_it_can_be_read():
    found = ways.Way(512, (), (90.0, 100.0, 120.0)), ways.Way(512, ("a", "b"), (150.0,), 2e-6)
    drawn = module.Drawn("DRS", burn_in=36.0, seconds=2.0, proposals=400, samples=100)
    plan = drs.Plan("toy", "fp32", found[:1], found, ("no",), 512, ("a", "b"), drawn, 18_000)
    assert str(plan).splitlines() == [
        "toy, fp32",
        "",
        "                  batch      rows/s   speed",
        "                    512         100    1.00",
        "",
        "                   tune      rows/s   speed   logits change by up to",
        "                   none         100    1.00",
        "                    a,b         150    1.50   2e-06 of their sd",
        "refused: no",
        "",
        "DRS: 0.25 samples per row, 50 samples/s after a burn-in of 36.0 s",
        "18,000 samples: about 6.6 m",
        "",
        "drs-fast generate MODEL -n 18000 --out run --batch-size 512 --tune a,b",
        "drs.generate(gan, sampler, 18000, batch_size=512, tune=('a', 'b'))",
    ]
    nothing = module.Drawn("MH", 1.0, 2.0, 400, 0)
    shown = str(drs.Plan("toy", "bf16", found[:1], found[:1], (), 512, (), nothing, 10))
    assert "MH: none of 400 rows was accepted\n10 samples: about inf h\n" in shown
    assert shown.endswith(
        "--batch-size 512 --precision bf16\n"
        "drs.generate(gan, sampler, 10, batch_size=512, precision='bf16')"
    )


def test_one_line_to_paste_has_the_sampler_and_the_options():
    rows = ((DRS(), GOOD), (DRS(gamma=0.0), GOOD._replace(tv=Range(0.0, 0.0, 0.0))))
    table = compared.Compared(rows, 16_384, None, 1000.0, 500, None)
    found = (ways.Way(4096, (), (100.0,)),)
    plan = drs.Plan("toy", "fp32", found, found, (), 4096, ("a",), None, 500, table, called="toy")
    assert str(plan).splitlines()[-2:] == [
        "drs-fast generate toy -n 500 --out run --gamma 0.0 --save x,logit,weight --tune a",
        "drs.generate(gan, drs.samplers.DRS(gamma=0.0), 500, tune=('a',))",
    ]
    assert str(plan).count("drs-fast generate") == 1
    squeezed = replace(plan, compared=None, sampler=drs.Squeeze(DRS(gamma=0.0)), tune=())
    assert str(squeezed).splitlines()[-2:] == [
        "drs-fast generate toy -n 500 --out run --gamma 0.0 --squeeze",
        "drs.generate(gan, drs.Squeeze(drs.samplers.DRS(gamma=0.0)), 500)",
    ]


def test_a_slow_variant_is_not_recommended(monkeypatch):
    monkeypatch.setattr(tuning, "VARIANTS", {"slow": slow(0.1)})
    plan = drs.plan(toy())
    assert plan.tune == ()
    assert plan.tunes[1].rate < 0.9 * plan.tunes[0].rate


def test_a_fast_variant_is_recommended_and_drawn_with(monkeypatch):
    """Here G is slow as it is, and the variant leaves the waiting out."""
    gan = slow(0.1)(toy())
    monkeypatch.setattr(tuning, "VARIANTS", {"fast": lambda gan: toy().on(block=gan.block)})
    seen, run = [], module.Run
    monkeypatch.setattr(module, "Run", lambda *given: seen.append(given) or run(*given))
    plan = drs.plan(gan, QUICK)
    assert plan.tune == ("fast",)
    assert "--tune fast\n" in str(plan)
    assert seen[0][0].block == plan.batch_size
    assert seen[0][3].tune == ("fast",)


def test_compiling_is_tried_alone_and_with_what_is_fastest(monkeypatch):
    variants = {"slow": slow(0.1), "fast": lambda gan: toy().on(block=gan.block)}
    monkeypatch.setattr(
        tuning, "VARIANTS", variants | {"compile": lambda gan: gan.changed(lambda f: f)}
    )
    tried = [way.tune for way in drs.plan(slow(0.05)(toy())).tunes]
    assert tried[:4] == [(), ("slow",), ("fast",), ("slow", "fast")]
    assert tried[4] == ("compile",)
    assert tried[5:] in ([("fast", "compile")], [("slow", "fast", "compile")])


@pytest.mark.parametrize("size", [256, 1024])
def test_a_slow_batch_size_is_not_recommended(size):
    plan = drs.plan(slow_in_batches_of(size))
    assert plan.batch_size == {256: 1024, 1024: 256}[size]


@pytest.mark.parametrize(
    ("mine", "beats"),
    [
        ((110.0, 110.0, 110.0, 110.0), True),
        ((104.0, 104.0, 104.0, 104.0), False),
        ((500.0, 500.0, 500.0, 104.0), False),  # in one round it was not faster
    ],
)
def test_a_way_must_be_faster_in_nearly_all_rounds(monkeypatch, mine, beats):
    first = ways.Way(256, (), (100.0,) * 4)
    monkeypatch.setattr(ways, "AGAINST", 0)
    assert ways.Way(256, ("a",), mine).beats(first) is beats
    monkeypatch.setattr(ways, "AGAINST", 1)
    assert ways.Way(256, ("a",), mine).beats(first) is (beats or mine[0] == 500.0)


def test_what_changes_logits_is_refused_with_all_that_holds_it(monkeypatch):
    variants = {"wrong": shifted(100.0), "same": lambda gan: gan.changed(lambda f: f)}
    monkeypatch.setattr(tuning, "VARIANTS", variants)
    plan = drs.plan(toy())
    assert [way.tune for way in plan.tunes] == [(), ("same",)]
    (reason,) = plan.refused
    assert reason.startswith(
        "tune=('wrong',) must not change logits by more than 0.01 of their standard"
    )
    assert f"refused: {reason}" in str(plan)


def test_channels_last_is_refused_where_there_are_no_modules(monkeypatch):
    monkeypatch.setattr(tuning, "VARIANTS", {"channels_last": tuning.channels_last})
    assert "G and D must be modules" in drs.plan(toy()).refused[0]
    gan = drs.GAN(nn.Linear(2, 2), nn.Linear(2, 1), 2)
    assert drs.plan(gan, precision="bf16").tunes[1].tune == ("channels_last",)


def test_what_takes_bf16_is_not_tried_in_fp32(monkeypatch):
    monkeypatch.setattr(tuning, "VARIANTS", {"cast": tuning.cast})
    gan = drs.GAN(nn.Linear(2, 2), nn.Linear(2, 1), 2)
    assert drs.plan(gan).refused == ()
    assert [way.tune for way in drs.plan(gan, precision="bf16").tunes] == [(), ("cast",)]


def test_one_batch_size_and_one_precision():
    plan = drs.plan(toy(), batch_size=300, precision="bf16", device="cpu")
    assert [way.batch_size for way in plan.sizes] == [512]
    assert plan.batch_size == 512
    assert plan.drawn is None
    assert plan.model == f"custom on cpu (threads: {torch.get_num_threads()})"


def test_samples_that_are_wanted_are_those_of_a_sampler():
    assert drs.plan(toy(), MH(start="first", chain_length=64), n=100).drawn.sampler == "MH"
    plan = drs.plan(toy(), n=100)
    assert plan.drawn is None
    assert plan.compared.n == 100


def test_labels():
    gan = drs.GAN(lambda z, y: z + y[:, None], lambda x, y: x[:, 0] * y, 2, labels=3)
    assert drs.plan(gan, QUICK).drawn.samples > 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_batch_that_memory_cannot_hold_is_left_out(error):
    most = 256

    def generator(z):
        if len(z) > most:
            raise error
        return z

    gan = drs.GAN(generator, lambda x: x[:, 0], 2)
    plan = drs.plan(gan)
    assert [way.batch_size for way in plan.sizes] == [256]
    assert plan.refused[0].startswith("batches of 1,024: ")
    most = 0
    with pytest.raises(error):
        drs.plan(gan)


def test_a_batch_that_the_networks_refuse_is_listed():
    most = 256

    def generator(z):
        if len(z) > most:
            raise RuntimeError("at most 256 rows")
        return z

    gan = drs.GAN(generator, lambda x: x[:, 0], 2)
    plan = drs.plan(gan)
    assert [way.batch_size for way in plan.sizes] == [256]
    assert plan.batch_size == 256
    assert "refused: batches of 1,024: " in str(plan)
    assert "at most 256 rows" in plan.refused[0]
    most = 0
    with pytest.raises(ValueError, match="at most 256 rows"):
        drs.plan(gan)


def test_a_batch_that_takes_too_long_is_left_out(monkeypatch):
    monkeypatch.setattr(ways, "LONGEST", 0.0)
    assert [way.batch_size for way in drs.plan(toy()).sizes] == [256]


@pytest.mark.parametrize("n", [3, 5_000_000])
@pytest.mark.parametrize("sampler", [DRS(), DRS(percentile=90.0)])
def test_one_time_for_one_sampler(n, sampler):
    """That of a run, which does more than call G and D."""
    plan = drs.plan(toy(), sampler, n=n)
    assert plan.compared.rate == plan.drawn.proposals / plan.drawn.seconds
    (found,) = (found for each, found in plan.compared.samplers if each == sampler)
    time = compared.duration(plan.compared.seconds(found, n))
    assert f"{n:,} samples: about {time}\n" in str(plan)
    assert time in str(plan.compared)


def test_the_pace_is_that_of_a_run_where_no_sampler_is_given(monkeypatch):
    drawn = module.Drawn("DRS", burn_in=0.0, seconds=2.0, proposals=400, samples=100)
    monkeypatch.setattr(module, "_draw", lambda run: drawn)
    assert drs.plan(toy(), n=10).compared.rate == 200.0
    own = drs.plan(toy(), drs.samplers.DGFlow(), n=10)
    assert own.compared.rate == 200.0
    assert own.drawn.expected is None


def test_squeezed_samplers_are_compared(monkeypatch, capsys):
    remark = Expected(0.25, remark="no need")
    monkeypatch.setattr(drs.Squeeze, "expected", lambda *given: remark)
    plan = drs.plan(toy(), squeeze=True, progress=True)
    assert "  squeezed                 no bound: no need\n" in str(plan)
    assert "search for a bound: Squeeze(DRS(gamma=0.0))\n" in capsys.readouterr().err
    assert re.search(r"\n  squeezed +no bound: .* (gain|work)", str(drs.plan(toy())))


def test_a_run_knows_nothing_of_a_plan(tmp_path):
    drs.generate(toy(), QUICK, 300, out=tmp_path / "a")
    gan = toy()
    drs.plan(gan, QUICK, n=300)
    drs.generate(gan, QUICK, 300, out=tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": 0}, "n must be"),
        ({"n": 1.5}, "n must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"precision": "int8"}, "precision must be one of"),
        ({"sampler": DRS}, "sampler must be an instance"),
        ({"squeeze": DRS()}, "squeeze must be"),
    ],
)
def test_wrong_arguments(given, words):
    with pytest.raises(ValueError, match=words):
        drs.plan(toy(), **given)


def test_what_is_no_gan():
    with pytest.raises(ValueError, match=r"gan must be a drs\.GAN, got 'digits'"):
        drs.plan("digits")


# --- the command line


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model_to_plan.py").write_text(MODEL)
    return f"{tmp_path / 'model_to_plan.py'}:make"


def test_the_command_prints_what_to_give(model, capsys):
    flags = [
        "-n",
        "500",
        "--sampler",
        "mh",
        "--start",
        "first",
        "--chain-length",
        "32",
        "--batch-size",
        "256",
    ]
    assert cli.main(["plan", model, *flags, "--precision", "bf16"]) == 0
    out, err = capsys.readouterr()
    assert "lines on cpu" in out
    assert re.search(r"^MH: [\d.e-]+ samples per row, [\d,]+ samples/s after a burn-in", out, re.M)
    assert re.search(r"^500 samples: about \S+ [smh]$", out, re.M)
    assert re.search(
        rf"^drs-fast generate {re.escape(model)} -n 500 --out run .*--batch-size 256 "
        r"--precision bf16( --tune \S+)?$",
        out,
        re.M,
    )
    assert "tune=('same',)\n" in err


def test_a_quiet_command_says_nothing_but_its_answer(model, capsys):
    assert cli.main(["plan", model, "--quiet", "--gamma", "1.0", "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "0"], "batch_size must be"),
        (["-n", "0"], "n must be"),
        (["--sampler", "none"], "there is no sampler 'none'; there are collaborative"),
        (["--gamma", "1", "--percentile", "3"], "gamma"),
        (["--sampler", "sir", "--gamma=1"], "SIR has no --gamma; it has --pool, --size"),
    ],
)
def test_wrong_flags_exit_with_2(model, capsys, flags, words):
    try:
        code = cli.main(["plan", model, *flags])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words in capsys.readouterr().err
