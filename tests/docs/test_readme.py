"""What README.md shows runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

import drs_fast as drs
from drs_fast.zoo import NAMES

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def block(start):
    """The block that holds this text."""
    (found,) = (text for text in BLOCKS if start in text)
    return compile(found, "README.md", "exec", dont_inherit=True)


def test_the_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(block('drs.load("25gaussians")'), {})
    assert "torch.Size([10000, 2])" in capsys.readouterr().out
    assert (tmp_path / "run" / "manifest.json").exists()


def test_what_it_computes():
    logit, x, z = torch.linspace(-3, 1, 500), torch.arange(500.0), torch.ones(500, 2)
    names = {"drs": drs, "torch": torch, "logit": logit, "x": x, "z": z, "seed": 0, "row": 7}
    names |= {"log_m": 1.0, "gamma": 0.5, "eps": 1e-6}
    exec(block("kept = drs.ops.accept_compact(logit, x, z, rng=drs.Rng(seed, row)"), names)
    again = dict(names, x=x, z=z, u=drs.ops.uniform(drs.Rng(0, 7), 500, stream=1))
    exec(block("keep = u <"), again)
    assert 0 < len(names["x"]) < 500
    assert torch.equal(names["x"], again["x"])
    assert torch.equal(names["z"], again["z"])


def test_the_sampler_that_keeps_everything(tmp_path):
    names = {"__name__": "raw"}
    exec(block("class RAW:"), names)
    sampler = names["RAW"]()
    gan = drs.load(NAMES[0])
    batch = drs.generate(gan, sampler, 300)
    assert torch.equal(batch.ids, torch.arange(300))
    samples = drs.generate(gan, sampler, 300, out=tmp_path / "run")
    assert torch.equal(samples.x[:], batch.x)
    assert "Source:" in names["RAW"].__doc__
    with pytest.raises((ValueError, drs.BadLogits)):
        drs.generate(drs.GAN(lambda z: z, lambda x: x[:, 0] * torch.nan, 2), sampler, 10)
