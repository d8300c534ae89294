"""Runs refuse G and D that couple the rows of a call, and say how to mend that."""

import pytest
import torch
from grouped import CRITICS, SIZE, Scaled, sharp, unpacked
from healthy import HEALTHY
from runs import Counted, toy
from torch import nn

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.doctor import coupling
from drs_fast.samplers.drs import DRS

QUICK = DRS(burn_in=512)
PACK = 'GAN(..., pack="minibatch-std", companions=real)'
SAID = {
    "minibatch deviation": ("(by Deviation)", PACK, "groups of 4"),
    "deviation, groups of 8": ("(by Deviation)", "GAN(..., pack=8, companions=real)"),
    "deviation of the whole batch": ("(by Deviation)", "in a call of its own"),
    "minibatch discrimination": ("(by Similarity)", "in a call of its own"),
    "batch norm without statistics": ("(by BatchNorm1d)", "track_running_stats=True"),
    "pac of 10": ("takes only groups of 10 rows", "GAN(..., pack=10, companions=real)"),
}


@pytest.mark.parametrize("name", CRITICS)
def test_critics_that_couple_rows_are_refused(name, tmp_path):
    ways = (
        lambda gan: drs.generate(gan, QUICK, 10),
        lambda gan: drs.generate(gan, QUICK, 10, out=tmp_path / "run"),
        lambda gan: drs.stream(gan, QUICK),
    )
    for way in ways[:1] if name == "pac of 10" else ways:
        with pytest.raises(ValueError, match="batches of another size") as error:
            way(unpacked(name))
        assert all(words in str(error.value) for words in SAID[name])


@pytest.mark.parametrize("name", CRITICS)
def test_the_doctor_says_the_same(name):
    (finding,) = (
        finding
        for finding in drs.doctor(unpacked(name), n=512).findings
        if finding.code == "coupled-discriminator"
    )
    found = coupling.look(unpacked(name))
    assert finding.remedy == found.remedy
    assert SAID[name][1] in finding.remedy


@pytest.mark.parametrize("block", [2, 4, 8, 64, 128, 4096])
def test_coupling_is_found_in_batches_of_any_size(block):
    with pytest.raises(ValueError, match="couples the rows"):
        drs.generate(unpacked("minibatch deviation"), QUICK, 10, batch_size=block)


def test_a_row_in_a_call_of_its_own_is_not_refused():
    coupling.check(unpacked("minibatch deviation").on(block=1))


def test_train_mode_is_named():
    gan = drs.GAN(
        nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)), 2
    )
    gan.discriminator.train()
    with pytest.raises(ValueError, match=r"BatchNorm1d in train mode must .* call \.eval"):
        drs.generate(gan, QUICK, 10)
    assert gan.discriminator.training


def test_a_generator_that_couples_rows_is_refused():
    network = nn.Sequential(
        nn.Linear(2, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 2)
    )
    with pytest.raises(
        ValueError, match=r"the generator couples .*\(by BatchNorm1d\).*running_stats"
    ):
        drs.generate(drs.GAN(network, nn.Linear(2, 1), 2), QUICK, 10)


def test_a_function_that_couples_rows_is_refused():
    gan = drs.GAN(lambda z: z - z.mean(dim=0), lambda x: x[:, 0], 2)
    with pytest.raises(ValueError, match=r"the generator couples .*: take statistics over"):
        drs.generate(gan, QUICK, 10)


def test_the_command_line_refuses_too(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "import drs_fast as drs\n"
        "def make():\n"
        "    return drs.GAN(lambda z: z, lambda x: x[:, 0] + x.std(), latent_dim=2)\n"
    )
    out = tmp_path / "run"
    assert cli.main(["generate", f"{tmp_path / 'mine.py'}:make", "-n", "10", "--out", str(out)])
    assert "pack=" in capsys.readouterr().err


# --- no false alarms


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_gans_are_not_refused(name):
    coupling.check(HEALTHY[name](3))


class Noisy(nn.Module):
    def forward(self, z):
        return z + 0.1 * torch.randn_like(z)


def test_noise_is_no_coupling():
    coupling.check(drs.GAN(Noisy(), lambda x: x[:, 0], 2))
    coupling.check(drs.GAN(lambda z: z, lambda x: x[:, 0] + torch.randn(len(x)), 2))


def test_networks_that_compute_in_few_bits_are_not_refused():
    def network():
        return nn.Sequential(
            nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 16, 3), nn.BatchNorm1d(16), nn.Tanh(),
            nn.Flatten(), nn.Linear(96, 8),
        ).bfloat16()  # fmt: skip

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = sharp(network)

        def forward(self, z):
            return self.inner(z.bfloat16()).float()

    gan = drs.GAN(Cast(), nn.Linear(8, 1), 8)
    coupling.check(gan)
    coupling.check(gan.on(precision="bf16"))


# --- what it costs


def test_it_costs_two_calls_of_16_rows():
    gan = toy()
    gan.generator, gan.discriminator = Counted(gan.generator), Counted(gan.discriminator)
    before = torch.random.get_rng_state()
    coupling.check(gan)
    assert (gan.generator.rows, gan.discriminator.rows) == (32, 32)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_run_that_goes_on_is_not_asked_again(tmp_path, monkeypatch):
    asked = []
    check = coupling.check
    monkeypatch.setattr(coupling, "check", lambda *given: asked.append(check(*given)))
    for n in (50, 100):
        drs.generate(toy(), QUICK, n, out=tmp_path / "run")
    assert len(asked) == 1


def test_compiled_modules_are_not_compiled_for_it():
    shapes = []

    def backend(graph, given):
        shapes.append(given)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(sharp(Scaled), backend=backend)
    coupling.check(drs.GAN(compiled, nn.Linear(SIZE, 1), SIZE))
    assert shapes == []
