import functools
import subprocess
import sys

import numpy as np
import pytest
import torch

from drs_fast import GAN, Rng, ops
from drs_fast.fingerprint import sha256

MODEL = """
import functools, torch
W = torch.arange(3.0)
class G(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.names = 2.0, {"b", "a"}
        self.act = torch.tanh
    def forward(self, z):
        return torch.stack([self.act(z * self.scale) * w for w in W])
class Slots:
    __slots__ = ("k",)
    def __call__(self, x):
        return x
from drs_fast.fingerprint import sha256
print(sha256(G(), Slots(), functools.partial(torch.add, W), lambda z: z * W, torch.tanh))
"""


def scaled(k, module=None):
    return lambda z: (z if module is None else module(z)) * k


def nested(w):
    return lambda z: torch.stack([q * w for q in z])


class Called:
    def __init__(self, k):
        self.k = k

    def __call__(self, z):
        return z * self.k


class Module(torch.nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k = k
        self.register_buffer("hidden", torch.tensor(float(k)), persistent=False)


class Other(Module):
    def forward(self, z):
        return -z


LARGE = np.arange(5000.0)
CHANGED = np.where(LARGE == 2500, -1, LARGE)
DIFFERENT = {
    "closures": (scaled(2), scaled(3)),
    "inner functions": (nested(2), nested(3)),
    "constants": (lambda z: z * 2, lambda z: z * 3),
    "names": (lambda z: torch.sin(z), lambda z: torch.cos(z)),
    "partials": (functools.partial(torch.add, 1), functools.partial(torch.add, 2)),
    "callable objects": (Called(1), Called(2)),
    "bound methods": (Called(1).__call__, Called(2).__call__),
    "attributes and buffers": (Module(1), Module(2)),
    "forward": (Module(1), Other(1)),
    "modules in a wrapper": (scaled(1, torch.nn.Linear(2, 2)), scaled(1, torch.nn.Linear(2, 2))),
    "large arrays": (scaled(LARGE), scaled(CHANGED)),
    "nesting": ([[1], 2], [[1, 2]]),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_has_another_sha256(one, other):
    assert sha256(one) != sha256(other)
    assert sha256(one) == sha256(one)


def test_every_process_finds_the_same_sha256(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    found = {
        subprocess.run(
            [sys.executable, "model.py"],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (0, 2)  # which put {"b", "a"} in another order
    }
    assert len(found) == 1


def test_modules_in_wrappers_are_put_in_eval_mode():
    generator, critic = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2)
    GAN(lambda z: generator(z), functools.partial(lambda net, x: net(x), critic), 2)
    assert not generator.training
    assert not critic.training


def test_what_a_model_does_in_place_reaches_no_sample():
    gan = GAN(lambda z: z.mul_(2.0), lambda x: x.mul_(100.0).sum(1), 3, block=256)
    z = ops.normal(Rng(0), 300, 3)
    before = z.clone()
    x, logit = gan.logits(z)
    assert torch.equal(z, before)
    assert torch.equal(x, 2.0 * before)
    assert torch.equal(logit, (200.0 * before).sum(1))


def test_the_default_device_does_not_matter():
    expected = ops.normal(Rng(0), 10, 3)
    with torch.device("meta"):
        assert torch.equal(ops.normal(Rng(0), 10, 3), expected)
        assert ops.uniform(Rng(0), 5, stream=1).device.type == "cpu"


def test_out_must_not_share_memory_with_the_inputs():
    logit, rows = torch.zeros(8), torch.zeros(9, 3)
    out = ops.accept_compact(logit, rows[1:], rng=Rng(0), log_m=0.0)
    for wrong in ({"rows": (rows[:8],)}, {"logit": logit}, {"count": out.above}):
        bad = type(out)(**{**vars(out), **wrong})
        with pytest.raises(ValueError, match="must not share memory"):
            ops.accept_compact(logit, rows[1:], rng=Rng(0), log_m=0.0, out=bad)
