"""Where memory is too small, errors say how many rows to give, and do not doubt the shapes."""

import pytest
import torch
from torch import nn

import drs_fast as drs
from drs_fast import GAN, samplers
from drs_fast.cli import main as cli

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 8 bytes"
)
ERRORS = {
    "cpu": CPU,
    "host": MemoryError("of the host"),
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
}


def greedy(error, who="G", most=128):
    """A GAN that has memory for so many rows."""

    def part(role, module):
        def called(x):
            if role == who and len(x) > most:
                raise error
            return module(x)

        return called

    return GAN(part("G", nn.Identity()), part("D", nn.Linear(2, 1)), 2, real=torch.ones(400, 2))


@pytest.mark.parametrize("who", ["G", "D"])
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_run(error, who):
    role = {"G": "generator", "D": "discriminator"}[who]
    with pytest.raises(
        MemoryError, match=rf"^{role} ran out of memory on \(4096, 2\) float32"
    ) as e:
        drs.generate(greedy(error, who), samplers.DRS(), 10)
    assert "batch_size=1024 (--batch-size 1024), or GAN(..., block=1024)" in str(e.value)
    assert "latent_dim" not in str(e.value)
    assert isinstance(e.value, torch.OutOfMemoryError)  # as code for GPUs expects
    assert len(drs.generate(greedy(error, who), samplers.DRS(), 10, batch_size=128).ids) == 10


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_what_is_learned(error):
    for learned in (drs.keep_train, drs.calibrate):
        with pytest.raises(MemoryError, match=r"ran out of memory on \(512, 2\).* block=128\)"):
            learned(greedy(error))
    with pytest.raises(MemoryError, match=r"^features ran out of memory on \(\d+, 2\).* block="):
        drs.keep_train(greedy(error, most=10**9), features=lambda x: greedy(error).generator(x))


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_the_doctor(error):
    (finding,) = drs.doctor(greedy(error), n=512).findings
    assert finding.code == "fails"
    assert "generator ran out of memory on (256, 2) float32" in finding.seen
    assert "block=64" in finding.remedy
    gan = greedy(error).on(block=128)
    assert "fails" not in drs.doctor(gan, n=512).codes


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_a_plan(error):
    with pytest.raises(MemoryError, match=r"on \(128, 2\).* batch_size=32 \(--batch-size 32\)"):
        drs.plan(greedy(error, most=0), batch_size=256)


def test_a_single_row():
    with pytest.raises(MemoryError, match="a single row is too much: take a smaller model"):
        drs.generate(greedy(CPU, most=0), samplers.DRS(), 10, batch_size=1)


def test_the_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tight.py").write_text(
        "import drs_fast as drs\n"
        "def make():\n"
        "    def generator(z):\n"
        "        if len(z) < 128:\n"
        "            return z\n"
        '        raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory")\n'
        "    return drs.GAN(generator, lambda x: x[:, 0], 2)\n"
    )
    assert cli.main(["generate", "tight.py:make", "-n", "10", "--out", "run"]) == 1
    said = capsys.readouterr().err
    assert "not enough memory: generator ran out of memory on (128, 2) float32; call" in said
    assert "--batch-size 32" in said
    assert "latent_dim" not in said
