"""No two uses of random numbers meet but those of which the table says so."""

import ast
from pathlib import Path

import pytest
import torch

import drs_fast as drs
from drs_fast import core
from drs_fast.backends import arithmetic
from drs_fast.core import rows
from drs_fast.core.rows import RESERVED, Range
from drs_fast.run.generate import ENDLESS
from drs_fast.samplers import DDLS, DRS, MH, FlEx2MCMC
from drs_fast.squeeze.bounds import latent
from drs_fast.squeeze.proposals import Proposals
from drs_fast.training.fitting import Draws

ROOT = Path(drs.__file__).parents[1]
MAP = ROOT / "drs_fast" / "core" / "rows.py"
STREAMS = (
    "LATENT", "ACCEPT", "SELECT", "CHAIN", "NOISE", "LABEL", "AUDIT", "FITTING", "REAL", "PROPOSAL",
    "SHUFFLE", "HIDDEN",
)  # fmt: skip


def problems(table):
    """What is wrong with a table of ranges, in words."""
    found = []
    for i, one in enumerate(table):
        if not 0 <= one.first < one.end <= rows.END:
            found.append(f"{one.name} is empty or no rows")
        above = [
            other.name
            for other in table[:i]
            if {*one.streams} & {*other.streams} and one.first < other.end and other.first < one.end
        ]
        if above != list(one.meets):
            found.append(f"{one.name} meets {above}, but says {list(one.meets)}")
    return found


def test_no_two_ranges_meet():
    assert problems(RESERVED) == []
    assert len({one.name for one in RESERVED}) == len(RESERVED)


@pytest.mark.parametrize(
    "planted",
    [
        Range("planted", rows.PROBE_ROW - 1, rows.PROBE_ROW, (core.LABEL,), ""),
        Range("planted", 2**33 + 5, 2**33 + 6, (core.FITTING, core.REAL), "", ("critics",)),
        Range("planted", 2**40, 2**41, (core.FITTING,), "", ("weights",)),
        Range("planted", 2**41, 2**41, (core.FITTING,), ""),
        Range("planted", 2**62, 2**63 + 1, (core.REAL,), ""),
    ],
)
def test_a_planted_range_shows(planted):
    # The second one meets "real samples" too, the third none.
    assert len(problems((*RESERVED, planted))) == 1


def test_no_run_comes_to_a_reserved_row():
    run = RESERVED[0]
    assert [chunk[1:] for chunk in ENDLESS] == [(run.first, run.end)]
    on_purpose = {"restarts", "simulated chains", "simulated starts", "benchmark data"}
    assert {one.name for one in RESERVED if "run" in one.meets} == on_purpose
    (restarts,) = (one for one in RESERVED if one.name == "restarts")
    for row in (0, 1, 2**40, 2**61 - 1):  # until a run has 2^61 rows, none is its own restart
        assert restarts.first <= row ^ rows.RESTART < restarts.end


def test_streams_and_rows_are_what_runs_of_this_version_have():
    assert rows.RNG_VERSION == 1
    assert [getattr(core, name) for name in STREAMS] == list(range(12))
    assert {stream for one in RESERVED for stream in one.streams} == set(range(12))
    first = {one.name: one.first for one in RESERVED}
    top = 2**62 + 2**61
    assert first == {
        "run": 0, "real samples": 0, "restarts": 2**61, "simulated chains": 2**50,
        "simulated starts": 2**55, "benchmark data": 2**61, "first draws": 0,
        "zoo training": 2**32, "critics": 2**33, "classifier": 2**34, "styles": 2**35,
        "weights": 2**60,
        "order": 2**61, "masks": 2**61 + 2**60, "burn-in": 2**62, "flow": 2**62, "zoo data": 2**62,
        "doctor": 2**62 + 2**60, "training": top, "search": top + 2**58, "ratios": top + 2**59,
        "held out": top + 2**60, "probe": top + 2**60 + 2**59,
        "shuffled samples": 0, "shuffled shards": 2**62, "hidden noise": 0,
    }  # fmt: skip
    wide = [one for one in RESERVED if one.first >= 2**60]
    assert min(one.end - one.first for one in wide) >= 2**58  # more than any of them takes


def strays(source):
    """Lines that name rows by a number of their own where they could be reserved."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign):
            names = [ast.unparse(target) for target in node.targets]
            made = isinstance(node.value, ast.BinOp | ast.Constant)
            if made and any(name.endswith("_ROW") and name != "A_ROW" for name in names):
                found.append(ast.unparse(node))
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        if called not in ("Rng", "Draws", "at"):
            continue
        given = [*node.args[called != "at" :], *(word.value for word in node.keywords)]
        if any(
            isinstance(part, ast.BinOp | ast.Constant) and large(part)
            for one in given
            for part in ast.walk(one)
        ):
            found.append(ast.unparse(node))
    return found


def large(node):
    try:
        return eval(ast.unparse(node), {"__builtins__": {}}) >= 2**48
    except (NameError, TypeError):
        return False


@pytest.mark.parametrize("room", ["drs_fast", "benchmarks"])
def test_rows_are_reserved_in_the_map_alone(room):
    files = [file for file in (ROOT / room).rglob("*.py") if file != MAP]
    assert len(files) > 30
    assert {file.name: strays(file.read_text()) for file in files if strays(file.read_text())} == {}


@pytest.mark.parametrize(
    "line",
    [
        "rng = Rng(seed, 2**62)",
        "draws = fitting.Draws(seed, row=2**61 + 2**60)",
        "rows = rng.at(BURN_IN_ROW + 2**61 + start)",
        "rng = Rng(0, 4611686018427387904)",
        "SECRET_ROW = TRAINING_ROW + 2**58",
    ],
)
def test_a_stray_row_is_seen(line):
    assert len(strays(line)) == 1


def ranges_of(drawn):
    """The ranges that draws (stream, first, last) lie in, by name; fails where there is none."""
    reached = set()
    for stream, first, last in drawn:
        owners = [
            one.name
            for one in RESERVED
            if stream in one.streams and one.first <= first and last < one.end
        ]
        assert owners, f"stream {stream}, rows {first} to {last}: no range has them"
        reached |= {*owners}
    return reached


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn in the reference, as (stream, first row, last row)."""
    calls, philox = [], arithmetic.philox

    def recording(ids, seed, stream, draw):
        if ids.numel():
            calls.append((stream, int(ids.min()), int(ids.max())))
        return philox(ids, seed, stream, draw)

    monkeypatch.setattr(arithmetic, "philox", recording)
    with drs.backend("reference"):
        yield calls


def gan(**settings):
    real = torch.linspace(-2.0, 3.0, 200)[:, None]
    return drs.GAN(lambda z: z, lambda x: x[:, 0] - 0.5, 1, real=real, **settings)


def searched(model):
    """What a search draws in a round."""
    sampler = DRS(gamma=0.0, burn_in=256)
    decides = sampler.rejection(model, sampler.init(model, drs.Rng(5)))
    network = latent.build(model, latent.TINY, Draws(5, rows.SEARCH_ROW))
    proposals = Proposals(decides._replace(free=False), drs.Rng(5))
    proposals.evenly(*proposals.found(network, 2), samples=2.0, most=1e6)


USES = {
    "restart": (
        lambda: drs.generate(gan(), MH(4, unmoved="restart", burn_in=1000), 8, batch_size=64),
        {"run", "real samples", "restarts", "burn-in"},
    ),
    "moving": (
        lambda: drs.generate(gan(), DDLS(steps=2, burn_in=64), 8, batch_size=64),
        {"run", "burn-in"},
    ),
    "flow": (
        lambda: FlEx2MCMC(burn_in=64, rounds=2).init(gan().on(block=64), drs.Rng(0)),
        {"burn-in", "flow"},
    ),
    "squeeze": (
        lambda: searched(gan(block=256)),
        {"burn-in", "search"},
    ),
    "ratio": (
        lambda: drs.density_ratio(gan(), seed=3, epochs=1, width=8),
        {"weights", "order", "ratios"},
    ),
    "doctor": (lambda: drs.doctor(gan()), {"burn-in", "doctor"}),
}


@pytest.mark.filterwarnings("ignore:too little was learned")
@pytest.mark.parametrize("use", USES)
def test_what_is_drawn_lies_in_the_range_of_its_use(drawn, use):
    call, expected = USES[use]
    call()
    assert expected <= ranges_of(drawn)


def test_a_draw_outside_all_ranges_shows(drawn):
    drs.ops.uniform(drs.Rng(0, rows.PROBE_ROW), 3, stream=core.FITTING)
    with pytest.raises(AssertionError, match="no range has them"):
        ranges_of(drawn)
