"""The one contract between samplers and what runs them."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from every_sampler import smooth
from runs import contents

import drs_fast as drs
from drs_fast import Batch, samplers
from drs_fast.cli import main as cli
from drs_fast.core import Found, Nothing, Sampler
from drs_fast.core.sampler import those_that
from drs_fast.samplers.common.rejection import RejectionSampler

ROOT = Path(drs.__file__).parent
PROBES = re.compile(r"\b(?:hasattr|getattr)\(")
# Fields by their names, and what is asked of other things than samplers.
OTHERS = (
    "getattr(sampler, field.name)",
    "getattr(batch, name)",
    'getattr(os, "O_BINARY", 0)',
    'hasattr(index, "__array__")',
)


@dataclass(frozen=True)
class Least(Sampler):
    """Keeps every sample; nothing is written but what must be."""

    law: ClassVar[str] = "the generator"

    def init(self, gan, rng):
        return Nothing()

    def step(self, gan, state, z, y, rng):
        x, logit = gan.logits(z, y)
        ids = torch.arange(len(z), device=z.device) + rng.row
        return state, Batch(x, z, y, logit, ids, ids.new_full((), len(z)), stats={})


def undocumented(kind):
    """Names of its public members that neither have a docstring nor are in the class's own."""
    described = {}
    for name, member in vars(kind).items():
        method = inspect.isfunction(member) or isinstance(member, (property, classmethod))
        in_class = re.search(rf"^{name}: \S", kind.__doc__.replace("    ", ""), re.MULTILINE)
        described[name] = bool(method and member.__doc__) or in_class is not None
    return [name for name, words in described.items() if not (words or name.startswith("_"))]


def test_every_member_is_documented_in_one_place():
    assert undocumented(Sampler) == []
    assert Sampler.__abstractmethods__ == {"law", "init", "step"}
    assert RejectionSampler.__abstractmethods__ == {"law", "init", "step", "rejection"}


def test_a_member_without_a_word_is_seen():
    class Silent(Sampler):
        """State: of nothing."""

        State: ClassVar = Nothing
        extra: ClassVar[int] = 1

        def hint(self):
            return None

        @property
        def more(self):
            return None

    assert undocumented(Silent) == ["extra", "hint", "more"]


@pytest.mark.parametrize("name", samplers.NAMES)
def test_samplers_add_no_hook_that_the_contract_does_not_know(name):
    """What is public of its class is a field or in the contract, so that one page says it all."""
    kind = samplers.get(name)
    assert issubclass(kind, Sampler)
    known = {*vars(Sampler), *vars(RejectionSampler)}
    assert {key for key in vars(kind) if not key.startswith("_")} <= known | {
        *kind.__dataclass_fields__
    }


@pytest.mark.parametrize("room", ["run", "store", "squeeze", "report"])
def test_nobody_asks_a_sampler_what_it_can_do(room):
    lines = [
        line.strip()
        for file in sorted((ROOT / room).rglob("*.py"))
        for line in file.read_text().splitlines()
        if PROBES.search(line) and not any(other in line for other in OTHERS)
    ]
    assert lines == []


@pytest.mark.parametrize("labels", [None, 3])
def test_the_least_sampler_runs_everywhere(labels, tmp_path, capsys):
    gan, sampler = smooth(labels), Least()
    assert (sampler.group, sampler.found(Nothing())) == (1, Found(1.0))
    memory = drs.generate(gan, sampler, 700, seed=2, batch_size=256)
    assert torch.equal(memory.ids, torch.arange(700))
    assert set(memory.stats) == {"proposals", "calls", "invalid", "above"}
    settings = {"seed": 2, "batch_size": 256, "chunk_rows": 256, "save": ("x", "z", "logit")}
    drs.generate(gan, sampler, 300, out=tmp_path / "run", **settings)
    run = drs.generate(gan, sampler, 700, out=tmp_path / "run", **settings)  # goes on
    drs.generate(gan, sampler, 700, out=tmp_path / "whole", **settings)
    assert torch.equal(run.x[:], memory.x)
    assert [run.manifest[key] for key in ("law", "eps", "group", "calls_total", "tallies")] == [
        "the generator", None, 1, 768, [],
    ]  # fmt: skip
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert cli.main(["verify", str(tmp_path / "run")]) == 0
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    assert "the generator" in capsys.readouterr().out
    streamed = drs.stream(gan, sampler, seed=2, batch_size=256)
    assert torch.equal(next(streamed).x, memory.x[:256])
    with pytest.raises(drs.Starvation, match=r"max_proposals=512; raise it$"):
        drs.generate(gan, sampler, 700, batch_size=256, max_proposals=512)


class Duck:
    """What used to be enough."""

    group, sequential, law, law_version = 1, False, "the generator", 1
    init, step, State = Least.init, Least.step, Nothing


class Plain(Sampler):
    """No dataclass."""

    law, init, step = "the generator", Least.init, Least.step


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (Duck(), r"got <.*Duck object.*>; .* derives from drs_fast.core.Sampler, which has defaul"),
        (Duck, r"instance, such as drs.samplers.DRS\(\), got <class .*Duck'>"),
        (Least, r"instance, such as drs.samplers.DRS\(\), got <class .*Least'>"),
        ("drs", r"instance, such as drs.samplers.DRS\(\), got 'drs'"),
        (None, r"instance, such as drs.samplers.DRS\(\), got None"),
        (Plain(), r"must be a dataclass, got Plain.*@dataclass\(frozen=True\)"),
    ],
)
def test_what_is_no_sampler_is_refused(sampler, words, tmp_path):
    runs = (
        lambda: drs.generate(smooth(), sampler, 10),
        lambda: drs.generate(smooth(), sampler, 10, out=tmp_path / "run"),
        lambda: drs.stream(smooth(), sampler),
    )
    for run in runs:
        with pytest.raises(ValueError, match=words):
            run()
    assert not (tmp_path / "run").exists()
    if not isinstance(sampler, type):
        with pytest.raises(ValueError, match="Squeeze takes a rejection sampler"):
            drs.Squeeze(sampler)


def named(message, pattern, wanted):
    """The samplers in a message, which must be those of which `wanted` holds."""
    (names,) = re.findall(pattern, message)
    kinds = [samplers.get(name) for name in samplers.NAMES]
    assert sorted(names.split(", ")) == sorted(kind.__name__ for kind in kinds if wanted(kind()))
    return names.split(", ")


def test_errors_name_the_samplers_that_would_do():
    groups = those_that(lambda each: each.group > 1)
    assert {"MH", "SIR"} <= {*named(groups, "^(.*)$", lambda each: each.group > 1)}
    with pytest.raises(ValueError, match="takes a rejection sampler") as caught:
        drs.Squeeze(samplers.SIR())
    rejecting = named(
        str(caught.value), r"\((.*); your", lambda each: isinstance(each, RejectionSampler)
    )
    assert {"DRS", "OBRS"} <= {*rejecting}
    energies = drs.GAN(lambda z: z, lambda x: x.sum(dim=1), 2, link="wasserstein")
    with pytest.raises(ValueError, match="DRS needs a density ratio") as caught:
        drs.generate(energies, samplers.DRS(), 10)
    any_critic = named(str(caught.value), "needs none: (.*)$", lambda each: each.energy)
    assert "DRS" not in any_critic
    assert "DDLS" in any_critic
    cut = drs.GAN(lambda z: z, lambda x: x.detach().sum(dim=1), 2)
    with pytest.raises(ValueError, match="needs no gradient") as caught:
        drs.generate(cut, samplers.DDLS(step_size=0.1), 10)
    said = str(caught.value)
    without = named(said, r"no gradient \((.*)\)", lambda each: "gradients" not in each.tallies)
    assert "DRS" in without
    assert "DDLS" not in without
