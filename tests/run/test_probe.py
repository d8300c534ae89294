"""A run goes on only where G and D still give the numbers that it was begun with."""

import pytest
import torch
from described import linear
from runs import QUICK, Counted, conditional, files, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.cli import main as cli
from drs_fast.run import probe
from drs_fast.store.format import MANIFEST, sealed
from drs_fast.store.manifest import read_manifest

SCRIPTED = """
import torch, drs_fast as drs
def make():
    return drs.GAN(torch.jit.load({file!r}), lambda x: x[:, 0], 2)
"""
HIDDEN = """
import torch, drs_fast as drs
def make():
    return drs.GAN(lambda z: z * torch.load({file!r}), lambda x: x[:, 0], 2)
"""


def command(model, n, out):
    return ["generate", f"{model}:make", "-n", str(n), "--out", str(out), "--quiet"]


def save_script(k, file):
    torch.jit.save(torch.jit.script(linear(k, 2)), file)


def save_factor(k, file):
    torch.save(torch.tensor(float(k)), file)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("source", "save", "said"),
    [(SCRIPTED, save_script, "model_sha256"), (HIDDEN, save_factor, "cannot see")],
    ids=["TorchScript", "a file read in forward"],
)
def test_a_run_is_not_continued_with_another_generator(tmp_path, capsys, source, save, said):
    file, model, out = tmp_path / "g.pt", tmp_path / "model.py", tmp_path / "run"
    model.write_text(source.format(file=str(file)))
    save(1, file)
    assert cli.main(command(model, 3000, out)) == 0
    before = files(out)
    save(2, file)
    assert cli.main(command(model, 6000, out)) == 7
    assert said in capsys.readouterr().err
    assert files(out) == before
    assert store.verify(out) == []
    save(1, file)
    assert cli.main(command(model, 6000, out)) == 0
    whole = tmp_path / "whole"
    assert cli.main(command(model, 6000, whole)) == 0
    assert files(out) == files(whole)


def test_what_enters_the_probe():
    scaled = drs.GAN(linear(1, 2), lambda x: x[:, 0], 2)
    gans = [
        toy(),
        conditional(),
        drs.GAN(lambda z: z, lambda x: x[:, 0], 2),
        drs.GAN(lambda z: z + 1.0, lambda x: toy().scores(x - 1.0), 2),
        scaled,
        scaled.on(precision="bf16"),
    ]
    found = [probe.sha256(gan) for gan in gans]
    assert len(set(found)) == len(found)
    assert found[0] == probe.sha256(toy().on(block=256))


def test_a_probe_costs_a_call_and_at_the_beginning_two(tmp_path):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    critic = Counted(toy().discriminator)
    gan = toy().judged(critic)
    manifest = drs.open(tmp_path).manifest
    assert probe.kept(gan, manifest) == {"probe_sha256": manifest["probe_sha256"]}
    assert critic.rows == 128  # one small call
    assert probe.kept(gan, {}) == {"probe_sha256": manifest["probe_sha256"]}
    assert critic.rows == 3 * 128


def test_a_complete_run_is_not_probed(tmp_path, monkeypatch):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    monkeypatch.setattr(probe, "sha256", lambda gan: pytest.fail("it was probed"))
    drs.generate(toy(), QUICK, 100, out=tmp_path)


def test_the_probe_survives_a_repair(tmp_path):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    before = files(tmp_path)
    (tmp_path / "chunk-00000000.safetensors").write_bytes(b"damaged")
    store.repair(tmp_path)
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    assert files(tmp_path) == before


def test_a_run_of_before_goes_on_without_a_probe(tmp_path, monkeypatch):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    manifest = read_manifest(tmp_path)
    del manifest["probe_sha256"]
    (tmp_path / MANIFEST).write_bytes(sealed(manifest, indent=2))
    monkeypatch.setattr(probe, "sha256", lambda gan: pytest.fail("it was probed"))
    assert len(drs.generate(toy(), QUICK, 200, out=tmp_path)) == 200
    assert "probe_sha256" not in drs.open(tmp_path).manifest


class Noisy(torch.nn.Module):
    """Not a function of its input, without random numbers."""

    def __init__(self):
        super().__init__()
        self._call = 0

    def forward(self, z):
        self._call += 1
        return z + 1e-3 * self._call


def test_a_model_that_is_no_function_is_warned_of_once_and_never_refused(tmp_path):
    def make():
        return drs.GAN(Noisy(), lambda x: x[:, 0], 2)

    with pytest.warns(UserWarning, match="on a second call") as said:
        drs.generate(make(), QUICK, 100, out=tmp_path)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert drs.open(tmp_path).manifest["probe_sha256"] is None
    assert len(drs.generate(make(), QUICK, 200, out=tmp_path)) == 200
    assert drs.open(tmp_path).manifest["probe_sha256"] is None


class Averaging(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        self.mean.lerp_(z.mean(0), 0.1)
        self.calls = self.calls + 1
        return z - self.mean


@pytest.mark.parametrize(
    "make", [Averaging, lambda: torch.jit.script(torch.nn.Sequential(Averaging()))]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:G or D returned different numbers")
def test_the_probe_changes_no_state(make):
    module = make()
    before = {name: (tensor, tensor.clone()) for name, tensor in module.named_buffers()}
    gan = drs.GAN(module, lambda x: x[:, 0], 2)
    assert probe.kept(gan, {}) == {"probe_sha256": None}
    for name, tensor in module.named_buffers():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
