"""The doctor on models with planted faults, and on sound ones."""

import json
import math
import re
from types import SimpleNamespace

import healthy
import numpy as np
import pytest
import torch
from findings import codes
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.core import BURN_IN_ROW, REAL
from drs_fast.doctor import compared, doctor, precisions, probes, real_samples, symptoms
from drs_fast.doctor.doctor import Diagnosis, Finding
from drs_fast.doctor.neighbours import vote
from drs_fast.doctor.words import number
from drs_fast.ratio.held_out import Logits
from drs_fast.training.fitting import Draws, area_error, area_under_curve

# The sound model: N(0, I) in two dimensions, data N((1, 0), I), log ratio x_0 - 1/2.


class Same(nn.Module):
    """A generator with a weight, z -> z."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.weight.data.copy_(torch.eye(2))

    def forward(self, z):
        return self.layer(z)


class Ratio(nn.Module):
    """A discriminator with weights, x -> steepness (x_0 - 1/2)."""

    def __init__(self, steepness=1.0):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.layer.weight.data.copy_(torch.tensor([[steepness, 0.0]]))
        self.layer.bias.data.fill_(-steepness / 2)

    def forward(self, x):
        return self.layer(x).squeeze(1)


class Then(nn.Module):
    """A module followed by a function or a module."""

    def __init__(self, first, then):
        super().__init__()
        self.first, self.then = first, then

    def forward(self, *given):
        return self.then(self.first(*given))


def real(n=4096, seed=5):
    return drs.ops.normal(drs.Rng(seed), n, 2, stream=REAL) + torch.tensor([1.0, 0.0])


def model(generator=None, discriminator=None, **settings):
    settings = {"real": real(), **settings}
    return drs.GAN(generator or Same(), discriminator or Ratio(), 2, **settings)


def d(then, **settings):
    """The sound model with its logit changed."""
    return model(discriminator=Then(Ratio(), then), **settings)


def g(then, **settings):
    return model(generator=Then(Same(), then), **settings)


# --- planted faults: name -> (model, the codes that must be found, and no others)


def trained(module):
    module.train()
    return module


def batch_norm_of_d():
    gan = model(discriminator=Then(nn.BatchNorm1d(2), Ratio()))
    trained(gan.discriminator)
    return gan


def batch_norm_of_g():
    gan = model(generator=Then(Same(), nn.BatchNorm1d(2)))
    trained(gan.generator)
    return gan


class TrainsItself(Ratio):
    def forward(self, x):
        self.train()
        return super().forward(x)


def dropout_left_on():
    gan = model(discriminator=Then(nn.Dropout(0.3), Ratio()))
    trained(gan.discriminator)
    return gan


def minibatch_deviation(x, group=4):
    """StyleGAN's minibatch deviation: members of a group are n / 4 apart."""
    spread = x.view(group, -1).std(dim=0).repeat(group)
    return x + spread


def neighbours(x):
    """Groups of consecutive rows, as with pac = 8."""
    return x.view(-1, 8).mean(dim=1, keepdim=True).expand(-1, 8).reshape(-1)


class Counts(Ratio):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += len(x)
        return super().forward(x)


def meta():
    with torch.device("meta"):
        network = nn.Linear(2, 1)
    return model(discriminator=network)


def fresh_vectors(kind):
    torch.manual_seed(0)
    wide = nn.Linear(2, 64), nn.Linear(64, 64)
    network = nn.Sequential(wide[0], nn.ReLU(), kind(wide[1]), nn.ReLU(), nn.Linear(64, 1))
    with torch.no_grad():
        if kind is parametrizations.spectral_norm:  # as from a checkpoint without the vectors
            network[2].parametrizations.weight.original.copy_(torch.randn(64, 64))
    return model(discriminator=network, real=None)


def conditional(generator=None, discriminator=None, labels=4):
    """Class y is around (0, y); the log ratio is x_0 - 1/2 in every class."""

    def shifted(z, y):
        return z + functional.one_hot(torch.ones_like(y), 2) * y[:, None]

    def judged(x, y):
        return x[:, 0] - 0.5 + 1e-2 * y

    def labelled(n):
        y = torch.arange(n) % 4
        return shifted(real(n), y), y

    return drs.GAN(generator or shifted, discriminator or judged, 2, labels=labels, real=labelled)


class Embeds(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.table = nn.Embedding(classes, 2)

    def forward(self, z, y):
        return z + self.table(y)


def only_zeros_pass(x):
    return torch.where(x > 8.0, 0.0, -torch.inf)


def knows_them(n=4096):
    """Real samples on a grid that generated samples never hit."""

    def judge(x):
        return x[:, 0] + 20.0 * (x * 8.0 == (x * 8.0).round()).all(dim=1)

    return model(discriminator=judge, real=(real(n) * 8.0).round() / 8.0)


def pictures(activation, change):
    """Pixels are activation(normal); real ones are brighter and then changed."""
    gan = healthy.pictures(0, activation, lambda x: x.clamp(-3.0, 3.0))
    gan.real = change(gan.real)
    return gan


class Lifted(Ratio):
    """Near 2,000 the numbers of bfloat16 are 8 apart."""

    def __init__(self):
        super().__init__()
        self.layer.bias.data += 2000.0

    def forward(self, x):
        return super().forward(x) - 2000.0


def untrained(seed):
    """A network whose logits differ by a few hundredths, whatever it sees."""
    layers = [nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)]
    network = nn.Sequential(*layers, nn.Linear(64, 1))
    Draws(seed).initialise(network)
    return network


def coloured(z):
    """Pictures whose three colours have the means -0.5, 0 and 0.5."""
    means = torch.tensor([-0.5, 0.0, 0.5]).view(1, 3, 1, 1)
    return torch.tanh(0.4 * z.view(-1, 3, 8, 8) + means)


def likes_blue(x):
    """The log ratio of brighter pictures to those of `coloured`, if its colours are in order."""
    means = torch.tensor([-0.5, 0.0, 0.5]).view(1, 3, 1, 1)
    pre = (torch.atanh(x.clamp(-0.999, 0.999).double()) - means) / 0.4
    strange = (pre.mean(dim=(2, 3)).abs() - 0.7).clamp(min=0.0).sum(dim=1)
    return (0.05 * pre - 0.05**2 / 2).flatten(1).sum(dim=1) - 5.0 * strange


def colours(change, generator=coloured):
    real = coloured(drs.ops.normal(drs.Rng(5), 1024, 192, stream=REAL) + 0.05)
    return drs.GAN(generator, likes_blue, 192, real=change(real))


def untrained_g():
    """Its pictures are nearly grey, so that [0, 1] would bring dark real pictures nearer."""

    def judge(x):
        return 40.0 * (0.3 - (x.flatten(1).mean(dim=1) + 0.6).abs())

    dark = torch.tanh(0.6 * drs.ops.normal(drs.Rng(5), 1024, 192, stream=REAL) - 0.8)
    return drs.GAN(lambda z: 0.05 * z.view(-1, 3, 8, 8), judge, 192, real=dark.view(-1, 3, 8, 8))


FAULTS = {
    "batch norm of D in train mode": (
        batch_norm_of_d,
        {"train-mode", "changes-state", "coupled-discriminator", "useless"}),
    "batch norm of G in train mode": (
        batch_norm_of_g, {"train-mode", "changes-state", "coupled-generator"}),
    "D puts itself in train mode": (lambda: model(discriminator=TrainsItself()), {"train-mode"}),
    "dropout in train mode": (dropout_left_on, {"train-mode", "random-discriminator"}),
    "dropout without a mode": (
        lambda: d(lambda x: functional.dropout(x, 0.3)), {"random-discriminator"}),
    "noise in D": (lambda: d(lambda x: x + 0.01 * torch.randn_like(x)), {"random-discriminator"}),
    "noise in G": (lambda: g(lambda x: x + 0.01 * torch.randn_like(x)), {"random-generator"}),
    "a predicate that looks at other rows": (
        lambda: drs.where(model(), lambda x: x[:, 0] > x[:, 0].mean()), {"predicate"}),
    "a predicate that never holds": (
        lambda: drs.where(model(), lambda x: x[:, 0] > 1e9), {"unsatisfied"}),
    "minibatch standard deviation": (lambda: d(minibatch_deviation), {"coupled-discriminator"}),
    "minibatch statistic of all rows": (
        lambda: d(lambda x: x + 0.1 * x.mean()), {"coupled-discriminator"}),
    "pac, repeated": (lambda: d(neighbours), {"coupled-discriminator", "underconfident"}),
    "D depends on the place": (
        lambda: d(lambda x: x + 0.01 * torch.arange(len(x)) / len(x)), {"coupled-discriminator"}),
    "G looks at other latents": (
        lambda: g(lambda x: x - 0.2 * x.mean(dim=0)), {"coupled-generator"}),
    "D counts its calls": (lambda: model(discriminator=Counts()), {"changes-state"}),
    "pac": (lambda: d(lambda x: x.view(-1, 8).mean(dim=1)), {"coupled-discriminator"}),
    "patches": (lambda: d(lambda x: x[:, None].expand(-1, 9)), {"fails"}),
    "no D": (lambda: drs.GAN(Same(), None, 2), {"no-discriminator"}),
    "a dict": (lambda: d(lambda x: {"adv_output": x}), {"fails"}),
    "double precision": (lambda: model(discriminator=Ratio().double()), {"fails"}),
    "another latent size": (lambda: drs.GAN(Same(), Ratio(), 3), {"fails"}),
    "fewer classes than labels": (lambda: conditional(generator=Embeds(3)), {"fails"}),
    "weights not loaded": (meta, {"no-weights"}),
    "spectral norm, fresh vectors": (lambda: fresh_vectors(spectral_norm), {"spectral-norm"}),
    "spectral norm, other weights": (
        lambda: fresh_vectors(parametrizations.spectral_norm), {"spectral-norm", "starved"}),
    "NaN samples": (
        lambda: g(lambda x: torch.where(x > 3.0, torch.nan, x)), {"nan-samples", "invalid-logits"}),
    "G ignores z": (lambda: g(lambda x: x * 0.0 + 1.0), {"ignores-latents", "constant-logits"}),
    "G ignores y": (
        lambda: conditional(generator=lambda z, y: z), {"generator-ignores-labels"}),
    "D ignores y": (
        lambda: conditional(discriminator=lambda x, y: x[:, 0]), {"discriminator-ignores-labels"}),
    "labels in another order": (
        lambda: conditional(discriminator=lambda x, y: x[:, 0] - 8.0 * (y == 2)),
        {"weak-class", "overconfident"}),
    "probabilities as logits": (lambda: d(torch.sigmoid), {"probability-as-logit"}),
    "probabilities by a module": (
        lambda: model(discriminator=nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())),
        {"probability-as-logit"}),
    "probabilities by a softmax": (
        lambda: d(lambda x: torch.stack([x * 0.0, x], dim=1).softmax(dim=1)[:, 1]),
        {"probability-as-logit"}),
    "probabilities by a formula": (
        lambda: d(lambda x: 1.0 / (1.0 + torch.exp(-x))), {"probability-as-logit"}),
    "logits as probabilities": (
        lambda: d(lambda x: x, link="probability"), {"logit-as-probability", "invalid-logits"}),
    "a sigmoid that reaches 1": (
        lambda: d(lambda x: torch.sigmoid(40.0 * x), link="probability"),
        {"saturated", "invalid-logits"}),
    "a clamp": (lambda: d(lambda x: x.clamp(max=1.0)), {"saturated"}),
    "NaN logits": (lambda: d(lambda x: torch.where(x > 2.0, torch.nan, x)), {"invalid-logits"}),
    "infinite logits": (
        lambda: d(lambda x: torch.where(x > 2.0, torch.inf, x)), {"invalid-logits"}),
    "nothing can be real": (lambda: d(only_zeros_pass), {"no-finite-logits"}),
    "constant logits": (lambda: d(lambda x: x * 0.0 + 0.3), {"constant-logits"}),
    "logits that hardly differ": (lambda: d(lambda x: 5e-4 * x, real=None), {"flat-logits"}),
    "bfloat16": (lambda: d(lambda x: x.bfloat16()), {"low-precision"}),
    "half": (lambda: d(lambda x: x.half()), {"low-precision"}),
    "a hinge critic": (lambda: model(link="hinge"), {"no-ratio"}),
    "a Wasserstein critic": (lambda: model(link="wasserstein"), {"no-ratio"}),
    "one outlier": (
        lambda: d(lambda x: torch.where(x > 2.7, 20.0 * x, x)), {"starved", "wrong-top"}),
    "an untrained D": (lambda: model(discriminator=untrained(9)), {"useless"}),
    "a Wasserstein critic as a logit": (
        lambda: d(lambda x: x / 1.9 - 30.0), {"underconfident"}),
    "a generator without its weights": (untrained_g, {"weak-generator"}),
    "real in another order of colours": (
        lambda: colours(lambda x: x.flip(1)), {"real-channels"}),
    "tripled above 1": (lambda: d(lambda x: torch.where(x > 1.0, 3.0 * x, x)), {"wrong-top"}),
    "tripled above 1, stronger D": (
        lambda: healthy.shifted(0, 1.5, then=lambda x: torch.where(x > 1.0, 3.0 * x, x)),
        {"wrong-top"}),
    "higher by 3 above 1": (lambda: d(lambda x: torch.where(x > 1.0, x + 3.0, x)), {"wrong-top"}),
    "flat above 1": (
        lambda: healthy.shifted(0, 1.5, then=lambda x: x.clamp(max=1.0) + 0.1 * x.clamp(min=1.0)),
        {"wrong-top"}),
    "too steep": (lambda: model(discriminator=Ratio(4.0)), {"overconfident"}),
    "too flat": (lambda: model(discriminator=Ratio(0.25)), {"underconfident"}),
    "reversed": (lambda: d(lambda x: -x), {"reversed"}),
    "blind": (lambda: model(discriminator=lambda x: x[:, 1]), {"useless"}),
    "real in another range": (
        lambda: g(torch.tanh, real=torch.sigmoid(2 * real())), {"real-range"}),
    "real in [0, 255], G behind a tanh": (
        lambda: pictures(torch.tanh, lambda x: 127.5 * (x + 1.0)), {"real-range"}),
    "real in bytes": (
        lambda: pictures(torch.tanh, lambda x: (127.5 * (x + 1.0)).byte()), {"real-range"}),
    "real in [0, 255], G without bounds": (
        lambda: pictures(lambda z: 0.5 * z, lambda x: (127.5 * (x + 1.0)).clamp(0.0, 255.0)),
        {"real-range"}),
    "real in [0, 1], G without bounds": (
        lambda: pictures(lambda z: 0.5 * z, lambda x: ((x + 1.0) / 2.0).clamp(0.0, 1.0)),
        {"real-range"}),
    "real in [-1, 1], G behind a sigmoid": (
        lambda: pictures(torch.sigmoid, lambda x: 2.0 * x - 1.0), {"real-range"}),
    "real as ImageNet's standard scores": (
        lambda: pictures(torch.tanh, lambda x: ((x + 1.0) / 2.0 - 0.449) / 0.226), {"real-range"}),
    "real in metres, G in kilometres": (lambda: model(real=1000.0 * real()), {"real-range"}),
    "channels last": (
        lambda: pictures(torch.tanh, lambda x: x.movedim(1, -1)), {"real-shape"}),
    "real of another shape": (lambda: model(real=torch.zeros(500, 3)), {"real-shape"}),
    "real of whole numbers": (lambda: model(real=real().long()), {"real-dtype"}),
    "real with NaN": (lambda: model(real=with_value(math.nan)), {"real-samples"}),
    "real all alike": (lambda: model(real=torch.ones(500, 2)), {"real-constant"}),
    "G far from the data": (lambda: model(real=real() + 3.0), {"underconfident"}),
    "D knows the real samples": (knows_them, {"separated"}),
    "D knows its 50 real samples": (lambda: knows_them(50), {"separated"}),
}  # fmt: skip


def snapshot(gan):
    found = probes.modules(gan)
    held = [t for m in found for t in (*m._parameters.values(), *m._buffers.values())]
    return (
        [module.training for module in found],
        [(id(t), t.detach().clone()) for t in held if t is not None],
        torch.get_rng_state(),
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(name):
    make, expected = FAULTS[name]
    gan = make()
    torch.manual_seed(1)
    before, seen = snapshot(gan), gan.real
    diagnosis = doctor.doctor(gan)
    assert set(diagnosis.codes) == expected
    assert len(diagnosis.codes) == len(expected)
    # The patient is left as it was.
    after = snapshot(gan)
    assert after[0] == before[0]
    for (address, value), (now, found) in zip(before[1], after[1], strict=True):
        assert address == now
        assert value.is_meta or torch.equal(value, found)
    assert torch.equal(before[2], after[2])
    assert gan.real is seen


@pytest.mark.parametrize("seed", range(10))
def test_statistics_that_two_blocks_happen_to_share_are_found(seed):
    """With seed 3, two random blocks of normals had means that were too alike."""
    gan = FAULTS["minibatch statistic of all rows"][0]()
    assert doctor.doctor(gan, n=512, seed=seed).codes == ("coupled-discriminator",)


def test_a_weak_class_is_told_what_becomes_of_its_share():
    assert "DRS(classes='within') keeps" in str(
        doctor.doctor(FAULTS["labels in another order"][0]())
    )


def test_every_code_is_planted():
    """All except the one that needs two devices."""
    planted = set().union(*(expected for _, expected in FAULTS.values()))
    assert planted == codes() - {"devices"}
    assert len(planted) > 25


def test_networks_on_two_devices():
    def on(device):
        parameters = [SimpleNamespace(device=device)]
        return SimpleNamespace(parameters=lambda recurse: parameters)

    assert list(probes.placement([on("cpu"), on("cpu")])) == []
    (finding,) = probes.placement([on("cpu"), on("cuda:0")])
    assert finding.code == "devices"
    assert "cpu, cuda:0" in finding.seen


# --- sound models


@pytest.mark.parametrize("name", healthy.HEALTHY)
def test_nothing_is_found_in_a_healthy_model(name):
    """There was no false alarm in 798 runs with other seeds, 12 per case, 3 of the zoo's."""
    diagnosis = doctor.doctor(healthy.HEALTHY[name](0), n=512 if name == "digits" else 4096)
    assert diagnosis.findings == (), str(diagnosis)


def test_there_are_forty_healthy_models():
    assert len(healthy.HEALTHY) >= 40


def test_no_seed_makes_a_sound_model_ill():
    """Three one-sided checks of 4 standard errors: one false positive in 500 runs of the suite."""
    for seed in range(20):
        diagnosis = doctor.doctor(model(real=real(512, seed=1000 + seed)), n=512, seed=seed)
        assert diagnosis.findings == (), f"seed {seed}: {diagnosis}"


def test_the_standard_errors_are_right():
    """Slopes, of all and of the top tenth, and AUCs of 50 draws.

    Their spread is what is claimed for each, within 4 of its sd, 1/sqrt(2 * 50) = 10 %.
    """
    slopes, tops, areas, draws = [], [], [], Draws(0, 2**40)
    for _ in range(50):
        x, z = draws.normal(1500, 1)[:, 0].double(), draws.normal(1000, 1)[:, 0].double()
        logits = Logits((x + 0.5) / 2, (z - 0.5) / 2)  # N(1/2, 1) against N(-1/2, 1); slope 2
        report = compared.measure(logits)
        slopes.append((report.slope - 2.0) / report.slope_error)
        tops.append((report.top_slope - 2.0) / report.top_error)
        same = area_under_curve(x, z)
        areas.append((same - 0.5) / area_error(1500, 1000))
    for deviations in (slopes, tops, areas):
        assert abs(sum(deviations) / 50) < 4 / math.sqrt(50)
        assert abs(torch.tensor(deviations).std() - 1.0) < 4 * 0.1


# --- lower precisions


def takes(monkeypatch, share):
    """A row in a lower precision takes this share of the time of one in fp32."""
    monkeypatch.setattr(precisions, "cost", lambda *given: share)


def test_it_says_how_far_bf16_is_off():
    """On the burn-in rows of a run, with each row's own uniform."""
    gan, rng = model(), drs.Rng(3, BURN_IN_ROW)
    found = doctor.doctor(gan, seed=3)
    z = drs.ops.latents(gan, rng, 4096)
    logit, low = (gan.on(precision=name).verdicts(z) for name in ("fp32", "bf16"))
    off = (low - logit)[:1024].double() / logit[:1024].double().std(correction=0)
    log_m = drs.ops.largest(logit)
    at = {"log_m": log_m, "gamma": drs.ops.quantile_gamma(logit, 80.0, log_m=log_m)}
    mine, theirs = (drs.ops.accept(one[:1024], rng, **at) for one in (logit, low))
    assert found.figures["bf16_error"] == pytest.approx(float(off.square().mean().sqrt()))
    assert found.figures["bf16_worst"] == pytest.approx(float(off.abs().max()))
    assert found.figures["bf16_flipped"] == float((mine ^ theirs).double().mean()) > 0.0
    assert "bf16_infinite_share" not in found.figures


def test_it_says_what_a_cascade_brings(monkeypatch):
    """With hardly any error, the rows that pass are those that are accepted."""
    gan = drs.GAN(lambda z: z, lambda x: x[:, 0] - 0.5, 2)
    takes(monkeypatch, 0.25)
    (note,) = doctor.doctor(gan).notes
    usual, exact = map(float, re.findall(r"([\d.]+) times", note))
    p80, gamma_0 = (doctor.doctor(gan).figures[f"acceptance_{name}"] for name in ("p80", "gamma_0"))
    assert "a row in bf16 takes 0.25 of the time of one in fp32 here: with drs.Squeeze(" in note
    assert usual == pytest.approx(1.0 / (0.25 + p80), abs=0.1)
    assert exact == pytest.approx(1.0 / (0.25 + gamma_0), abs=0.1)


def test_it_says_that_a_cascade_brings_nothing(monkeypatch):
    takes(monkeypatch, 1.1)
    (note,) = doctor.doctor(model()).notes
    words = "a row in bf16 takes 1.1 of the time of one in fp32 here, so a cascade brings nothing"
    assert note == words


def test_times_change_no_finding_and_no_figure(monkeypatch):
    said = []
    for share in (0.1, 3.0):
        takes(monkeypatch, share)
        diagnosis = doctor.doctor(model())
        said.append((diagnosis.codes, diagnosis.figures, diagnosis.unknown))
    assert said[0] == said[1]


def in_bf16_only(change):
    """The sound model, changed where autocast is on."""

    class Rounded(Ratio):
        def forward(self, x):
            score = super().forward(x)
            return change(x, score) if torch.is_autocast_enabled("cpu") else score.float()

    return model(discriminator=Rounded())


@pytest.mark.parametrize(("least", "unfit"), [(1.0, True), (2.5, False)])
def test_rows_that_overflow_are_counted(least, unfit):
    gan = in_bf16_only(lambda x, score: torch.where(x[:, 1] > least, torch.inf, score))
    diagnosis = doctor.doctor(gan)
    share = diagnosis.figures["bf16_infinite_share"]
    assert share == pytest.approx(0.5 * math.erfc(least / math.sqrt(2.0)), abs=0.04)
    assert diagnosis.codes == ()
    (note,) = diagnosis.notes
    assert ("of the rows have no finite logit" in note) == unfit
    assert ("leave precision='bf16' alone" in note) == unfit
    assert ("Squeeze" in note or "cascade" in note) != unfit


def test_a_level_that_a_precision_cannot_hold():
    diagnosis = doctor.doctor(model(discriminator=Lifted()))
    assert diagnosis.codes == ()
    (note,) = diagnosis.notes
    assert re.match("in bf16, logits are off by .* of their standard deviations, so leave", note)


def test_a_precision_that_cannot_be_tried_is_unknown():
    def fails(x, score):
        raise RuntimeError("no kernel")

    diagnosis = doctor.doctor(in_bf16_only(fails))
    assert diagnosis.findings == ()
    (unknown,) = diagnosis.unknown
    assert unknown.startswith("how far bf16 is from fp32: ")
    assert "no kernel" in unknown
    assert not any(key.startswith("bf16") for key in diagnosis.figures)


def test_rows_that_are_surely_rejected_count_for_no_error():
    gan = d(lambda score: torch.where(score < -1.5, -torch.inf, score), real=None)
    figures = doctor.doctor(gan).figures
    assert figures["minus_infinity_share"] > 0.1
    assert 0.0 < figures["bf16_error"] < figures["bf16_worst"] < 0.1


def test_an_energy_has_no_cascade():
    diagnosis = doctor.doctor(model(link="hinge", real=None))
    assert diagnosis.codes == ("no-ratio",)
    assert "bf16_error" in diagnosis.figures
    assert "bf16_flipped" not in diagnosis.figures
    assert diagnosis.notes == ()


# --- figures and words


def test_figures_are_those_of_the_law():
    """N(0, I) against N((1, 0), I): AUC Phi(1/sqrt 2), effective share 1/e; sd for 4096 rows."""
    figures = doctor.doctor(model()).figures
    assert figures["rows"] == figures["real_rows"] == 4096
    assert figures["invalid_share"] == figures["minus_infinity_share"] == 0.0
    assert figures["auc"] == pytest.approx(0.7602, abs=4 * 0.0053)
    assert figures["slope"] == pytest.approx(1.0, abs=4 * 0.031)
    assert figures["effective_share"] == pytest.approx(math.exp(-1), abs=0.08)
    assert figures["logit_mean"] == pytest.approx(-0.5, abs=4 / 64)
    assert figures["logit_sd"] == pytest.approx(1.0, abs=4 * 0.011)


def test_acceptance_is_that_of_the_sampler():
    gan = model()
    figures = doctor.doctor(gan, n=10_000, seed=3).figures
    for name, sampler in (
        ("gamma_0", drs.samplers.DRS(gamma=0.0)),
        ("p80", drs.samplers.DRS(percentile=80)),
        ("p95", drs.samplers.DRS(percentile=95)),
    ):
        expected = float(sampler.init(gan, drs.Rng(3)).acceptance)
        assert figures[f"acceptance_{name}"] == pytest.approx(expected, rel=1e-9)


def test_classes_have_figures_of_their_own():
    figures = doctor.doctor(conditional()).figures
    for name in ("gamma_0", "p80", "p95"):
        assert 0 < figures[f"acceptance_{name}_lowest_class"] < figures[f"acceptance_{name}"]


def test_classes_with_too_few_rows_are_not_compared():
    diagnosis = doctor.doctor(conditional(generator=Embeds(300), labels=300), real=None)
    assert re.search(r"29\d of 300 classes have fewer than 23 rows", str(diagnosis))
    assert "weak-class" not in diagnosis.codes


@pytest.mark.parametrize(
    ("weak", "words"), [((2,), "in class 2 the largest"), ((0, 2), "in classes 0, 2 the largest")]
)
def test_weak_classes_are_named(weak, words):
    gan = conditional(
        generator=Embeds(6),
        discriminator=lambda x, y: x[:, 0] - 9.0 * torch.isin(y, torch.tensor(weak)),
        labels=6,
    )
    assert words in str(doctor.doctor(gan, real=None))


@pytest.mark.parametrize("role", ["generator", "discriminator"])
def test_writing_to_the_input_is_noted(role):
    def doubled(rows):
        return rows.mul_(2.0)

    before = Then(doubled_module(doubled), Same() if role == "generator" else Ratio(0.5))
    diagnosis = doctor.doctor(model(**{role: before}, real=None))
    assert diagnosis.findings == ()
    assert any(f"the {role} writes to its input" in note for note in diagnosis.notes)


def doubled_module(function):
    return Then(nn.Identity(), function)


def test_without_real_samples_it_says_what_it_cannot_tell():
    diagnosis = doctor.doctor(model(real=None))
    assert diagnosis.findings == ()
    assert "cannot tell the range of real samples, D's AUC" in str(diagnosis)
    (unknown,) = diagnosis.unknown
    assert "there are no real samples; give real=x" in unknown


def test_what_could_be_checked_is_not_unknown():
    assert doctor.doctor(model()).unknown == ()


def test_with_few_real_samples_it_says_what_it_cannot_tell():
    diagnosis = doctor.doctor(healthy.shifted(0, 0.5, n=12))
    assert diagnosis.findings == ()
    unknown = "\n".join(diagnosis.unknown)
    for words in ("tells real from generated at all: AUC", "D's slope: ", "D's top tenth: "):
        assert words in unknown


def test_separated_samples_as_few_as_d_expects_them():
    gan = healthy.shifted(0, 5.0, n=12)
    diagnosis = doctor.doctor(gan)
    assert diagnosis.findings == ()
    assert any(
        "all 12 real logits are above all 12 generated" in line for line in diagnosis.unknown
    )


@pytest.mark.parametrize("rows", [0, 20])
def test_values_in_the_unit_interval_are_a_question_to_few_real_samples(rows):
    gan = healthy.HEALTHY["logits in [0.4, 0.6]"](0)
    gan.real = gan.real[:rows] if rows else None
    diagnosis = doctor.doctor(gan)
    assert diagnosis.findings == ()
    assert any("values, which are all in [0, 1], are" in line for line in diagnosis.unknown)


def test_real_samples_tell_logits_from_probabilities():
    """1,000 samples are enough for a certain, correct answer, whatever the seed."""
    for seed in range(10):
        logits = healthy.HEALTHY["uniform, logits in [0, 1]"](seed)
        odds = healthy.shifted(seed, then=lambda x: 1.0 / (1.0 + torch.exp(-x)))
        first, second = doctor.doctor(logits, n=1000), doctor.doctor(odds, n=1000)
        assert first.findings == ()
        assert not any("[0, 1]" in line for line in first.unknown)
        assert second.codes == ("probability-as-logit",)


def test_an_unusable_discriminator_leaves_the_rest_unknown():
    diagnosis = doctor.doctor(d(lambda x: x * 0.0))
    assert any("usable logits" in line for line in diagnosis.unknown)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("weights not loaded", "whatever needs a call of G and D: "),
        ("pac", "whatever needs rows, samples or logits: "),
        ("a dict", "whatever needs rows, samples or logits: "),
    ],
)
def test_what_cannot_be_called_leaves_the_rest_unknown(fault, words):
    (unknown,) = doctor.doctor(FAULTS[fault][0]()).unknown
    assert unknown.startswith(words)


def test_weights_on_two_devices_leave_the_rest_unknown(monkeypatch):
    found = [Finding("devices", "parameters are on cpu, cuda:0", "move them")]
    monkeypatch.setattr(probes, "placement", lambda modules: iter(found))
    diagnosis = doctor.doctor(model())
    assert diagnosis.codes == ("devices",)
    assert "cannot tell whatever needs a call of G and D: their weights" in str(diagnosis)


def test_a_real_range_hides_what_d_says_of_it():
    diagnosis = doctor.doctor(FAULTS["real in bytes"][0]())
    assert any("D does not accept these real samples" in line for line in diagnosis.unknown)
    assert "0.007843 * x -1 takes [0, 255] to [-1, 1]" in str(diagnosis)


def test_channels_that_come_last_are_recognised():
    assert "x.movedim(-1, 1)" in str(doctor.doctor(FAULTS["channels last"][0]()))


@pytest.mark.parametrize("error", [OSError("not mounted"), KeyError("not mounted")])
def test_whatever_hinders_real_samples_is_said(error):
    def absent(n):
        raise error

    diagnosis = doctor.doctor(model(real=absent))
    kind = type(error).__name__
    ((code, seen, remedy),) = diagnosis.findings
    assert (code, remedy) == ("real-samples", real_samples.REAL)
    assert re.fullmatch(rf"real failed on 4096: {kind}: '?not mounted'?", seen)
    assert any("the real samples cannot be used" in line for line in diagnosis.unknown)


def test_real_samples_given_here_come_first():
    gan = model(real=torch.zeros(10, 3))
    assert doctor.doctor(gan).codes == ("real-shape",)
    assert doctor.doctor(gan, real=real()).codes == ()
    assert doctor.doctor(gan, real=real().double()).codes == ()


def test_a_mild_miscalibration_is_a_note():
    diagnosis = doctor.doctor(model(discriminator=Ratio(1.5)))
    assert diagnosis.findings == ()
    assert any("the slope is 0.6" in note for note in diagnosis.notes)


def test_one_fact_is_said_once():
    """A slope that is a finding, or that cannot be told, is in no note."""
    flat = doctor.doctor(model(discriminator=Ratio(0.25)))
    assert flat.codes == ("underconfident",)
    assert not any("the slope is" in note for note in flat.notes)
    undecided = doctor.doctor(model(discriminator=Ratio(1.9)))
    assert "D's slope: " in "".join(undecided.unknown)
    assert not any("the slope is" in note for note in undecided.notes)


def test_a_generator_of_narrow_range_is_not_mended_by_scaling_real_samples():
    """As an untrained one: D tells it from the data, and no other unit of the data is near it."""
    gan = healthy.pictures(0, torch.tanh, lambda x: x.clamp(-3.0, 3.0))
    real = gan.real
    narrow = drs.GAN(
        lambda z: 1e-3 * torch.tanh(z).view(-1, 3, 8, 8).abs(),
        lambda x: x.flatten(1).square().mean(dim=1) * 4e6,
        gan.latent_dim,
        real=real,
    )
    diagnosis = doctor.doctor(narrow)
    assert diagnosis.codes == ("weak-generator",)
    assert "G may be untrained, without its weights" in str(diagnosis)
    assert " takes [-1, 1] to " not in str(diagnosis)
    assert any("D's AUC, slope and top tenth are what" in line for line in diagnosis.unknown)


def test_a_flat_discriminator_with_a_sound_share_of_rejected_rows_is_not_flat():
    """One row in a hundred is hopeless, and D says so; all others are nearly alike."""
    gan = d(lambda x: torch.where(x < -2.8, x - 20.0, 1e-3 * x), real=None)
    assert doctor.doctor(gan).codes == ()


def test_the_same_seed_gives_the_same_words(monkeypatch):
    """Apart from the time of a row."""
    monkeypatch.setattr(precisions, "cost", lambda *given: 0.5)
    assert str(doctor.doctor(model(), seed=4)) == str(doctor.doctor(model(), seed=4))
    assert str(doctor.doctor(model(), seed=4)) != str(doctor.doctor(model(), seed=5))


@pytest.mark.parametrize("seed", range(8))
def test_an_untrained_discriminator_is_never_sound(seed):
    assert doctor.doctor(model(discriminator=untrained(seed))).findings


@pytest.mark.parametrize("slope", [1.6, 1.8, 2.0, 2.2, 3.0])
def test_a_score_of_another_slope_and_level_is_not_a_logit(slope):
    """As of a Wasserstein critic; a slope from 1.5 to 2 was let pass."""
    ((code, seen, remedy),) = doctor.doctor(d(lambda x: x / slope + 20.0)).findings
    assert code == "underconfident"
    assert "Dawid's Z is -" in seen
    assert "link='wasserstein'" in remedy


def test_a_level_alone_harms_no_sampler():
    assert doctor.doctor(d(lambda x: x / 1.2 + 20.0)).findings == ()


def test_a_weak_generator_is_told_from_real_samples_in_other_units():
    """D was trained on dark pictures in [-1, 1]. G makes grey ones, as an untrained one does."""
    weak = FAULTS["a generator without its weights"][0]()
    ((code, seen, remedy),) = doctor.doctor(weak).findings
    assert code == "weak-generator"
    assert "D finds the real ones more real as they are" in seen
    assert "the real samples are scaled well" in remedy
    sound = drs.GAN(
        lambda z: 0.13 * z.view(-1, 3, 8, 8) - 0.6,
        weak.discriminator,
        192,
        real=(weak.real + 1.0) / 2.0,
    )
    ((code, seen, remedy),) = doctor.doctor(sound).findings
    assert code == "real-range"
    assert "2 * x -1 takes [0, 1] to [-1, 1]" in remedy
    assert "D finds them more real when converted" in seen
    assert "untrained" not in remedy


def test_a_preference_that_is_not_sure_is_none():
    gan, x = model(), real(512)
    samples = symptoms.RealSamples(x, None)
    assert real_samples.preference(gan, samples, x) == 0.0
    assert real_samples.preference(gan, samples, -x + 0.1 * real(512, seed=6)) < 0.0
    assert real_samples.preference(gan, samples, x + 1e-3) > 0.0
    assert real_samples.preference(gan, samples, x.flip(0)) == 0.0


def test_colours_in_order_raise_no_alarm():
    assert doctor.doctor(colours(lambda x: x)).findings == ()


def test_neighbours_see_a_difference_where_there_is_one():
    x, z = (torch.randn(2000, 2, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    same, shifted = vote(x, z, 0), vote(x + torch.tensor([1.0, 0.0]), z, 0)
    assert abs(same.auc - 0.5) < 4 * same.error
    assert 0.65 < shifted.auc < 0.7602
    wide = torch.cat([z, torch.zeros(2000, 9000)], dim=1)
    assert vote(wide, wide + 1.0, 0).auc == 1.0
    assert vote(x[:100], z, 0) is None
    assert vote(torch.complex(x, x), torch.complex(z, z), 0) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.123456, "0.123"), (12.3456, "12.3"), (-63.94, "-63.9"), (4096, "4,096"), (1.0, "1"),
     (12345.6, "12,300"), (1e-7, "1e-07"), (math.nan, "nan"), (-math.inf, "-inf"), (1e30, "1e+30")],
)  # fmt: skip
def test_numbers_have_three_digits(value, said):
    assert number(value) == said


def test_the_figures_have_three_digits():
    shown = str(doctor.doctor(model()))
    assert re.search(r"\nrows +4,096\n", shown)
    for figure in re.findall(r"\n[a-z]\w+ +(\S+)(?=\n)", shown):
        assert len(re.sub(r"e.*|\D", "", figure).lstrip("0")) <= 3 or figure == "4,096", figure


def test_a_diagnosis_as_json(capsys, monkeypatch):
    """The keys are those of as_dict, and stay."""
    monkeypatch.setattr(precisions, "cost", lambda *given: 0.5)
    diagnosis = doctor.doctor(FAULTS["a clamp"][0]())
    held = diagnosis.as_dict()
    assert list(held) == ["name", "findings", "figures", "notes", "unknown"]
    assert [finding["code"] for finding in held["findings"]] == ["saturated"]
    assert list(held["findings"][0]) == ["code", "seen", "remedy"]
    assert json.loads(json.dumps(held, allow_nan=False)) == held
    assert Diagnosis("mine", (), {"auc": math.nan}, ()).as_dict()["figures"] == {"auc": None}
    assert cli.main(["doctor", "25gaussians", "--json", "-n", "512"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == drs.doctor(drs.load("25gaussians"), n=512).as_dict()


def test_backends_as_json(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert list(held) == ["drs_fast", "python", "torch", "devices"]
    assert held["devices"]["cpu"]["backends"]["reference"] is None


def test_a_diagnosis_in_a_line():
    fault = Finding("useless", "AUC 0.5", "train it further")
    told = repr(Diagnosis("mine", (fault,), {"auc": 0.5}, ()))
    assert told == "<Diagnosis of mine: 1 problem (useless); print it for more>"
    left = repr(Diagnosis("mine", (), {}, (), ("the range: no samples",)))
    assert left == (
        "<Diagnosis of mine: no problems in what could be checked; 1 check was not possible; "
        "print it for more>"
    )


def test_a_diagnosis_in_words():
    fault = Finding("useless", "AUC 0.5", "train it further")
    figures = {"auc": 0.5, "real_rows": 9}
    text = str(Diagnosis("mine", (fault,), figures, ("no labels",), ("the range: no samples",)))
    assert text == (
        "mine: 1 problem\n\nuseless\n  seen: AUC 0.5\n  do:   train it further\n\n"
        "auc        0.5\nreal_rows  9\n\ncannot tell the range: no samples\n\nnote: no labels"
    )
    assert str(Diagnosis("mine", (), {}, ())) == "mine: no problems"
    assert str(Diagnosis("mine", (fault, fault), {}, ())).startswith("mine: 2 problems\n")


@pytest.mark.parametrize("n", [0, -1, 2.5, "many"])
def test_n_is_a_number_of_rows(n):
    with pytest.raises(ValueError, match="n must be"):
        doctor.doctor(model(), n=n)


def test_only_gans_are_patients():
    with pytest.raises(ValueError, match=r"gan must be a drs.GAN, got 3; use drs.load"):
        doctor.doctor(3)


def test_real_samples_that_are_given_must_be_usable():
    gan = drs.GAN(lambda z, y: z, lambda x, y: x[:, 0], 2, labels=4)
    with pytest.raises(ValueError, match=r"real=\(x, y\)"):
        drs.doctor(gan, torch.zeros(10, 2))


# --- real samples that cannot be used


def with_value(value, at=(7, 9)):
    x = real(512)
    x[list(at), 0] = value
    return x


GIVEN = {  # real samples: the finding, or the words of the error, where they were given
    "NaN": (
        lambda: with_value(math.nan),
        r"finite, got NaN .* in 2 of 512, .*the first at 7; drop",
    ),
    "infinite": (lambda: with_value(-math.inf), "finite, got NaN or infinite values in 2 of 512"),
    "half, overflown": (
        lambda: with_value(1e6).half(),
        "finite, got NaN or infinite values in 2 of 512",
    ),
    "all NaN": (lambda: real(512) * math.nan, "finite, got NaN or infinite values in 512 of 512"),
    "a scalar": (lambda: torch.tensor(1.0), r"must give a tensor of samples .*got \(\) float32"),
    "none": (lambda: real()[:0], r"must give a tensor of samples .*got \(0, 2\) float32"),
    "few": (lambda: real()[:9], "at least 10 real samples, got 9"),
    "sparse": (lambda: real().to_sparse(), "must be a dense tensor.*to_dense"),
    "on meta": (
        lambda: real().to("meta"),
        "real must be a dense tensor of numbers, got .* on meta",
    ),
    "eight bits": (
        lambda: real().to(torch.float8_e4m3fn),
        "numbers of a standard dtype, got .*float8",
    ),
    "an array of words": (
        lambda: np.array(["a", "b"]),
        "of a type that PyTorch has, got an array of <U1",
    ),
    "a row": (lambda: real()[:, 0], "real-shape"),
    "wide": (lambda: torch.zeros(100, 3), "real-shape"),
    "of no width": (lambda: torch.zeros(100, 0), "real-shape"),
    "bytes": (lambda: (real() * 50).to(torch.uint8), "real-dtype"),
    "whole": (lambda: real().long(), "real-dtype"),
    "bool": (lambda: real() > 0, "real-dtype"),
    "complex": (lambda: real().to(torch.complex64), "real-dtype"),
    "constant": (lambda: real()[:1].expand(600, 2), "real-constant"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_real_samples_that_cannot_be_used_are_an_error_or_a_finding(kind):
    make, said = GIVEN[kind]
    if said.startswith("real-"):
        assert doctor.doctor(model(), real=make(), n=512).codes == (said,)
        assert doctor.doctor(model(real=make()), n=512).codes == (said,)
        return
    with pytest.raises(ValueError, match=said):
        doctor.doctor(model(), real=make(), n=512)
    diagnosis = doctor.doctor(model(real=make()), n=512)
    if kind == "few":
        assert diagnosis.codes == ()
        assert diagnosis.unknown
        return
    assert diagnosis.codes == ("real-samples",)
    assert re.search(said, "; ".join(diagnosis.findings[0][1:]))
    assert any("the real samples cannot be used" in line for line in diagnosis.unknown)


@pytest.mark.parametrize("kind", GIVEN)
def test_real_samples_from_a_file_end_the_doctor_with_a_code(tmp_path, capsys, kind):
    make, said = GIVEN[kind]
    if kind in (
        "an array of words",
        "on meta",
    ):  # which torch.save does not write, or load_file not read
        return
    torch.save(make(), tmp_path / "real.pt")
    code = cli.main(["doctor", "25gaussians", "--real", str(tmp_path / "real.pt"), "-n", "1"])
    out, err = capsys.readouterr()
    assert code == (8 if said.startswith("real-") else 2)
    assert re.search(said, out if code == 8 else err)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_real_samples_are_judged_in_the_dtype_of_generated_ones(dtype):
    """A network with float32 weights takes only float32, but NumPy's arrays are float64."""
    diagnosis = doctor.doctor(model(discriminator=Ratio()), real=real().to(dtype))
    assert diagnosis.codes == ()
    assert diagnosis.figures["real_rows"] > 2000


USES = {
    "calibrate": drs.calibrate,
    "keep_train": lambda gan: drs.keep_train(gan, lambda x: x),
    "density_ratio": lambda gan: drs.density_ratio(gan, lambda x: x),
    "contrastive": lambda gan: drs.contrastive(gan, steps=1),
    "latent_weights": drs.latent_weights,
    "MH": lambda gan: drs.generate(gan, drs.samplers.MH(burn_in=500), 3),
    "real_samples": lambda gan: gan.real_samples(600),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("called", [False, True])
def test_whoever_takes_real_samples_refuses_what_is_not_finite(name, called):
    x = with_value(math.nan)
    gan = model(discriminator=Ratio(), real=(lambda n: x[:n]) if called else x)
    with pytest.raises(ValueError, match=r"real samples must be finite, got NaN .* in 2 of"):
        USES[name](gan)


def test_only_the_rows_that_are_asked_for_are_looked_at():
    gan = model(real=with_value(math.nan))
    assert len(gan.real_samples(7)[0]) == 7
    assert len(gan.real_samples(600, torch.tensor([6, 8]))[0]) == 2
    with pytest.raises(ValueError, match="NaN or infinite values in 1 of 2"):
        gan.real_samples(600, torch.tensor([6, 9]))
