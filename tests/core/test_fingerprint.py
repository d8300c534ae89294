import functools
import os
import pathlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from described import BUILDERS, built, linear, old_norm

from drs_fast import GAN, Rng, ops
from drs_fast.core.fingerprint import sha256, weights


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


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_is_what_it_computes_with(name):
    one, equal, other = (sha256(built(name, k)) for k in (1, 1, 2))
    assert one == equal
    assert one != other


def test_every_process_finds_the_same_sha256(tmp_path):
    """Hash seeds put sets in another order; one process finds no compiled code."""
    here = Path(__file__).parents[1] / "common"
    shutil.copy(here / "described.py", tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "import described; described.main()"],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join([str(source), *sys.path]),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, source in (("0", tmp_path), ("2", here))
    ]
    found = [process.communicate()[0].splitlines() for process in processes]
    expected = [f"{name}: {sha256(built(name, 1))}" for name in BUILDERS]
    assert found == [expected, expected]


def test_what_was_always_seen_keeps_its_sha256():
    """Runs that were begun with an earlier version go on."""
    layer = linear(1)
    buffers = {"b": torch.arange(3), "a": {"x", "y"}}
    found = sha256(2, [layer.weight, (layer.bias, None)], buffers, np.arange(2.0), layer)
    assert found == "a6b2648b0ec1a7ac94157cc9945a3c10ada426d7f6c8cd88177ffd2754a5c830"


def conditional(k):
    if k > 1:
        scale = k
    return lambda z: z * scale if k > 1 else z


def test_a_cell_may_be_empty():
    assert sha256(conditional(1)) != sha256(conditional(2))
    assert sha256(conditional(1)) == sha256(conditional(1))


@pytest.mark.parametrize(
    "hold", [lambda v: [v], lambda v: {"a": v}, Called, lambda v: frozenset([v])]
)
def test_data_may_be_nested_deep(hold):
    def deep(k):
        for _ in range(3000):
            k = hold(k)
        return k

    assert sha256(deep(1)) == sha256(deep(1)) != sha256(deep(2))


def test_a_path_is_its_name():
    used, other = pathlib.Path("a/b"), pathlib.Path("a/c")
    assert {used: str(used)}  # which leaves its hash and its name in it
    assert sha256(used) == sha256(pathlib.Path("a/b")) != sha256(other)


def test_the_process_is_no_model_data(monkeypatch):
    before = sha256(os.environ, sys.modules, sys.argv, sys.path)
    monkeypatch.setenv("SOMETHING", "1")
    monkeypatch.setitem(sys.modules, "something", None)
    monkeypatch.setattr(sys, "argv", ["another"])
    sys.path.append("somewhere")
    try:
        assert sha256(os.environ, sys.modules, sys.argv, sys.path) == before
    finally:
        sys.path.pop()


WEIGHED = [
    "TorchScript",
    "a frozen script",
    "a loaded script",
    "a script in a wrapper",
    "a script's method",
    "a script function",
    "packed weights",
    "packed recurrent weights",
    "packed weights in a closure",
    "a private module",
    "modules in a private dict",
    "state beside buffers",
    "a parametrized weight",
    "a spectral norm",
    "a weight norm",
    "a pruned weight",
    "a compiled module",
    "an exported module",
]


@pytest.mark.parametrize("name", WEIGHED)
def test_weights_are_what_a_model_has_learnt(name):
    one, equal, other = (weights(built(name, k)) for k in (1, 1, 2))
    assert one == equal != other


def test_weights_have_a_place():
    one, two = linear(1), linear(2)
    assert weights(torch.nn.Sequential(one, two)) != weights(torch.nn.Sequential(two, one))
    assert weights(one, two) != weights(two, one)
    assert weights(torch.compile(one, backend="eager")) == weights(one)
    assert weights(scaled(1, one)) == weights(scaled(2, one)) == weights(one)


class Lazy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear(1)
        self._left, self._by_size, self._positions, self.count = None, {}, None, 0
        self.register_buffer("early", None, persistent=False)

    @property
    def positions(self):
        if self._positions is None:
            self._positions = torch.linspace(0.0, 1.0, 3)
        return self._positions

    @functools.cached_property
    def mask(self):
        return torch.ones(3)

    def keep(self, x):
        self._left = self.features = x
        setattr(self, "named", torch.zeros(3))  # noqa: B010
        self.register_buffer("late", torch.zeros(3), persistent=False)
        self.early = torch.zeros(3)

    def forward(self, z):
        self.count += 1
        x = self.layer(z) + self.positions * self.mask
        self._by_size[len(z)] = torch.zeros(len(z))
        self.keep(x)
        return x


CALLS = 0


def counted(z):
    global CALLS
    CALLS += 1
    return z


class Slotted:
    __slots__ = ("count", "last")

    def __init__(self):
        self.count = 0

    def __call__(self, z):
        self.count, self.last = self.count + 1, z
        return z


def counting():
    count = 0

    def function(z):
        nonlocal count
        count += 1
        return z

    return function


def normed():
    norm = old_norm(1)
    state = norm.state_dict()
    state["weight_orig"] = 2.0 * state["weight_orig"]
    norm.load_state_dict(state)  # which leaves the old weight until the first call
    return torch.nn.Sequential(norm, torch.nn.BatchNorm1d(3)).eval()


RUN = {
    "caches": Lazy,
    "slots": Slotted,
    "a counter": counting,
    "a global counter": lambda: counted,
    "a spectral norm": normed,
    "a pruned weight": lambda: built("a pruned weight", 1),
    "a compiled module": lambda: torch.compile(linear(1), backend="eager"),
    "TorchScript": lambda: built("a loaded script", 1),
    "an exported module": lambda: built("an exported module", 1),
    "packed weights": lambda: built("packed weights", 1),
}


@pytest.mark.parametrize("build", RUN.values(), ids=RUN)
def test_a_call_leaves_the_sha256_as_it_was(build):
    generator = build()
    gan = GAN(generator, lambda x: x.sum(1), 3)
    before = gan.sha256()
    z = ops.normal(Rng(0), 10, 3)
    gan.logits(z)
    assert gan.sha256() == before
    with torch.no_grad():
        generator(z)
    gan = GAN(generator, lambda x: x.sum(1), 3)
    assert gan.sha256() == before


def test_what_hooks_leave_in_a_run_is_known_by_its_marks():
    layer = linear(1)
    layer.register_forward_hook(lambda module, z, x: setattr(module, "_".join("ab"), x))
    gan = GAN(layer, lambda x: x.sum(1), 3)
    before = gan.sha256()
    for call in (gan.logits, gan.gradients):
        call(ops.normal(Rng(0), 10, 3))
        assert layer.a_b is not None
        assert gan.sha256() == before


def test_a_model_that_is_built_in_inference_mode_counts_whole():
    def build(mean):
        with torch.inference_mode():
            norm = torch.nn.BatchNorm1d(3)
            norm.running_mean.fill_(mean)
        return norm

    assert sha256(build(1)) == sha256(build(1)) != sha256(build(2))


def test_modules_in_wrappers_are_put_in_eval_mode():
    generator, critic = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2)
    GAN(lambda z: generator(z), functools.partial(lambda net, x: net(x), critic), 2)
    assert not generator.training
    assert not critic.training


@pytest.mark.parametrize("name", ["a private module", "modules in a private dict", "TorchScript"])
def test_hidden_modules_are_put_in_eval_mode(name):
    model = built(name, 1).train()
    held = {"a private module": lambda: model._held, "TorchScript": lambda: [model]}
    (inner,) = held.get(name, lambda: model._held.values())()
    inner.train()
    GAN(model, torch.sum, 3)
    assert not inner.training


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
