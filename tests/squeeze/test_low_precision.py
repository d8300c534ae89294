"""A lower precision as a bound: the samples of full precision, a known loss, and refusals.

Statistical tests state their false-positive rate; everything else is exact.
"""

import math
import re
import traceback

import pytest
import torch
from imprecise import imprecise
from planted_bounds import Planted, forced, hurry
from runs import contents
from torch.utils._python_dispatch import TorchDispatchMode

import drs_fast as drs
from drs_fast import Rng, ops, samplers
from drs_fast.cli import main as cli
from drs_fast.core import BURN_IN_ROW
from drs_fast.gan import memory
from drs_fast.gan.precision import BF16, FP16, TF32
from drs_fast.run import lanes
from drs_fast.samplers.common.rejection import of_rows
from drs_fast.squeeze import audit, rooms, search
from drs_fast.squeeze.bounds.bound import above
from drs_fast.squeeze.bounds.precision import PrecisionBound
from drs_fast.squeeze.proposals import Proposals
from drs_fast.squeeze.work import Costs
from drs_fast.tune import lowered, tuning
from drs_fast.tune.lowered import Lower

SAMPLER = samplers.DRS(percentile=80.0, burn_in=2048)


def squeezed(by=BF16, **named):
    cost = {} if by == "latent" else {"low_cost": 0.2}
    return drs.Squeeze(SAMPLER, **{"tolerance": 0.01, **cost, **named}, by=by)


def in_full(gan, n, state):
    """The samples without a bound, at a state's thresholds."""
    sampler = samplers.DRS(gamma=float(state["gamma"]), log_m=float(state["log_m"]))
    return drs.generate(gan, sampler, n, batch_size=256)


@pytest.fixture
def quick(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def found():
    """What a search finds for an error of 0.05 nats."""
    return squeezed().init(imprecise(), Rng(0))


@pytest.mark.parametrize("by", [BF16, "latent,bf16"])
def test_the_samples_are_those_of_full_precision(by, quick, tmp_path):
    gan, runs = imprecise(), {}
    for size, rows in ((256, 2**12), (1024, 2**13)):
        runs[size] = drs.generate(
            gan, squeezed(by), 1500, batch_size=size, out=tmp_path / f"{size}", chunk_rows=rows
        )
    run, other = runs.values()
    assert torch.equal(run.ids[:], other.ids[:])
    whole = in_full(gan, 1600, run.state)
    at = torch.searchsorted(whole.ids, run.ids[:])
    assert torch.equal(whole.ids[at], run.ids[:])
    for column in ("x", "logit"):
        ours, theirs = getattr(run, column)[:], getattr(whole, column)[at]
        assert torch.equal(ours.view(torch.int32), theirs.view(torch.int32))
    manifest = run.manifest
    assert len(run.state["low"]) == 2
    assert manifest["calls_per_sample"] < 1.5 < 4.0 < manifest["proposals"] / 1500
    assert manifest["low_calls"] <= 2 * manifest["proposals"]
    assert manifest["low_infinite"] == 0
    low, high = manifest["lost_mass_interval"]
    assert low <= manifest["lost_mass"] <= high <= 0.011
    assert "bf16, at 0.2 of a call" in manifest["remark"]


def test_a_run_goes_on_and_is_mended(tmp_path):
    gan, n = imprecise(), {"chunk_rows": 2**12, "batch_size": 256}
    drs.generate(gan, squeezed(), 900, out=tmp_path / "whole", **n)
    drs.generate(gan, squeezed(), 300, out=tmp_path / "part", **n)
    drs.generate(gan, squeezed(), 900, out=tmp_path / "part", **n)
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "part") == whole
    for lost in ("state.safetensors", next(k for k in sorted(whole) if "chunk" in str(k))):
        (tmp_path / "part" / lost).unlink()
        drs.generate(gan, squeezed(), 900, out=tmp_path / "part", **n)
        assert contents(tmp_path / "part") == whole
    with pytest.raises(drs.Conflict, match=r"sampler\.by"):
        drs.generate(gan, squeezed("latent"), 900, out=tmp_path / "part", **n)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_rows_that_low_precision_does_not_know_go_on(broken, found):
    gan, n = imprecise(broken=broken), 2**13
    _, batch = squeezed().rows(gan, found, Rng(0), n)
    z = ops.latents(gan, Rng(0), n)
    assert int(batch.stats["low_infinite"]) == int((z[:, 2] > 1.5).sum())
    _, healthy = squeezed().rows(imprecise(), found, Rng(0), n)
    kept, usual = (one.ids[: int(one.count)] for one in (batch, healthy))
    there = z[usual, 2] > 1.5
    assert bool(there.any())
    assert bool(torch.isin(usual[there], kept).all())


def losses(seeds, margin, n=2**13):
    """How many of the intervals hold the share that a bound with this margin loses."""
    gan, squeeze = imprecise(0.3), squeezed()
    state = squeeze.init(gan, Rng(0))
    state = state._replace(low=state.low.new_tensor([margin, 1.0]))
    decides = SAMPLER.rejection(gan, SAMPLER.State(*state[:5]))
    z = ops.latents(gan, Rng(1, BURN_IN_ROW), 2**18)
    at = of_rows(decides.state, None, decides.eps)
    accepted = ops.probability(gan.verdicts(z), **at)
    passed = ops.probability(above(PrecisionBound(gan, BF16), margin, z, None), **at)
    truth = float((accepted - passed).clamp(min=0.0).sum() / accepted.sum())
    held = 0
    for seed in range(seeds):
        _, batch = squeeze.rows(gan, state, Rng(1000 + seed), n)
        share = audit.loss({name: int(batch.stats[name]) for name in audit.UNITS})
        held += share.low <= truth <= share.high
    return truth, held


def test_the_loss_lies_in_its_interval():
    """20 seeds; below 17 at 95 % each: a chance of 0.3 %."""
    truth, held = losses(20, margin=0.1)
    assert truth > 0.02
    assert held >= 17


@pytest.mark.slow
def test_the_loss_lies_in_its_interval_for_many_seeds():
    assert losses(100, margin=0.1, n=2**15)[1] >= 95


def test_a_bias_in_one_mode_is_seen_by_the_search():
    """The margin then covers it, or no bound is used; what is lost stays within the tolerance."""
    squeeze = squeezed(use_bound=None)
    state = squeeze.init(imprecise(lost=6.5), Rng(0))
    assert not state.used or float(state.low[0]) > 2.0
    assert float(state.high) <= 0.01 or not state.used


def test_a_bias_that_comes_after_the_search_stops_the_run(found):
    gan = imprecise(lost=6.5)
    sound = Planted(SAMPLER, 0.01, by=BF16, state=found)
    assert len(drs.generate(imprecise(), sound, 5000, batch_size=256).ids) == 5000
    with pytest.raises(drs.Stale, match=r"the bound loses .* more than tolerance=0.01"):
        drs.generate(gan, sound, 200_000, batch_size=256)


def test_nothing_waits_and_nothing_changes(found):
    """Full blocks of a number that is known before, as on a GPU."""
    gan, squeeze, n = imprecise(), squeezed(), 5000
    for state in (found, found._replace(low=found.low.new_tensor([0.05, 1.0]))):
        waited = squeeze.rows(gan, state, Rng(0), n)[1]
        blocks = squeeze.without_waiting(gan, state, Rng(0), n)[1]
        count = int(waited.count)
        assert int(blocks.count) == count
        for column in ("ids", "x", "z", "logit"):
            one, other = (getattr(batch, column)[:count] for batch in (waited, blocks))
            assert torch.equal(one, other)
        assert int(blocks.stats.pop("beyond")) == int(waited.stats.pop("beyond")) == 0
        assert blocks.stats.keys() == waited.stats.keys()
        for name, value in waited.stats.items():
            assert int(value) == int(blocks.stats[name]), name


def test_a_step_without_room_is_done_again(monkeypatch):
    """With networks and low precision, whichever lacks room."""
    gan, steps = imprecise(), []
    state = forced(gan, SAMPLER, cascade=False, margin=2.0)
    state = state._replace(low=state.log_m.new_tensor([0.3, 0.8]))
    squeeze = Planted(SAMPLER, 0.5, by="latent,bf16", state=state)
    usual = drs.generate(gan, squeeze, 8000, batch_size=256)
    rows, launched = drs.Squeeze.rows, lanes.Stepping._launched
    launches, waits = lanes.Stepping.launch, []

    def launch(self, step):
        """As on a GPU."""
        monkeypatch.setattr(self._readings, "lagging", True, raising=False)
        return launches(self, step)

    def tell(self, step, waiting):
        waits.append(waiting)
        return launched(self, step, waiting)

    monkeypatch.setattr(lanes.Stepping, "launch", launch)
    monkeypatch.setattr(lanes.Stepping, "_launched", tell)
    monkeypatch.setattr(lanes.Readings, "take", lambda self, words: words.tolist)
    monkeypatch.setattr(
        drs.Squeeze, "rows", lambda self, *given: (steps.append(given), rows(self, *given))[1]
    )
    of = rooms.Rooms.of

    def smaller(**few):
        return lambda *given: of(*given)._replace(**few)

    for few in ({"slice": 1}, {"low": 64}, {"full": 64}):
        with monkeypatch.context() as patch:
            patch.setattr(rooms.Rooms, "of", smaller(**few))
            run = drs.generate(gan, squeeze, 8000, batch_size=256)
        assert torch.equal(run.ids, usual.ids)
        assert torch.equal(run.x, usual.x)
        assert steps
        assert waits[:3] == [False, True, False]  # and from the third on, no step is done twice
        assert len(waits) > 5
        assert all(waits[4:])
        steps.clear()
        waits.clear()
    assert torch.equal(drs.generate(gan, squeeze, 8000, batch_size=256).ids, usual.ids)
    assert not steps


def timed(cost, error=0.05, infinite=0.0):
    return lambda gan, precision, rows: Lower(precision, cost, error, 4 * error, 1.0, infinite)


def test_a_clock_decides_once_and_by_name(monkeypatch, tmp_path, capsys):
    gan, auto = imprecise(), drs.Squeeze(SAMPLER, 0.01)
    monkeypatch.setattr(lowered, "measured", timed(0.2312))
    run = drs.generate(gan, auto, 200, out=tmp_path / "auto", progress=True)
    said = capsys.readouterr().err
    assert "squeeze: by='latent,bf16', low_cost=0.23; the weights of G and D in bf16 take" in said
    assert run.manifest["sampler"]["by"] == "latent,bf16"
    assert run.manifest["sampler"]["low_cost"] == 0.23
    monkeypatch.setattr(lowered, "measured", timed(0.9))
    more = drs.generate(gan, auto, 400, out=tmp_path / "auto")
    assert more.manifest["sampler"] == run.manifest["sampler"]
    named = drs.Squeeze(SAMPLER, 0.01, by="latent,bf16", low_cost=0.23)
    drs.generate(gan, named, 400, out=tmp_path / "named")
    assert contents(tmp_path / "named") == contents(tmp_path / "auto")
    other = drs.generate(gan, auto, 200, out=tmp_path / "latent", progress=True)
    assert "by='latent', because bf16 takes 0.90 of the time" in capsys.readouterr().err
    assert {"by", "low_cost"}.isdisjoint(other.manifest["sampler"])  # as before there was a choice
    assert "low" not in other.state


def test_several_workers_do_not_ask_a_clock(monkeypatch, tmp_path):
    monkeypatch.setattr(lowered, "measured", timed(0.2))
    for worker in ("1/2", "2/2"):
        run = drs.generate(
            imprecise(), drs.Squeeze(SAMPLER, 0.01), 200, out=tmp_path / "run", worker=worker
        )
    assert "by" not in run.manifest["sampler"]


@pytest.mark.parametrize(
    ("cost", "error", "infinite", "chosen"),
    [
        (0.3, 0.05, 0.0, "latent,bf16"),
        (0.8, 0.05, 0.0, "latent"),
        (0.3, 1.0, 0.0, "latent"),
        (0.3, 0.05, 0.9, "latent"),
    ],
)
def test_what_a_clock_takes(cost, error, infinite, chosen, monkeypatch):
    monkeypatch.setattr(lowered, "measured", timed(cost, error, infinite))
    assert drs.Squeeze(SAMPLER).settled(imprecise()).by == chosen


def test_a_function_without_weights_is_not_timed():
    assert drs.Squeeze(SAMPLER).settled(drs.GAN(lambda z: z, lambda x: x[:, 0], 4)).by == "latent"


def test_what_by_may_be():
    for given, said in (("bf16, latent", "latent,bf16"), ("tf32", "tf32"), ("auto", "auto")):
        assert drs.Squeeze(SAMPLER, by=given).by == said
    for wrong in ("fp8", "bf16,fp16", "auto,bf16", "", None, ("bf16",)):
        with pytest.raises(ValueError, match=r"by must be 'auto', 'latent', one of bf16, fp16"):
            drs.Squeeze(SAMPLER, by=wrong)
    with pytest.raises(ValueError, match="decides by the logit of D, got Latent; use by='latent'"):
        drs.Squeeze(samplers.Latent(critic=lambda z: z[:, 0]), by=BF16)
    with pytest.raises(ValueError, match="low_cost must be"):
        drs.Squeeze(SAMPLER, by=BF16, low_cost=0.0)
    for by in ("auto", "latent"):
        with pytest.raises(ValueError, match=f"low_cost=0.3 needs a precision in by, .*by='{by}'"):
            drs.Squeeze(SAMPLER, by=by, low_cost=0.3)
    assert drs.Squeeze(SAMPLER, by=BF16) == drs.Squeeze(SAMPLER, by=BF16, low_cost=0.5)


def test_weights_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "_left", lambda device: 10)
    with pytest.raises(ValueError, match=r"the weights of G and D in bf16 take another .* GiB"):
        drs.generate(imprecise(), squeezed(), 100)
    assert drs.Squeeze(SAMPLER).settled(imprecise()).by == "latent"


@pytest.mark.parametrize(("own", "lower"), [("bf16", ()), ("fp32", (BF16,))])
def test_which_precisions_are_lower(own, lower):
    assert lowered.lower_than(imprecise().on(precision=own)) == lower


class Fails(torch.nn.Linear):
    def forward(self, x):
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("no kernel")
        return super().forward(x)


@pytest.mark.parametrize("why", ["no such device", "fails", "not lower", "slow on a CPU"])
def test_what_cannot_run_in_low_precision_is_refused_before_anything_is_written(why, tmp_path):
    gan, precision, by, words = {
        "no such device": (imprecise(), "fp32", TF32, "'tf32' needs an NVIDIA GPU"),
        "fails": (drs.GAN(torch.nn.Identity(), Fails(4, 1), 4), "fp32", BF16, "no kernel"),
        "not lower": (imprecise(), "bf16", FP16, "fp16 is not known to be faster"),
        "slow on a CPU": (imprecise(), "fp32", FP16, "fp16 is not known to be faster"),
    }[why]
    remedy = "; use by='latent', or leave by out"
    with pytest.raises(ValueError, match=f"by='{by}' cannot be used here: .*{words}.*{remedy}"):
        drs.generate(gan, squeezed(by), 50, out=tmp_path / "run", precision=precision)
    assert not (tmp_path / "run").exists()


def test_the_work_of_compiled_networks_is_that_of_what_was_compiled():
    """A compiled network refuses to be counted."""

    def refuses(*given):
        raise RuntimeError("torch.compile with fullgraph=True found no compiled frames")

    gan = imprecise()
    compiled = gan.changed(lambda function: refuses)
    compiled.tuned = ("compile",)
    assert Costs.of(compiled) == Costs.of(gan)


def test_a_search_for_low_precision_that_takes_too_long_says_how_long(monkeypatch):
    alone = Proposals.alone
    monkeypatch.setattr(
        Proposals, "alone", lambda self, samples, most: alone(self, samples, 1500.0)
    )
    squeeze = squeezed(use_bound=None)
    state = squeeze.init(imprecise(), Rng(0))
    assert not state.used
    takes = re.search(r"for it takes ([\d,]+) calls", squeeze.remark(state))
    rows = search.needed(0.01, 0.0) / float(state.acceptance)
    assert 0.7 * rows < int(takes.group(1).replace(",", "")) < 1.4 * rows


class Noisy(torch.nn.Linear):
    def forward(self, z):
        return super().forward(z) + torch.randn(len(z), 4)


@pytest.mark.parametrize("by", ["auto", BF16])
def test_random_numbers_of_their_own_are_refused_as_ever(by):
    gan = drs.GAN(Noisy(4, 4), torch.nn.Linear(4, 1), 4)
    with pytest.raises(ValueError, match="G or D draws random numbers of its own"):
        drs.generate(gan, drs.Squeeze(SAMPLER, 0.05, by=by), 100)


@pytest.mark.parametrize("tune", [(), ("fold",)])
def test_folding_must_be_asked_for(tune, monkeypatch):
    """It traces modules, which disturbs other threads."""
    asked, fold = [], tuning.VARIANTS["fold"]
    monkeypatch.setitem(tuning.VARIANTS, "fold", lambda gan: (asked.append(0), fold(gan))[1])
    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8))
    gan = tuning.applied(drs.GAN(network, torch.nn.Linear(8, 1), 4), tune)
    asked.clear()
    lowered.lowered(gan, BF16)
    assert len(asked) == len(tune)


def test_the_search_does_not_depend_on_the_batch_size():
    squeeze = squeezed(use_bound=True)
    states = [squeeze.init(imprecise(0.3).on(block=size), Rng(2)) for size in (256, 4096)]
    for name, one, other in zip(states[0]._fields, *states, strict=True):
        assert name == "work" or torch.equal(one, other), name


def test_the_command_line(tmp_path):
    out = tmp_path / "run"
    command = ["generate", "imprecise:imprecise", "-n", "100", "--quiet", "--out", str(out)]
    command += ["--burn-in", "2048"]
    assert cli.main([*command, "--by", "bf16"]) == 2
    assert cli.main([*command, "--squeeze", "--by", "bf16", "--low-cost", "0.2"]) == 0
    spec = drs.open(out).manifest["sampler"]
    assert (spec["by"], spec["low_cost"]) == ("bf16", 0.2)
    assert cli.main(["report", str(out)]) == 0


class NothingIsRead(TorchDispatchMode):
    """Refuses what makes the host wait for a device."""

    WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() in self.WAITS:
            # Arguments on a CPU are checked by their values, on a GPU they are not.
            assert any("ops/checks.py" in frame.filename for frame in traceback.extract_stack())
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("networks", [True, False])
def test_the_host_reads_nothing(networks, found, monkeypatch):
    """Apart from what it read of the state before."""
    gan, squeeze, state = imprecise(), squeezed("latent,bf16"), found
    if networks:
        state = forced(gan, SAMPLER, cascade=True, margin=2.0)
        state = state._replace(low=state.log_m.new_tensor([0.3, 0.8]))
    squeeze.without_waiting(gan, state, Rng(0), 4096)
    monkeypatch.setattr(torch.Tensor, "tolist", None)
    monkeypatch.setattr(torch.Tensor, "__bool__", None)
    with NothingIsRead():
        batch = squeeze.without_waiting(gan, state, Rng(0), 4096)[1]
    monkeypatch.undo()
    assert int(batch.count) > 100
    with pytest.raises(AssertionError), NothingIsRead():
        squeeze.rows(gan, state, Rng(0), 4096)


@pytest.mark.parametrize("ranks", [1, 2])
def test_streams_ask_a_clock_alone(ranks, monkeypatch):
    """Several ranks would measure differently."""
    asked, measured = [], timed(0.2)
    monkeypatch.setattr(lowered, "measured", lambda *given: (asked.append(0), measured(*given))[1])
    gan, auto = imprecise(), drs.Squeeze(SAMPLER, 0.01)
    sampled = drs.SampledGenerator(gan, auto, batch_size=256, rank=0, ranks=ranks)
    named = drs.Squeeze(SAMPLER, 0.01, by="latent")
    if ranks == 1:
        named = drs.Squeeze(SAMPLER, 0.01, by="latent,bf16", low_cost=0.2)
    expected = drs.SampledGenerator(gan, named, batch_size=256, rank=0, ranks=ranks).rows(300)
    assert torch.equal(sampled.rows(300)["ids"], expected["ids"])
    assert len(asked) == (ranks == 1)
    data = iter(drs.StreamDataset(gan, auto, batch_size=256, rank=0, ranks=ranks))
    assert [int(next(data)["ids"]) for _ in range(50)] == expected["ids"][:50].tolist()
