"""A batch that does not fit into memory is refused before anything is computed or written."""

import pytest
import torch

import drs_fast as drs
from drs_fast.cli import main as cli
from drs_fast.gan import memory


def plane(calls=(), width=2):
    def generator(z):
        calls and calls.append(len(z))
        return z.repeat(1, width // 2)

    return drs.GAN(generator, lambda x: x[:, 0], 2)


WAYS = {
    "in memory": lambda gan, out, size: drs.generate(gan, drs.samplers.DRS(), 10, batch_size=size),
    "on disk": lambda gan, out, size: drs.generate(
        gan, drs.samplers.DRS(), 10, batch_size=size, out=out
    ),
    "stream": lambda gan, out, size: next(drs.stream(gan, drs.samplers.DRS(), batch_size=size)),
    "plan": lambda gan, out, size: drs.plan(gan, batch_size=size),
}


@pytest.fixture
def small(monkeypatch):
    """A machine with 16 GiB."""
    monkeypatch.setattr(memory, "_total", lambda device: 2**34)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_does_not_fit_is_refused(way, small, tmp_path):
    message = (
        r"batch_size=1,000,000,000 needs at least 26\.1 GiB of memory, 28 bytes a row, and cpu has "
        "16.0 GiB; at most 613,566,756 rows fit"
    )
    with pytest.raises(ValueError, match=message):
        way(plane(), tmp_path / "out", 10**9)
    for size in (2**31, 10**12, 10**30):
        with pytest.raises(ValueError, match=rf"batch_size must be .* in \[1, 2\^31\), got {size}"):
            way(plane(), tmp_path / "out", size)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_size_of_a_sample_counts(way, small, tmp_path):
    """G is called for few rows, but for no whole batch."""
    calls = [0]
    with pytest.raises(ValueError, match=r"needs at least .* GiB of memory, 8,028 bytes a row"):
        way(plane(calls, 1000), tmp_path / "out", 2**22)
    assert max(calls) < 2**15
    assert not (tmp_path / "out").exists()


def test_what_fits_is_taken(small):
    memory.check_batch(plane().on(block=2**29))
    memory.check_batch(plane().on(block=2**20), 8000)
    with pytest.raises(ValueError, match="at most 1,071,866 rows fit"):
        memory.check_batch(plane().on(block=2**21), 8000)


def test_the_command_says_so(small, tmp_path, capsys):
    out = tmp_path / "out"
    for size in (10**9, 10**12, 10**30):
        given = ["generate", "25gaussians", "-n", "1", "--out", str(out), "--batch-size", str(size)]
        assert cli.main([*given, "--quiet"]) == 2
        assert "drs-fast: batch_size" in capsys.readouterr().err
    assert not out.exists()


def test_a_container_may_have_less(monkeypatch, tmp_path):
    cpu = torch.device("cpu")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTAINER", limit)
    most = memory._total(cpu)
    assert most is not None
    assert most > 2**28
    limit.write_text("max\n")
    assert memory._total(cpu) == most
    limit.write_text("123456\n")
    assert memory._total(cpu) == 123456
    assert memory._total(torch.device("mps")) is None
