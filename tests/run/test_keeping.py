"""What there is of a shard is kept once a minute, and read by the next call."""

import itertools
import re
import shutil

import pytest
import torch
from hills import EXACT, hill
from runs import Counted, conditional, contents, files, toy
from test_max_seconds import in_a_hurry  # noqa: F401

import drs_fast as drs
from drs_fast import samplers, store
from drs_fast.run import keeping
from drs_fast.run.shards import Shards
from drs_fast.store import folder
from drs_fast.store.format import PART
from drs_fast.store.parts import Part

PLAIN = samplers.DRS(burn_in=1024)
WITHIN = samplers.DRS(burn_in=1024, classes="within")
GAMMA0 = samplers.DRS(gamma=0.0, burn_in=1024)


def real():
    gan = toy()
    return drs.GAN(
        gan.generator, gan.discriminator, 2, real=torch.linspace(-1, 1, 4096).view(-1, 2)
    )


KINDS = {
    "plain": (toy, PLAIN, 900, {}),
    "above log_m": (toy, samplers.DRS(gamma=0.0, log_m=0.5, burn_in=1024), 900, {}),
    "labels": (conditional, WITHIN, 600, {}),
    "MH": (real, samplers.MH(chain_length=8, burn_in=1024), 400, {"chunk_rows": 8192}),
    "squeezed": (hill, drs.Squeeze(EXACT, tolerance=0.5, use_bound=True), 60, {}),
    "images": (toy, PLAIN, 900, {"images": "float16"}),
    "little": (toy, PLAIN, 900, {"save": ()}),
}


@pytest.fixture
def often(monkeypatch):
    """After every step within a shard."""
    monkeypatch.setattr(keeping, "SECONDS", 0.0)


def parts(out):
    return sorted(path.name for path in out.iterdir() if PART.fullmatch(path.name))


def generated(out, kind, gan=None, **more):
    made, sampler, n, settings = KINDS[kind]
    named = {"batch_size": 256, "chunk_rows": 2048, **settings, **more}
    return drs.generate(gan or made(), sampler, n, out=out, **named)


def interrupted(monkeypatch, out, kind, after, **more):
    """Ctrl-C when so many parts have been kept; the error."""
    keep, count = store.Writer.keep, itertools.count(1)

    def keeps(writer, part):
        keep(writer, part)
        if next(count) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Writer, "keep", keeps)
        with pytest.raises(KeyboardInterrupt) as caught:
            generated(out, kind, **more)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_within_a_shard_has_the_bytes_of_one_at_once(
    tmp_path, monkeypatch, often, kind
):
    with monkeypatch.context() as patch:
        patch.setattr(keeping, "SECONDS", 60.0)
        generated(tmp_path / "whole", kind)
    whole, out = files(tmp_path / "whole"), tmp_path / "run"
    for after in (1, 2, 2, 1, 3):
        try:
            interrupted(monkeypatch, out, kind, after)
        except pytest.fail.Exception:  # it is complete
            break
        assert len(parts(out)) == 1
        assert [line for line in store.verify(out) if "left behind" not in line] == []
    generated(out, kind)
    assert files(out) == whole
    assert store.verify(out) == []


def test_rows_that_were_kept_are_not_tried_again(tmp_path, monkeypatch, often):
    interrupted(monkeypatch, tmp_path / "run", "plain", 3)
    gan = toy()
    counted = Counted(gan.discriminator)
    generated(tmp_path / "run", "plain", drs.GAN(gan.generator, counted, 2))
    again = counted.rows
    shutil.rmtree(tmp_path / "run")
    interrupted(monkeypatch, tmp_path / "run", "plain", 3)
    rows = Part.read(tmp_path / "run", 0).counters["rows"]
    (tmp_path / "run" / parts(tmp_path / "run")[0]).unlink()
    counted = Counted(gan.discriminator)
    generated(tmp_path / "run", "plain", drs.GAN(gan.generator, counted, 2))
    assert counted.rows - again == rows


@pytest.mark.parametrize("damage", ["cut off", "a bit", "another chunk", "empty"])
def test_a_damaged_part_is_not_used(tmp_path, monkeypatch, often, damage):
    generated(tmp_path / "whole", "plain")
    interrupted(monkeypatch, tmp_path / "run", "plain", 2)
    (name,) = parts(tmp_path / "run")
    data = (tmp_path / "run" / name).read_bytes()
    changed = {
        "cut off": data[:-9],
        "a bit": data[:-1] + bytes([data[-1] ^ 1]),
        "another chunk": data.replace(b'"chunk": 0', b'"chunk": 1'),
        "empty": b"",
    }
    (tmp_path / "run" / name).write_bytes(changed[damage])
    assert Part.read(tmp_path / "run", 0) is None
    generated(tmp_path / "run", "plain")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_another_n_or_state_begins_the_shard_anew(tmp_path, monkeypatch, often):
    gan, sampler, n, _ = KINDS["labels"]
    drs.generate(gan(), sampler, n + 9, out=tmp_path / "whole", batch_size=256, chunk_rows=2048)
    interrupted(monkeypatch, tmp_path / "run", "labels", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Shards, "begin", None)
        patch.setattr(keeping, "SECONDS", 60.0)  # so that nothing replaces the part
        drs.generate(gan(), sampler, n + 9, out=tmp_path / "run", batch_size=256, chunk_rows=2048)
    assert files(tmp_path / "run") == files(tmp_path / "whole")  # without the part
    interrupted(monkeypatch, tmp_path / "again", "plain", 2)
    (tmp_path / "again" / "state.safetensors").unlink()
    read = []
    monkeypatch.setattr(Part, "read", classmethod(lambda *given: read.append(parts(given[1]))))
    generated(tmp_path / "again", "plain")
    assert read == [[]]


def test_a_disk_that_takes_no_part_does_not_end_the_run(tmp_path, monkeypatch, often):
    put = folder.Folder.put

    def full(self, name, *data):
        if PART.fullmatch(name):
            raise OSError(28, "no space")
        return put(self, name, *data)

    monkeypatch.setattr(folder.Folder, "put", full)
    assert len(generated(tmp_path / "run", "plain")) == 900


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_ctrl_c_says_what_is_kept(tmp_path, monkeypatch, seconds):
    out = tmp_path / "run"
    monkeypatch.setattr(keeping, "SECONDS", seconds)
    with pytest.raises(KeyboardInterrupt) as caught:
        drs.generate(stopped(20), PLAIN, 9000, out=out, batch_size=256, chunk_rows=8192)
    (note,) = caught.value.__notes__
    if seconds:
        found = re.fullmatch(
            rf"0 of 9,000 samples are in {out}, and ([\d,]+) samples accepted since are lost, "
            r"because what a shard has is kept every 60 s of work; the same command resumes",
            note,
        )
        assert int(found[1].replace(",", "")) > 100
    else:
        kept = len(Part.read(out, 0).tensors["ids"])
        assert note == f"{kept:,} of 9,000 samples are in {out}; the same command resumes"


def stopped(calls):
    """A GAN whose critic is interrupted at this call."""
    count = itertools.count(1)

    def critic(x):
        if next(count) == calls:
            raise KeyboardInterrupt
        return x[:, 0]

    return drs.GAN(lambda z: z, critic, 2)


def test_before_there_is_a_run_nothing_is_said_of_going_on(tmp_path, monkeypatch):
    out = tmp_path / "run"
    for calls, said in (
        (1, "nothing had been written yet"),
        (6, "burn-in had not ended, so nothing is kept; the same command begins again"),
    ):
        with pytest.raises(KeyboardInterrupt) as caught:
            drs.generate(stopped(calls), PLAIN, 99, out=out, batch_size=256)
        assert caught.value.__notes__ == [said]


def test_a_run_that_cannot_go_on_says_so(tmp_path):
    sampler = samplers.DRS(burn_in=1024, adapt="batch")
    with pytest.raises(KeyboardInterrupt) as caught:
        drs.generate(stopped(12), sampler, 9999, out=tmp_path, batch_size=256, chunk_rows=256)
    assert "with adapt='batch' it cannot be resumed; choose another" in caught.value.__notes__[0]
